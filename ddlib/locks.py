"""Named locks of this host and user that the kernel frees when their holder dies, and notes made once per workflow run.

Locks are `flock`s on files of one folder, `/tmp/ddlib-<uid>` unless DDLIB_LOCK_DIR says otherwise. Not XDG_RUNTIME_DIR
(it goes at logout, while jobs run on) nor TMPDIR (Snakemake sets it per job): all processes must meet in one place.
Files are never deleted; a lock on the folder itself keeps systemd-tmpfiles from doing so.
"""

import fcntl
import os
import re
import time
from pathlib import Path

STAMPS_KEPT_S = 30 * 24 * 3600.0


def lock_folder(given: Path | None = None) -> Path:
    """The folder of the locks, made if need be; ValueError if it belongs to somebody else."""
    folder = Path(given or os.environ.get("DDLIB_LOCK_DIR") or f"/tmp/ddlib-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ValueError(f"{folder} belongs to another user; set DDLIB_LOCK_DIR to a folder of your own on this host")
    return folder


class Locks:
    """Takes several locks of a kind at once or none; `close` or the end of the process frees them.

    A forked child keeps them alive (one that executes another program does not), so that a GPU is not given away under
    the workers of a killed job.
    """

    def __init__(self, kind: str, folder: Path | None = None):
        self.kind, self.folder = kind, lock_folder(folder)
        self._in_use = os.open(self.folder, os.O_RDONLY)
        fcntl.flock(self._in_use, fcntl.LOCK_SH)
        self._held: dict[str, int] = {}

    def take(self, names: list[str], count: int) -> list[str] | None:
        """Lock the first `count` free ones of `names`; None (and nothing held) if fewer are free."""
        gate = self._open("allocator")
        try:
            fcntl.flock(gate, fcntl.LOCK_EX)
            for name in names:
                if len(self._held) < count:
                    self._try(name)
            if len(self._held) == count:
                return list(self._held)
            self._free()
            return None
        finally:
            os.close(gate)

    def holders(self, names: list[str]) -> list[str]:
        """Process ids noted by those that hold or last held the locks: for messages."""
        paths = [self._path(name) for name in names]
        return sorted({path.read_text().strip() for path in paths if path.exists()} - {""})

    def close(self) -> None:
        """Free all."""
        self._free()
        if self._in_use >= 0:
            os.close(self._in_use)
            self._in_use = -1

    def _try(self, name: str) -> None:
        handle = self._open(name)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._held[name] = handle

    def _free(self) -> None:
        for handle in self._held.values():
            fcntl.flock(handle, fcntl.LOCK_UN)  # also for children forked meanwhile
            os.close(handle)
        self._held = {}

    def _open(self, name: str) -> int:
        return os.open(self._path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.kind}-{re.sub(r'[^A-Za-z0-9.-]', '_', name)}.lock"


def once(note: str, folder: Path | None = None) -> bool:
    """True for the first process of a workflow run that asks; always True outside a workflow."""
    run = workflow_run()
    if run is None:
        return True
    folder = lock_folder(folder)
    for stamp in folder.glob("*.said"):
        if time.time() - stamp.stat().st_mtime > STAMPS_KEPT_S:
            stamp.unlink(missing_ok=True)
    try:
        os.close(os.open(folder / f"{note}-{run}.said", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    return True


def workflow_run() -> str | None:
    """Process id and start time of the outermost Snakemake above this process; None if there is none (or no /proc)."""
    found, pid = None, os.getppid()
    while pid > 1:
        try:
            after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:4]
        except OSError:
            break
        if any(word.rpartition(b"/")[2] == b"snakemake" for word in words):
            found = f"{pid}-{after_name[19]}"
        pid = int(after_name[1])
    return found
