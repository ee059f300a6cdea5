"""The single operations of differentiable siamese augmentation, as pure functions of images and drawn numbers.

Images are [N, C, H, W] and already normalised, so a fill of 0 is the mean colour. A drawn number is a 0-d tensor,
shared by the batch, or [N], one an image; every `u` is uniform in [0, 1). All are affine in the image, take any float
type, and hold no host synchronisation, so ``torch.func`` and ``torch.compile`` take them whole.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CROP = 0.125
CUTOUT = 0.5
SCALE = 1.2
DEGREES = 15.0


def crop_limit(side: int) -> int:
    """Largest crop shift, in pixels, of an image side of `side` pixels."""
    return int(side * CROP + 0.5)


def cutout_side(side: int) -> int:
    """Length, in pixels, of the cut-out along an image side of `side` pixels."""
    return int(side * CUTOUT + 0.5)


def _per_image(u: Tensor, x: Tensor) -> Tensor:
    """0-d or [N] -> [1 or N, 1, 1, 1] in the type of `x`."""
    return u.to(x.dtype).reshape(-1, 1, 1, 1)


def brightness(x: Tensor, u: Tensor) -> Tensor:
    """Add u - 0.5."""
    return x + (_per_image(u, x) - 0.5)


def saturation(x: Tensor, u: Tensor) -> Tensor:
    """Scale each pixel's distance from its own mean over channels by 2 u."""
    mean = x.mean(1, keepdim=True)
    return (x - mean) * (2 * _per_image(u, x)) + mean


def contrast(x: Tensor, u: Tensor) -> Tensor:
    """Scale the distance from the image's mean by u + 0.5."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (_per_image(u, x) + 0.5) + mean


def flip(x: Tensor, u: Tensor) -> Tensor:
    """Mirror left and right where u < 0.5."""
    return torch.where(u.reshape(-1, 1, 1, 1) < 0.5, x.flip(3), x)


def _lines(length: int, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Source line of each line after a shift, clamped, and whether it lies inside: both [1 or N, length]."""
    source = torch.arange(length, device=shift.device) + shift.reshape(-1, 1)
    return source.clamp(0, length - 1), (source >= 0) & (source < length)


def crop(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Pixel (r, c) <- pixel (r + rows, c + cols); 0 where that lies outside. Integer shifts."""
    n, channels, height, width = x.shape
    row, row_inside = _lines(height, rows)
    col, col_inside = _lines(width, cols)
    x = torch.gather(x, 2, row[:, None, :, None].expand(n, channels, height, width))
    x = torch.gather(x, 3, col[:, None, None, :].expand(n, channels, height, width))
    return x * (row_inside[:, None, :, None] & col_inside[:, None, None, :]).to(x.dtype)


def _band(length: int, centre: Tensor) -> Tensor:
    """[1 or N, length]: the lines a cut-out covers. Lines beyond the image count as its edge line (official rule)."""
    side = cutout_side(length)
    first = centre.reshape(-1, 1) - side // 2
    line = torch.arange(length, device=centre.device)
    return (line >= first.clamp(0, length - 1)) & (line <= (first + side - 1).clamp(0, length - 1))


def cutout(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Zero a box of half the image's sides around the centre (rows, cols), clipped at the borders."""
    box = _band(x.shape[2], rows)[:, None, :, None] & _band(x.shape[3], cols)[:, None, None, :]
    return x * (~box).to(x.dtype)


def _sample(x: Tensor, matrix: tuple[Tensor, Tensor, Tensor, Tensor], align: bool) -> Tensor:
    """Bilinear sampling, 0 outside, at ((a, b), (c, d)) @ (horizontal, vertical) in coordinates from -1 to 1."""
    height, width = x.shape[2:]
    vertical, horizontal = (_coordinates(side, align, x) for side in (height, width))
    a, b, c, d = (entry.to(x.dtype).reshape(-1, 1, 1) for entry in matrix)
    grid = torch.stack(
        (a * horizontal + b * vertical[:, None], c * horizontal + d * vertical[:, None]),
        dim=-1,
    )
    grid = grid.expand(x.shape[0], height, width, 2)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=align)


def _coordinates(side: int, align: bool, x: Tensor) -> Tensor:
    """Pixel centres along a side, from -1 to 1; `align`: the outer centres lie on -1 and 1, not the outer edges."""
    line = torch.arange(side, device=x.device, dtype=x.dtype)
    if align:
        return line * (2 / max(side - 1, 1)) - 1
    return (2 * line + 1) / side - 1


def scale(x: Tensor, u_x: Tensor, u_y: Tensor, align: bool) -> Tensor:
    """Zoom by 1/s along each axis, s uniform in [1/1.2, 1.2]."""
    s_x, s_y = (u * (SCALE - 1 / SCALE) + 1 / SCALE for u in (u_x, u_y))
    zero = torch.zeros_like(s_x)
    return _sample(x, (s_x, zero, zero, s_y), align)


def rotate(x: Tensor, u: Tensor, align: bool) -> Tensor:
    """Turn by (u - 0.5) * 30 degrees."""
    angle = (u - 0.5) * (2 * DEGREES * math.pi / 180)
    cos, sin = torch.cos(angle), torch.sin(angle)
    return _sample(x, (cos, -sin, sin, cos), align)
