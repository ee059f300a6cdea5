"""Images that stay on the host: too many for the device or for memory, read when they are asked for.

Stands where RealData otherwise has a tensor of images: same shape, same indexing, but what an index gives is read from
a memory-mapped file, or decoded from the image files, at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddlib.data.cache import mapped
from ddlib.data.decode import decode
from ddlib.data.index import Indexed, read_bytes, read_index
from ddlib.data.layout import root_of
from ddlib.data.resize import working

RESIDENT_MB = 4000.0
"""Images that take more than this stay on the host (machine setting `resident_mb`)."""

Read = Callable[[Tensor], Tensor]


class HostImages:
    """Images [N, C, H, W] uint8, read by `read` (int64 rows [n] -> uint8 [n, C, H, W]), of which it shows `rows`."""

    dtype, ndim, device = torch.uint8, 4, torch.device("cpu")

    def __init__(self, read: Read, rows: Tensor, size: tuple[int, int, int]) -> None:
        self._read, self._rows, self._size = read, rows, size

    @property
    def shape(self) -> torch.Size:
        """[N, C, H, W]."""
        return torch.Size((len(self._rows), *self._size))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """The images at `index` (int64 or bool [n], or a slice), on the CPU."""
        return self._read(self._rows[index.cpu() if isinstance(index, Tensor) else index])

    def take(self, keep: Tensor) -> HostImages:
        """The images that bool [N] marks; none is read."""
        return HostImages(self._read, self._rows[keep.cpu()], self._size)


def from_mapped(images: Tensor) -> HostImages:
    """Of a memory-mapped tensor uint8 [N, C, H, W]."""
    return HostImages(lambda rows: images[rows], torch.arange(len(images)), tuple(images.shape[1:]))  # type: ignore[arg-type]


def from_files(
    root: Path, index: list[Indexed], size: int, shorter: int | None, threads: int, labels: Tensor
) -> HostImages:
    """Of the files of a folder, decoded and brought to `size` (see :func:`working`) each time, in `threads` threads.

    ValueError if the index does not have the `labels`, or (when read) a file is missing or was changed.
    """
    if [file.label for file in index] != labels.tolist():
        raise ValueError(f"the index of {root} lists other images than the data set has. Prepare it again.")

    def one(row: int) -> Tensor:
        file = index[row]
        native = decode(read_bytes(root, file.path, file.sha256), str(root / file.path))
        return working(native, size, shorter)

    def read(rows: Tensor) -> Tensor:
        if not len(rows):
            return torch.zeros((0, 3, size, size), dtype=torch.uint8)
        if threads < 2:
            return torch.stack([one(row) for row in rows.tolist()])
        with ThreadPoolExecutor(threads) as pool:
            return torch.stack(list(pool.map(one, rows.tolist())))

    return HostImages(read, torch.arange(len(index)), (3, size, size))


def of_folder(
    manifest_path: Path, manifest: Mapping[str, Any], labels: Tensor, machine: Mapping[str, Any]
) -> Tensor | HostImages:
    """The images of the part of an image folder that `manifest`, read from its path, describes: uint8 [N, 3, H, W].

    Memory-mapped, a tensor up to the machine's `resident_mb`; or (`cache: false`) decoded whenever they are needed.
    """
    if "images" in manifest["files"]:
        images = mapped(manifest_path)
        return from_mapped(images) if images.nbytes > machine.get("resident_mb", RESIDENT_MB) * 1e6 else images
    spec, entry = manifest["spec"]["dataset"], manifest["files"]["index"]
    index = read_index(manifest_path.parent / entry["path"], entry["sha256"])
    shorter = spec.get("test_resize") if manifest_path.stem == "test" else None
    return from_files(root_of(spec, machine), index, int(spec["size"]), shorter, int(machine.get("threads", 1)), labels)
