"""Whether files from outside are still those that results were made from, cheaply enough to ask before every run.

Names, sizes and times are compared with what was noted when they were read; contents only of files that are newer by
their times, and of those no more than `HASHED` bytes. No torch here: the workflow asks while it plans.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ddlib.artifacts import read_manifest, read_sealed, sha256_file
from ddlib.data.layout import root_of
from ddlib.data.walk import IMAGES

WATCHED = 200_000  # files of a data set whose sizes and times are looked at: half a second a hundred thousand
HASHED = 64_000_000  # bytes of newer files whose contents are compared: a twentieth of a second

_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


def images(spec: Mapping[str, Any], machine: Mapping[str, Any], folder: str | Path) -> str:
    """In what the images of a data set differ from those read into `folder` (results/data/NAME); empty: in nothing.

    `spec`: the data set as its jobs are told. Empty, too, if it was not read yet, or is not on this machine: what was
    read is used then. OverflowError, which says so, if it has more than `WATCHED` images: those are not looked through.
    """
    indices = [Path(folder) / f"index_{part}.csv" for part in ("train", "test")]
    manifest = Path(folder) / "train.json"
    if not (manifest.exists() and all(index.exists() for index in indices)):
        return ""
    try:
        root = root_of(spec, machine)
    except ValueError:
        return ""
    read = {path: facts for index in indices for path, facts in _indexed(index)}
    if len(read) > WATCHED:
        raise OverflowError(f"{root} has {len(read):,} images, more than {WATCHED:,}: not looked through for changes")
    skipped = {path for part in ("train", "test") for path in _skipped(Path(folder) / f"{part}.json")}
    return _difference(root, read, skipped, min(index.stat().st_mtime for index in indices))


def _indexed(index: Path) -> Iterator[tuple[str, tuple[int, str]]]:
    """(path, (bytes, sha256)) of the rows of an index (ddlib/data/index.py)."""
    with open(index, **_TEXT) as handle:
        rows = csv.reader(handle)
        path, size, sha256 = map(next(rows).index, ("path", "bytes", "sha256"))
        yield from ((row[path], (int(row[size]), row[sha256])) for row in rows)


def _skipped(manifest: Path) -> list[str]:
    return list(read_manifest(manifest, "data")["result"].get("skipped", [])) if manifest.exists() else []


def _difference(root: Path, read: Mapping[str, tuple[int, str]], skipped: set[str], when: float) -> str:
    """Files added, removed, of another size, or newer than `when` and of another content."""
    there = dict(_there(root, {os.path.dirname(path) for path in read}))
    for what, paths in (("added", there.keys() - read.keys() - skipped), ("missing", read.keys() - there.keys())):
        if paths:
            return f"{len(paths)} {what}, such as {min(paths)}"
    known = {path: state for path, state in there.items() if path in read}
    newer = sorted(path for path, (size, time) in known.items() if time > when or size != read[path][0])
    left = HASHED
    for path in newer:
        size, sha256 = read[path]
        if there[path][0] == size:
            left -= size
            if left < 0:
                break  # so many newer files whose first ones are as they were: a copy
            if sha256_file(root / path) == sha256:
                continue
        return f"{path} is another one, {len(newer)} are newer or of another size"
    return ""


def _there(root: Path, folders: set[str]) -> Iterator[tuple[str, tuple[int, float]]]:
    """(path below `root`, (bytes, the later of its times)) of the images in the folders."""
    for folder in sorted(folders):
        if not (root / folder).is_dir():
            continue
        for entry in os.scandir(root / folder):
            if entry.name.lower().endswith(IMAGES) and not entry.name.startswith(".") and entry.is_file():
                state = entry.stat()
                yield (
                    f"{folder}/{entry.name}" if folder else entry.name,
                    (
                        state.st_size,
                        max(state.st_mtime, state.st_ctime),
                    ),
                )


def weights(file: str | Path, record: str | Path, manifest: str | Path) -> bool | None:
    """Whether the file that an observer's weights were read from is another one now; None if nobody noted which it was.

    `record`: the observer's `*.run.json`, which says the SHA-256; a file older than `manifest` is not read.
    """
    if not (Path(record).exists() and Path(manifest).exists() and Path(file).exists()):
        return None
    noted = read_sealed(record).get("weights_sha256")
    if noted is None:
        return None
    state = os.stat(file)
    if max(state.st_mtime, state.st_ctime) <= os.stat(manifest).st_mtime:
        return False
    return bool(sha256_file(file) != noted)
