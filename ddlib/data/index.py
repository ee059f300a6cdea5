"""The index of an image folder: every file that is an image of the data set, in the order of the rows.

A CSV with the columns `path` (relative to the data set's folder, with /), `bytes`, `sha256`, `label`, `width`,
`height` (native pixels) and `wnid` (the WordNet id of the class, where it has one). It lies beside the manifest, which
holds its hash.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from ddlib.artifacts import ArtifactError, sha256_file
from ddlib.data.decode import MOST_BYTES
from ddlib.writing import atomic_write


@dataclass(frozen=True)
class Indexed:
    """One image file: `path` relative to the data set's folder, its size in bytes and native pixels, its label."""

    path: str
    bytes: int
    sha256: str
    label: int
    width: int
    height: int
    wnid: str = ""


COLUMNS = tuple(field.name for field in fields(Indexed))
_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}  # names can be any bytes


def write_index(path: str | Path, files: Iterable[Indexed]) -> None:
    """Write the index atomically."""
    with atomic_write(path) as temporary, open(temporary, "w", **_TEXT) as handle:
        rows = csv.writer(handle, lineterminator="\n")
        rows.writerow(COLUMNS)
        rows.writerows(astuple(file) for file in files)


def read_index(path: str | Path, sha256: str | None = None) -> list[Indexed]:
    """Read what :func:`write_index` wrote. ArtifactError if it is missing, or not what its manifest describes."""
    if not Path(path).is_file():
        raise ArtifactError(f"{path} does not exist. Delete the manifest beside it to remake both.")
    if sha256 is not None and sha256_file(path) != sha256:
        raise ArtifactError(f"{path} is not the file its manifest describes. Delete both and run the workflow again.")
    with open(path, **_TEXT) as handle:
        rows = csv.reader(handle)
        if next(rows, None) != list(COLUMNS):
            raise ArtifactError(f"{path} is no index of images. Delete it and the manifest beside it.")
        return [_parsed(row) for row in rows]


def _parsed(row: Sequence[str]) -> Indexed:
    path, size, sha256, label, width, height, wnid = row
    return Indexed(path, int(size), sha256, int(label), int(width), int(height), wnid)


def read_bytes(root: Path, path: str, sha256: str | None = None) -> bytes:
    """The bytes of a file of the data set at `root`. ValueError if it is missing, enormous, or (`sha256`) another one
    than when the data set was prepared."""
    place = root / path
    try:
        size = place.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"{place} has {size / 1e6:.0f} MB: this is no image to train on; move it away")
        data = place.read_bytes()
    except OSError as error:
        raise ValueError(f"{place} cannot be read: {error.strerror}") from None
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(
            f"{place} was changed since the data set was prepared. Put it back, or delete results/data/<data set> and "
            "run the workflow again: what was made from these images is then made again"
        )
    return data
