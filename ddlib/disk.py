"""Bytes on disk, counted and readable."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

UNITS = ("B", "kB", "MB", "GB", "TB")


def files(path: str | Path) -> list[Path]:
    """Every file in a folder, or the file itself; none where there is nothing. Links are not followed."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        return sorted(entry for entry in path.rglob("*") if entry.is_file() or entry.is_symlink())
    return [path] if path.exists() or path.is_symlink() else []


def total(paths: Iterable[Path]) -> int:
    """Bytes of the files together."""
    return sum(path.lstat().st_size for path in paths)


def free(path: str | Path) -> int:
    """Bytes free where `path` is or would be."""
    path = Path(path).absolute()
    return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free


def check_room(path: str | Path, needed: float, what: str) -> None:
    """ValueError if `what` needs more bytes than are free where `path` is or would be."""
    if needed > (there := free(path)):
        raise ValueError(
            f"{what} take {readable(needed)} more, and {readable(there)} are free at {path}. Make room (`make du` says "
            "what results take), or keep fewer: `snapshots` of the pool says which epochs, `members` of the view "
            "how many networks"
        )


def readable(count: float) -> str:
    """Bytes for people, in powers of 1000: 950 B, 1.2 kB, 34.0 MB."""
    power = 0
    while count >= 999.5 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.{min(power, 1)}f} {UNITS[power]}"


def columns(rows: Iterable[tuple[str, ...]]) -> str:
    """Rows of text below each other; all but the first column to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([f"{first:{widths[0]}}", *cells]).rstrip())
    return "\n".join(lines)
