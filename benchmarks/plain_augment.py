"""Augmentation and decoding of the plain formulation (benchmarks/plain.py): normalised images [n, C, H, W]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Draws = Mapping[str, Any]
"""Numbers of one call of the augmentation: one for the batch (float or int), or a tensor [n], one an image."""


def _each(value: Any) -> Any:
    return value.reshape(-1, 1, 1, 1) if isinstance(value, Tensor) else value


def colour(x: Tensor, draws: Draws) -> Tensor:
    """Brightness, saturation and contrast by uniform numbers in [0, 1)."""
    x = x + (_each(draws["brightness"]) - 0.5)
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * (_each(draws["saturation"]) * 2) + grey
    level = x.mean(dim=[1, 2, 3], keepdim=True)
    found: Tensor = (x - level) * (_each(draws["contrast"]) + 0.5) + level
    return found


def _grid(n: int, rows: int, cols: int, device: torch.device) -> tuple[Tensor, ...]:
    lines = [torch.arange(length, device=device) for length in (n, rows, cols)]
    return torch.meshgrid(*lines, indexing="ij")


def _shift(value: Any) -> Any:
    return value.reshape(-1, 1, 1) if isinstance(value, Tensor) else value


def crop(x: Tensor, draws: Draws) -> Tensor:
    """Shift by whole pixels, 0 beyond the border: every pixel is fetched by its three indices."""
    n, _, height, width = x.shape
    down, right = int(height * 0.125 + 0.5), int(width * 0.125 + 0.5)
    image, row, col = _grid(n, height, width, x.device)
    row, col = row + _shift(draws["crop_rows"]) + down, col + _shift(draws["crop_cols"]) + right
    last = F.pad(x, (right, right, down, down)).permute(0, 2, 3, 1)
    return last[image, row, col].permute(0, 3, 1, 2).contiguous()


def cutout(x: Tensor, draws: Draws) -> Tensor:
    """Zero a box of half the sides around a centre; what lies beyond the border counts as the border."""
    n, _, height, width = x.shape
    rows, cols = int(height * 0.5 + 0.5), int(width * 0.5 + 0.5)
    image, row, col = _grid(n, rows, cols, x.device)
    row = (row + _shift(draws["cutout_rows"]) - rows // 2).clamp(0, height - 1)
    col = (col + _shift(draws["cutout_cols"]) - cols // 2).clamp(0, width - 1)
    mask = torch.ones(n, height, width, dtype=x.dtype, device=x.device)
    mask[image, row, col] = 0
    return x * mask.unsqueeze(1)


def draw(rng: np.random.Generator, x: Tensor, each: bool) -> Draws:
    """What one call of :func:`augment` needs: drawn on the host for the batch, or on the device for `each` image."""
    limits = {"crop_rows": x.shape[2] // 8, "crop_cols": x.shape[3] // 8}
    centres = {"cutout_rows": x.shape[2], "cutout_cols": x.shape[3]}
    if not each:
        drawn: dict[str, Any] = {name: rng.uniform() for name in ("brightness", "saturation", "contrast")}
        drawn |= {name: int(rng.integers(-limit, limit + 1)) for name, limit in limits.items()}
        return drawn | {name: int(rng.integers(0, side + 1)) for name, side in centres.items()}
    n = x.shape[0]
    drawn = {name: torch.rand(n, device=x.device) for name in ("brightness", "saturation", "contrast")}
    return drawn | {name: torch.randint(-s, s + 1, (n,), device=x.device) for name, s in limits.items()}


def decode(x: Tensor, factor: int) -> Tensor:
    """Images [n, C, H, W] cut into factor x factor cells, each enlarged to H x W, all first cells first."""
    height, width = x.shape[2] // factor, x.shape[3] // factor
    cells = []
    for i in range(factor):
        for j in range(factor):
            cell = x[:, :, i * height : (i + 1) * height, j * width : (j + 1) * width]
            cells.append(F.interpolate(cell, size=x.shape[2:], mode="bilinear", align_corners=False))
    return torch.cat(cells)
