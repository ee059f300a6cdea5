"""Random crops resized to one side, shuffled patches, colour jitter and lighting: what 224 px pipelines are made of.

All as pure functions of images [N, C, H, W] and drawn numbers, a batch at a time and on any device. A crop and its
resizing are two small matrices an image, so that a batch of different boxes is two batched products: no loop over
images, nothing for the host to wait for, whole under ``torch.compile``. The crop's rule is that of torchvision's
``RandomResizedCrop`` (0.29), the resizing that of its antialiased bilinear interpolation of floats.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TRIES = 10
SCALE, RATIO, SQUARE = (0.08, 1.0), (3 / 4, 4 / 3), (1.0, 1.0)
_GREY = (0.299, 0.587, 0.114)
# Principal components of ImageNet's colours (Krizhevsky et al. 2012): variances, and a direction a column.
_VARIANCES = (0.2175, 0.0188, 0.0045)
_DIRECTIONS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def crop_boxes(
    rng: np.random.Generator,
    n: int,
    height: int | np.ndarray,
    width: int | np.ndarray,
    scale: tuple[float, float] = SCALE,
    ratio: tuple[float, float] = RATIO,
) -> np.ndarray:
    """`n` random boxes int64 [n, 4] = (top, left, height, width), in pixels of images of `height` x `width` (or [n]).

    `scale`: least and largest share of the image's area; `ratio`: width to height, its logarithm uniform.
    """
    return boxes_of(rng.random((n, 2 * TRIES + 2)), height, width, scale, ratio)


def boxes_of(
    u: np.ndarray,
    height: int | np.ndarray,
    width: int | np.ndarray,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> np.ndarray:
    """The boxes [n, 4] that uniform numbers `u` [n, 2 * TRIES + 2] stand for: areas, shapes, then top and left.

    The first of ten tries that fits within the image is taken; if none does, the largest centred box of an allowed
    ratio. ValueError for images without pixels, a scale outside 0-1 or a ratio that is not positive.
    """
    height, width = (np.broadcast_to(np.asarray(side, dtype=np.int64), len(u)) for side in (height, width))
    if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]) or min(height.min(), width.min()) < 1:
        raise ValueError(
            f"crops need images of at least 1 px, shares of the area with 0 < least <= most <= 1 and ratios with "
            f"0 < least <= most, not {scale} and {ratio} of {height.min()} x {width.min()} px"
        )
    area = (height * width)[:, None] * (scale[0] + u[:, :TRIES] * (scale[1] - scale[0]))
    low, high = np.log(ratio)
    shape = np.exp(low + u[:, TRIES : 2 * TRIES] * (high - low))
    w, h = (np.rint(np.sqrt(found)).astype(np.int64) for found in (area * shape, area / shape))
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    first, any_fits = fits.argmax(1)[:, None], fits.any(1)
    w, h = (np.take_along_axis(side, first, 1)[:, 0] for side in (w, h))
    top, left = (
        np.floor(u[:, place] * (room + 1)).astype(np.int64) for place, room in ((-2, height - h), (-1, width - w))
    )
    tried = np.stack([top, left, h, w], axis=1)
    return np.where(any_fits[:, None], tried, _centred(height, width, ratio))


def _centred(height: np.ndarray, width: np.ndarray, ratio: tuple[float, float]) -> np.ndarray:
    """The largest centred box of each image with a ratio within the limits, int64 [n, 4]."""
    own = width / height
    h = np.where(own < ratio[0], np.rint(width / ratio[0]).astype(np.int64), height)
    w = np.where(own > ratio[1], np.rint(height * ratio[1]).astype(np.int64), width)
    return np.stack([(height - h) // 2, (width - w) // 2, h, w], axis=1)


def resize_weights(
    start: Tensor, length: Tensor, size_in: int, size_out: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """How much each of `size_in` lines counts in each of `size_out`: [n, size_out, size_in], rows sum to 1.

    `start`, `length` int64 [n]: which lines are cut out. Bilinear with antialiasing: a triangle as wide as the lines
    that one makes room for, at least one, cut off at the edge of the crop.
    """
    ratio = (length.to(dtype) / size_out)[:, None, None]
    line = torch.arange(size_in, device=start.device)[None, None, :] - start[:, None, None]
    centre = ratio * (torch.arange(size_out, device=start.device, dtype=dtype)[None, :, None] + 0.5)
    away = (line.to(dtype) + 0.5 - centre).abs() / ratio.clamp(min=1)
    weight = (1 - away).clamp(min=0) * ((line >= 0) & (line < length[:, None, None])).to(dtype)
    return weight / weight.sum(2, keepdim=True)


def resized_crop(x: Tensor, boxes: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The box [n, 4] = (top, left, height, width) of each image [n, C, H, W], resized to [n, C, size, size].

    `size`: pixels a side, or (height, width). A box of an image's own size leaves it as it is, to the bit.
    """
    rows, cols = (size, size) if isinstance(size, int) else size
    top, left, height, width = boxes.unbind(1)
    across = resize_weights(left, width, x.shape[3], cols, x.dtype)[:, None]
    down = resize_weights(top, height, x.shape[2], rows, x.dtype)[:, None]
    return down @ (x @ across.transpose(2, 3))


