"""Files that are there as a whole or not at all, whatever is killed or full; and locks that die with their process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


class StorageError(OSError):
    """A file of ours could not be written: no room, or no right to."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path; on success it is flushed to disk and renamed to `path`, on any error removed.

    It lies in a folder of its own beside `path`, as libraries write under further names there (safetensors does). What
    killed processes left is removed by the next writing of the same path. Permissions are those of any new file
    (umask), whatever a library gives it: safetensors files are private. StorageError where the disk is full or may not
    be written.
    """
    path = Path(path)
    folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary = folder / path.name
    with storing(path):
        remove_abandoned(path)
        try:
            with locked(folder / "lock"):
                temporary.touch(exist_ok=False)
                permissions = temporary.stat().st_mode & 0o777
                yield temporary
                temporary.chmod(permissions)
                with open(temporary, "rb") as handle:
                    os.fsync(handle.fileno())
                os.replace(temporary, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(path: str | Path) -> None:
    """Remove what processes that were killed while they wrote `path` have left; what others write now stays."""
    path = Path(path)
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        gone = contextlib.suppress(FileNotFoundError, NotADirectoryError, FileExistsError)  # meanwhile
        with gone, locked(folder / "lock", blocking=False) as mine:
            if mine:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def storing(path: str | Path) -> Iterator[None]:
    """An error of the storage while `path` is written, as one StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL | _FORBIDDEN:
            raise
        raise StorageError(error.errno, _storage(path, error)) from error


def _storage(path: str | Path, error: OSError) -> str:
    """What to say of a file that could not be written."""
    if error.errno in _FULL:
        return (
            f"{path} could not be written ({error.strerror}): the disk is full, or a quota is reached. Make room (make "
            "du shows what takes it) and run again: what is finished stays, a job goes on from its checkpoint."
        )
    user = os.environ.get("USER") or f"user {os.getuid()}"
    return (
        f"{path} may not be written by {user} ({error.strerror}). Give yourself the right to, or work in a copy of the "
        "results; nothing was changed."
    )


def write_text(path: str | Path, text: str) -> None:
    """Write `text` atomically (UTF-8)."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def locked(path: str | Path, blocking: bool = True) -> Iterator[bool]:
    """Hold an exclusive flock on `path`; yields False instead of waiting when `blocking` is off and it is taken.

    The kernel frees it when the process dies, however it dies.
    """
    while True:
        with storing(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            if _is_at(handle, path):  # else its former holder deleted it meanwhile: others would lock another file
                yield True
                return
        finally:
            os.close(handle)


def _is_at(handle: int, path: str | Path) -> bool:
    """Whether the open file is the one that is at `path` now."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
