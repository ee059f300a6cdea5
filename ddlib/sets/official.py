"""Official synthetic images as a set: the ``images_best.pt`` and ``labels_best.pt`` of MTT's and PDD's distillation.

Tensors as saved by GeorgeCazenavette/mtt-distillation @ 50dccea: images float [N, C, H, W] as the network saw them,
normalised or, with ZCA, whitened; labels int [N]. What space they are in the file does not say, so it is an argument.
Normalised pixels become shares (x * std + mean), not clipped: what sets of ours hold, and students are scored on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddlib.sets.synthetic import SyntheticSet
from ddlib.torch_files import load_plain

BEYOND = 0.1
"""How far outside 0-1 shares may lie (and are clipped): a last step of gradient descent, not another space."""


def read_official(
    images: str | Path,
    labels: str | Path,
    data: Mapping[str, Any],
    space: str,
    step_size: float | None = None,
    factor: int = 1,
) -> SyntheticSet:
    """The set of the two files, class by class.

    `data`: facts of the real data (a data manifest's result: name, shape, class_names, mean, std, whitening); `space`:
    unit, normalised or whitened; `step_size`: the learned learning rate of students, where there is one. ValueError
    with numbers where files and data do not agree.
    """
    if (space == "whitened") is not bool(data.get("whitening")):
        raise ValueError(
            f"{space} pixels are not those of a data set {'with' if data.get('whitening') else 'without'} whitening: "
            "name the data set (--dataset) whose whitening is that of the images"
        )
    pixels, numbers = (_tensor(path) for path in (images, labels))
    _check(pixels, numbers, data, images, labels)
    pixels, numbers = pixels.detach().float(), numbers.detach().long()
    if space == "unit":
        pixels = _shares(pixels, images)
    elif space == "normalised":
        mean, std = (torch.tensor(data[name]).reshape(1, -1, 1, 1) for name in ("mean", "std"))
        pixels = pixels * std + mean
    order = torch.argsort(numbers, stable=True)
    return SyntheticSet(
        images=pixels[order].contiguous(),
        labels=numbers[order],
        stage=torch.zeros_like(numbers),
        factor=factor,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        class_names=tuple(data["class_names"]),
        name=data["name"],
        space="whitened" if space == "whitened" else "unit",
        whitening=data.get("whitening"),
        step_size=None if step_size is None else torch.tensor([step_size]),
    )


def _tensor(path: str | Path) -> Tensor:
    found = load_plain(path)
    if not isinstance(found, Tensor):
        raise ValueError(
            f"{path} holds a {type(found).__name__}, not one tensor as images_best.pt and labels_best.pt do"
        )
    return found


def _check(pixels: Tensor, numbers: Tensor, data: Mapping[str, Any], images: str | Path, labels: str | Path) -> None:
    shape = list(data["shape"][1:])
    if pixels.ndim != 4 or list(pixels.shape[1:]) != shape or not pixels.is_floating_point():
        raise ValueError(
            f"{images} holds {pixels.dtype} {list(pixels.shape)}, images of {data['name']} are floats [N, "
            f"{', '.join(map(str, shape))}]"
        )
    if not bool(torch.isfinite(pixels).all()):
        raise ValueError(f"{images} holds values that are no numbers: that distillation diverged")
    if numbers.ndim != 1 or len(numbers) != len(pixels) or numbers.is_floating_point():
        raise ValueError(
            f"{labels} holds {numbers.dtype} {list(numbers.shape)}, not one class number for each of the {len(pixels)} "
            "images"
        )
    counts = torch.bincount(numbers.clamp(min=0).long(), minlength=len(data["class_names"])).tolist()
    if int(numbers.min()) < 0 or len(counts) > len(data["class_names"]):
        raise ValueError(
            f"{labels} has labels {int(numbers.min())}-{int(numbers.max())}, {data['name']} has the classes 0-"
            f"{len(data['class_names']) - 1}"
        )
    if len(set(counts)) > 1:
        raise ValueError(f"{labels} has {min(counts)} to {max(counts)} images per class: it must be the same for all")


def _shares(pixels: Tensor, images: str | Path) -> Tensor:
    """Clipped to 0-1. ValueError where they are far from it."""
    low, high = float(pixels.min()), float(pixels.max())
    if low < -BEYOND or high > 1 + BEYOND:
        raise ValueError(
            f"{images} holds values from {low:.2f} to {high:.2f}, which are no shares 0-1: without ZCA MTT saves "
            "normalised pixels (--space normalised), with it whitened ones (--space whitened)"
        )
    return pixels.clamp(0, 1)