def shuffled_side(side: int, grid: int) -> int:
    """What :func:`shuffle` leaves of a side, in pixels. ValueError where a patch would have none."""
    if not 1 <= grid <= side:
        raise ValueError(f"an image side of {side} px cannot be cut into {grid} patches")
    return side // grid * grid


def shuffle(x: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Images [n, C, H, W] cut into a grid, whose columns and rows are put in the order of permutations [n, grid].

    Place j takes column (row) `columns[:, j]`. Lines beyond the last whole patch are dropped, as in the official code
    of RDED (LINs-lab/RDED @ 3f6453d): 224 px in a grid of three become 222.
    """
    for dim, order in ((3, columns), (2, rows)):
        patch = x.shape[dim] // order.shape[1]
        line = (order[:, :, None] * patch + torch.arange(patch, device=x.device)).flatten(1)
        place = line[:, None, None, :] if dim == 3 else line[:, None, :, None]
        sides = (x.shape[2], line.shape[1]) if dim == 3 else (line.shape[1], x.shape[3])
        x = torch.gather(x, dim, place.expand(*x.shape[:2], *sides))
    return x


def lighting(x: Tensor, amounts: Tensor) -> Tensor:
    """Images [n, 3, H, W] (shares 0-1) shifted along the main colours of ImageNet by `amounts` [n, 3] (PCA noise)."""
    directions = torch.tensor(_DIRECTIONS, dtype=x.dtype, device=x.device)
    variances = torch.tensor(_VARIANCES, dtype=x.dtype, device=x.device)
    return x + ((amounts.to(x.dtype) * variances) @ directions.T)[:, :, None, None]


def jitter(x: Tensor, amounts: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast and saturation of images [n, 3, H, W] (shares 0-1), each image in an order of its own.

    `amounts` [n, 3]: how far towards black, its mean grey and its grey image, in this order, negative: away from them.
    `order` int64 [n, 3]: which comes first, second, third. Nothing is clipped.
    """
    for place in range(3):
        kind = order[:, place].reshape(-1, 1, 1, 1)
        alpha = torch.gather(amounts.to(x.dtype), 1, order[:, place : place + 1]).reshape(-1, 1, 1, 1)
        grey = sum(share * x[:, c : c + 1] for c, share in enumerate(_GREY))
        assert isinstance(grey, Tensor)
        mean = grey.mean((2, 3), keepdim=True)
        target = torch.where(kind == 0, torch.zeros_like(grey), torch.where(kind == 1, mean.expand_as(grey), grey))
        x = x + alpha * (target - x)
    return x
