"""Named locks of this host and user that the kernel frees when their holder dies, and notes made once per workflow run.

Locks are `flock`s on files of one folder, `/tmp/ddlib-<uid>` unless DDLIB_LOCK_DIR says otherwise. Not XDG_RUNTIME_DIR
(it goes at logout, while jobs run on) nor TMPDIR (Snakemake sets it per job): all processes must meet in one place.
Files of locks are never deleted; a lock on the folder itself keeps systemd-tmpfiles from doing so.

Those that wait stand in a queue, or a job of two GPUs would wait for ever while others take each GPU that becomes free.
A place is a file too, locked by who waits: one that is not locked is that of a dead process, and is removed.
"""

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STAMPS_KEPT_S = 30 * 24 * 3600.0


def lock_folder(given: Path | None = None) -> Path:
    """The folder of the locks, made if need be; ValueError if it belongs to somebody else."""
    folder = Path(given or os.environ.get("DDLIB_LOCK_DIR") or f"/tmp/ddlib-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ValueError(f"{folder} belongs to another user; set DDLIB_LOCK_DIR to a folder of your own on this host")
    return folder


class Locks:
    """Takes several locks of a kind at once or none, in turn; `close` or the end of the process frees them.

    A forked child keeps them alive (one that executes another program does not), so that a GPU is not given away under
    the workers of a killed job.
    """

    def __init__(self, kind: str, folder: Path | None = None):
        self.kind, self.folder = kind, lock_folder(folder)
        self._in_use = os.open(self.folder, os.O_RDONLY)
        fcntl.flock(self._in_use, fcntl.LOCK_SH)
        self._held: dict[str, int] = {}
        self._place: tuple[Path, int] | None = None  # in the queue: the file and its handle

    def take(self, names: list[str], count: int, queue: bool = False) -> list[str] | None:
        """Lock the first `count` free ones of `names` that nobody waits for longer; None (and nothing held) if fewer
        are free. With `queue`, who gets None waits from then on, until it gets them or closes."""
        with self._alone():
            wanted: set[str] = set()
            for waiting in self._ahead():
                wanted.update(waiting["names"])
                if wanted.issuperset(names):
                    break
            for name in names:
                if len(self._held) < count and name not in wanted:
                    self._try(name)
            if len(self._held) == count:
                self._leave_queue()
                return list(self._held)
            self._free()
            if queue and self._place is None:
                self._queue(names)
            return None

    def holders(self, names: list[str]) -> list[str]:
        """Process ids of those that hold the locks, as they noted them: for messages."""
        with self._alone():
            paths = [self._path(name) for name in names]
            return sorted({path.read_text().strip() for path in paths if path.exists() and _is_locked(path)} - {""})

    def ahead(self, names: list[str]) -> list[str]:
        """Process ids of those that wait longer for some of the locks."""
        with self._alone():
            return [str(waiting["pid"]) for waiting in self._ahead() if not {*names}.isdisjoint(waiting["names"])]

    def close(self) -> None:
        """Free all, and wait no more."""
        self._free()
        if self._place is not None:
            with self._alone():
                self._leave_queue()
        if self._in_use >= 0:
            os.close(self._in_use)
            self._in_use = -1

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others from looking meanwhile."""
        gate = self._open("allocator")
        try:
            fcntl.flock(gate, fcntl.LOCK_EX)
            yield
        finally:
            os.close(gate)

    def _queue(self, names: list[str]) -> None:
        """Stand behind all that wait."""
        last = max((int(path.stem.rpartition("-")[2]) for path in self._places()), default=0)
        path = self.folder / f"{self.kind}-{last + 1:09d}.waits"
        self._place = path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._place[1], fcntl.LOCK_EX)
        os.pwrite(self._place[1], json.dumps({"pid": os.getpid(), "names": names}).encode(), 0)

    def _leave_queue(self) -> None:
        if self._place is not None:
            path, handle = self._place
            path.unlink(missing_ok=True)
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)
            self._place = None

    def _places(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.kind}-*.waits"))

    def _ahead(self) -> Iterator[dict[str, Any]]:
        """What those wait for that came before, the longest first. The places of dead processes are removed."""
        for path in self._places():
            if self._place is not None and path == self._place[0]:
                return
            if _is_locked(path):
                yield json.loads(path.read_text())
            else:
                path.unlink()

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


def _is_locked(path: Path) -> bool:
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


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
