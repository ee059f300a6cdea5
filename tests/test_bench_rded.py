"""The benchmark of RDED's scoring: its baseline computes what ddlib computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from benchmarks import rded
from ddlib import nn as networks
from ddlib.sets import candidates
from ddlib.sets.realism import score_crops


def test_the_loop_over_classes_finds_the_same_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same boxes: of crops drawn at random by either, the distribution is the same."""
    rng = np.random.default_rng(0)
    for label in range(2):
        (tmp_path / f"class{label}").mkdir()
        for i in range(3):
            picture = rng.integers(0, 256, (110, 120, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / f"class{label}" / f"{i}.png")
    boxes = np.array([[0, 5, 100, 100], [30, 20, 41, 41]])
    turn = {"at": 0}

    def next_box(*_: object) -> tuple[int, ...]:
        turn["at"] += 1
        return tuple(boxes[(turn["at"] - 1) % 2].tolist())

    monkeypatch.setattr(transforms.RandomResizedCrop, "get_params", staticmethod(next_box))
    monkeypatch.setattr(candidates, "drawn_boxes", lambda *given: boxes)
    native = rded.Folder(tmp_path, 3)
    options = {"architecture": "convnet", "depth": 2, "width": 4, "norm": "batch"}
    net = networks.build(options, channels=3, size=32, classes=2, seed=0).eval()
    how = {"size": 32, "factor": 2, "crops": 2, "mipc": 3}
    theirs = rded.per_class(native, net, **how)
    ours = score_crops(native, rded.data_of(native, 32), net, classes=[0, 1], seed=0, **how)  # type: ignore[arg-type]
    assert len(set(theirs.flatten().tolist())) == 6
    torch.testing.assert_close(ours.score, theirs, rtol=1e-5, atol=1e-5)
