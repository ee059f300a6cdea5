"""Native images of data sets that have one size only (those of folders: test_folder.py)."""

from __future__ import annotations

from pathlib import Path

import torch

from ddlib.data import digits
from ddlib.data.native import open_native
from ddlib.data.real import RealData

SPEC = {
    "source": "digits", "classes": 10, "size": 8, "channels": 1, "order": "official", "heldout": 0.1, "mean": [0.3],
    "std": [0.4], "flip": False,
}  # fmt: skip


def test_native_digits_are_the_stored_ones(tmp_path: Path) -> None:
    train, _ = digits.load(SPEC, {})
    path = train.save(tmp_path, "train", {"dataset": SPEC})
    native = open_native(path, RealData.load(path), {})
    assert native.scale == 16.0
    assert torch.equal(native.labels, train.labels)
    assert torch.equal(native.heldout, train.heldout)
    assert len(native.names) == len(train.labels)
    assert (native.read(3).dtype, native.read(3).shape) == (torch.uint8, (1, 8, 8))
    assert torch.equal(torch.stack([native.read(i) for i in (5, 0)]), train.tensors()["images"][[5, 0]])
