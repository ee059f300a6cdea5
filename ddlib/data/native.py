"""Images as they came, in their native size: what crops are cut from.

A data set's RealData holds images of one working size. Selection by crops (RDED) starts from the pixels of the files:
:func:`open_native` gives them one by one, decoded anew each time, so that nothing but the images at work is in memory.
Of data sets that have one size only, native and working images are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ddlib.artifacts import read_manifest
from ddlib.data.decode import decode
from ddlib.data.index import Indexed, read_bytes, read_index
from ddlib.data.real import RealData


class Native(Protocol):
    """The native images of a training part: as many, in the same order, as RealData has before its `fit()`.

    `labels` int64 [N] and `heldout` bool [N], on the CPU; `names`: how each image is called, for people; `scale`: the
    value of white (a pixel is read / scale, a share 0-1).
    """

    labels: Tensor
    heldout: Tensor
    names: tuple[str, ...]
    scale: float

    def read(self, i: int) -> Tensor:
        """Image `i`, uint8 [C, H, W] on the CPU; may be called from several threads."""
        ...


class Stored:
    """Native images that are held as a tensor already (digits, CIFAR)."""

    def __init__(self, data: RealData) -> None:
        self._images = data.images
        self.labels, self.heldout = data.labels.cpu(), data.heldout.cpu()
        self.names = tuple(f"{data.name} {i}" for i in range(len(data.labels)))
        self.scale = data.scale

    def read(self, i: int) -> Tensor:
        """Image `i`, uint8 [C, H, W]."""
        return self._images[slice(i, i + 1)][0].cpu()


class Files:
    """Native images in files under `root`, as `index` lists them; each is compared with its hash when it is first
    read."""

    scale = 255.0

    def __init__(self, root: Path, index: list[Indexed], labels: Tensor, heldout: Tensor) -> None:
        if [file.label for file in index] != labels.tolist():
            raise ValueError(f"the index of {root} lists other images than the data set has. Prepare it again.")
        self.root, self.index = root, index
        self.labels, self.heldout = labels.cpu(), heldout.cpu()
        self.names = tuple(file.path for file in index)
        self._seen = torch.zeros(len(index), dtype=torch.bool)

    def read(self, i: int) -> Tensor:
        """Image `i`, uint8 [3, H, W]. ValueError if its file is missing, damaged or not the one that was indexed."""
        file = self.index[i]
        data = read_bytes(self.root, file.path, None if self._seen[i] else file.sha256)
        self._seen[i] = True
        return decode(data, str(self.root / file.path))


def open_native(train_manifest: str | Path, data: RealData, machine: Mapping[str, Any]) -> Native:
    """The native images of the training part `data`, which was read from `train_manifest` (before its `fit()`).

    ValueError if the data set is a folder that is not where `machine["data_dir"]` and its `path` say.
    """
    manifest = read_manifest(train_manifest, "data")
    if "index" not in manifest["files"]:
        return Stored(data)
    from ddlib.data.layout import root_of

    entry = manifest["files"]["index"]
    index = read_index(Path(train_manifest).parent / entry["path"], entry["sha256"])
    return Files(root_of(manifest["spec"]["dataset"], machine), index, data.labels, data.heldout)
