"""Multi-formation: several small images packed in one stored image, decoded by cutting and enlarging.

Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization" (2022, arXiv 2205.14959),
snu-mllab/Efficient-Dataset-Condensation (ceac95a). The same layout serves RDED's stitching. Functions take the images
of one class; "single" and "multi" may also be given many classes (the output is cell-major over all rows).

**Differs**: `bound` with a limit below the number of images is refused (the official rule then goes negative).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ddlib import registry

KINDS = ("single", "multi", "bound")
MODES = ("nearest", "bilinear", "area")
# What fills a decoded image's missing lines, by pixel space: grey, as published, or the mean image.
FILLS = {"unit": 0.5, "normalised": 0.0, "whitened": 0.0}


def bound_plan(n: int, factor: int, limit: int) -> list[tuple[int, int]]:
    """[(factor, images)]: how the leading images of a class of `n` share factors so that at most `limit` come out.

    Greedy from the largest factor down; factors that get no image are left out.
    """
    if limit < n:
        raise ValueError(
            f"a decode bound of {limit} is below the {n} images stored per class: raise the bound to at least {n}, "
            "or decode with `single`."
        )
    plan, decoded, left = [], 0, n
    for k in range(factor, 0, -1):
        images = left if k == 1 else min((limit - decoded - left) // k**2, left)
        if images > 0:
            plan.append((k, images))
            decoded, left = decoded + images * k * k, left - images
    return plan


def plan(n: int, factor: int, kind: str = "single", limit: int | None = None) -> list[tuple[int, int, int]]:
    """[(factor, first image, past the last image)]: the decodes that are concatenated for `n` stored images."""
    if factor < 1:
        raise ValueError(f"the multi-formation factor is at least 1, not {factor}.")
    if kind == "single":
        return [(factor, 0, n)]
    if kind == "multi":
        return [(k, 0, n) for k in range(1, factor + 1)]
    if kind != "bound":
        raise ValueError(f"no decode is called {kind!r}: {registry.nearest(kind, KINDS)}")
    if limit is None:
        raise ValueError("the decode `bound` needs a limit: the most images a class may decode to.")
    parts, start = [], 0
    for k, images in bound_plan(n, factor, limit):
        parts.append((k, start, start + images))
        start += images
    return parts


def decode(x: Tensor, factor: int, kind: str = "single", limit: int | None = None, space: str = "unit") -> Tensor:
    """Stored images [n, C, H, W] of a pixel space -> decoded images [m, C, H, W]; differentiable.

    A side that `factor` does not divide is padded at its end with 0.5 (0 where pixels are centred: FILLS); each cell of
    ceil(side / factor) is enlarged bilinearly to [H, W]. All images' cell (0, 0) come first, then all cell (0, 1), ...
    """
    parts = [_single(x[first:last], k, FILLS[space]) for k, first, last in plan(x.shape[0], factor, kind, limit)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def decode_labels(labels: Tensor, factor: int, kind: str = "single", limit: int | None = None) -> Tensor:
    """Labels [n] (or soft labels [n, classes]) of the images :func:`decode` gives."""
    parts = [
        labels[first:last].repeat(k * k, *[1] * (labels.ndim - 1))
        for k, first, last in plan(labels.shape[0], factor, kind, limit)
    ]
    return torch.cat(parts)


def decoded_count(n: int, factor: int, kind: str = "single", limit: int | None = None) -> int:
    """How many images :func:`decode` makes of `n`."""
    return sum((last - first) * k * k for k, first, last in plan(n, factor, kind, limit))


def _single(x: Tensor, factor: int, fill: float) -> Tensor:
    if factor == 1:
        return x
    n, channels, height, width = x.shape
    rows, cols = -(-height // factor), -(-width // factor)
    padding = (0, cols * factor - width, 0, rows * factor - height)
    if any(padding):
        x = F.pad(x, padding, value=fill)
    cells = x.reshape(n, channels, factor, rows, factor, cols).permute(2, 4, 0, 1, 3, 5)
    cells = cells.reshape(factor * factor * n, channels, rows, cols)
    return F.interpolate(cells, size=(height, width), mode="bilinear", align_corners=False)


def pack(images: Tensor, n: int, factor: int, mode: str = "nearest") -> Tensor:
    """Mix initialisation: images [n * factor^2, C, H, W] of one class -> `n` stored images [n, C, H, W].

    Cell k (row-major) of stored image q is image k * n + q, shrunk by `mode` (nearest, bilinear, area) to side
    side // factor, plus 1 for the first side mod factor rows or columns of cells (decode uses ceil: they may be
    misaligned by a pixel, as in the official code).
    """
    if mode not in MODES:
        raise ValueError(f"no resizing is called {mode!r}: {registry.nearest(mode, MODES)}")
    wanted = n * factor * factor
    if images.shape[0] != wanted:
        raise ValueError(
            f"{n} stored images at factor {factor} hold {wanted} images, but {images.shape[0]} were given. "
            "Lower the images per class or the factor if the class has no more."
        )
    return _laid(images, n, factor, (images.shape[2], images.shape[3]), mode)


def stitch(patches: Tensor, n: int, factor: int, size: int) -> Tensor:
    """RDED's stitching: patches [n * factor^2, C, s, s], best first -> `n` images [n, C, size, size].

    Cell k (row-major) of image i is patch k * n + i; of a size that factor does not divide, the first rows and columns
    of cells are a pixel larger (patches enlarged, nearest). Any dtype.
    """
    wanted = n * factor * factor
    if patches.shape[0] != wanted:
        raise ValueError(
            f"{n} images of {factor} x {factor} cells take {wanted} patches, {patches.shape[0]} were given"
        )
    return _laid(patches, n, factor, (size, size), "nearest")


def to_bytes(shares: Tensor) -> Tensor:
    """Shares 0-1 as uint8, rounded down as RDED's official code does; what is a whole number but for the last bits of a
    float stays what it is."""
    return (shares * 255 + 1e-4).clamp(0, 255).to(torch.uint8)


def through_jpeg(images: Tensor, quality: int = 75) -> Tensor:
    """Images uint8 [n, C, H, W] as they come back from JPEG files (4:2:0), as the official code of RDED stores its own.

    ValueError unless they have one channel or three.
    """
    from torchvision.io import decode_jpeg, encode_jpeg

    if images.shape[1] not in (1, 3):
        raise ValueError(f"a JPEG has 1 or 3 channels, these images have {images.shape[1]}: store them losslessly")
    return torch.stack([decode_jpeg(encode_jpeg(image.cpu(), quality)) for image in images]).to(images.device)


def to_shares(images: Tensor) -> Tensor:
    """Images as stored, as floats: bytes become shares 0-1, floats stay as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _laid(x: Tensor, n: int, factor: int, sides: tuple[int, int], mode: str) -> Tensor:
    """Cell k of image i is x[k * n + i], resized to the cell; images of `sides` (height, width)."""
    rows, cols = (_cell_sides(side, factor) for side in sides)
    lines = []
    for i, height in enumerate(rows):
        cells = []
        for j, width in enumerate(cols):
            k = i * factor + j
            cells.append(F.interpolate(x[k * n : (k + 1) * n], size=(height, width), mode=mode))
        lines.append(torch.cat(cells, dim=3))
    return torch.cat(lines, dim=2)


def _cell_sides(side: int, factor: int) -> list[int]:
    if side < factor:
        raise ValueError(f"images of {side} px cannot hold {factor} x {factor} cells: lower the factor.")
    return [side // factor + (index < side % factor) for index in range(factor)]
