"""The images of a data set in its working size, in one safetensors file that is written row by row.

The file is never in memory as a whole: written image by image, read memory-mapped. Its one tensor, `images` uint8 [N,
C, H, W], has a header of fixed length that is filled in at the end, when N is known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ddlib import disk
from ddlib.artifacts import ArtifactError, load_file, read_manifest
from ddlib.writing import atomic_write

SUFFIX = "_images.safetensors"
_HEADER = 248  # with the 8 bytes of its length, 256


def place(folder: str | Path, part: str) -> Path:
    """Where the images of `part` (train or test) of the data set in `folder` are."""
    return Path(folder) / f"{part}{SUFFIX}"


def check_room(folder: Path, needed: int, cache_gb: float) -> None:
    """ValueError if `needed` bytes more are above `cache_gb` with what other data sets beside `folder` keep, or above
    what the disk has."""
    others = disk.total(path for path in folder.parent.glob(f"*/*{SUFFIX}") if path.parent != folder)
    if needed + others > cache_gb * 1e9:
        raise ValueError(
            f"the images of {folder.name} in their working size take {disk.readable(needed)}, those of other data sets "
            f"{disk.readable(others)}, together more than machine.cache_gb: {cache_gb:g}. Raise it, choose a smaller "
            "`size`, delete data sets in results/data, or set the data set's `cache: false` (images are then decoded "
            "whenever they are needed)"
        )
    if needed > (there := disk.free(folder)):
        raise ValueError(
            f"the images of {folder.name} in their working size take {disk.readable(needed)}, and "
            f"{disk.readable(there)} are free at {folder}. Make room, choose a smaller `size`, or set `cache: false`"
        )


class Writer:
    """Images of one shape, one after the other, into an open file."""

    def __init__(self, handle: BinaryIO, shape: tuple[int, int, int]) -> None:
        self.handle, self.shape, self.count = handle, shape, 0
        handle.write(bytes(8 + _HEADER))

    def add(self, image: Tensor) -> None:
        """Append `image`, uint8 of the shape."""
        if image.dtype != torch.uint8 or tuple(image.shape) != self.shape:
            raise ValueError(f"images must be uint8 {list(self.shape)}, not {image.dtype} {list(image.shape)}")
        self.handle.write(image.contiguous().numpy().data)
        self.count += 1

    def finish(self) -> None:
        """Write the header, now that the number of images is known."""
        shape = [self.count, *self.shape]
        size = self.count * self.shape[0] * self.shape[1] * self.shape[2]
        header = json.dumps({"images": {"dtype": "U8", "shape": shape, "data_offsets": [0, size]}})
        self.handle.seek(0)
        self.handle.write(_HEADER.to_bytes(8, "little") + header.encode().ljust(_HEADER))


@contextmanager
def writer(path: Path, shape: tuple[int, int, int]) -> Iterator[Writer]:
    """A :class:`Writer` of the file at `path`, which appears there when all went well."""
    with atomic_write(path) as temporary, open(temporary, "wb") as handle:
        images = Writer(handle, shape)
        yield images
        images.finish()


def mapped(manifest_path: str | Path) -> Tensor:
    """The images that the manifest of a data set names: uint8 [N, C, H, W], memory-mapped, hash checked."""
    found, _ = load_file(manifest_path, read_manifest(manifest_path, "data"), "images")
    if list(found) != ["images"]:
        raise ArtifactError(f"the images of {manifest_path} are damaged. Delete the manifest to remake them.")
    return found["images"]
