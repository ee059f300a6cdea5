"""The augmentation of 224 px pipelines, dialect ``crops``: what is drawn, and the order it is applied in.

Patches are shuffled, a random crop is resized to the image's side, flipped, its colours jittered, and lit. That of RDED
(Sun et al., "On the Diversity and Realism of Distilled Dataset", 2024, arXiv 2312.03526; LINs-lab/RDED @ 3f6453d) is
``shuffle_resized_flip``; IDC's on ImageNet (snu-mllab/Efficient-Dataset-Condensation @ ceac95a)
``resized_flip_jitter_lighting``. All one draw an image, of pixels as shares 0-1: before they are normalised.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ddlib.augment import ops
from ddlib.augment.crops import crop_boxes, jitter, lighting, resized_crop, shuffle, shuffled_side

GROUPS = ("shuffle", "resized", "flip", "jitter", "lighting")
# Colours move by at most this share towards or away from black, grey and the mean; deviation of the light's amounts.
JITTER, LIGHTING = 0.4, 0.1


def draw(
    groups: tuple[str, ...],
    grid: int,
    area: tuple[float, ...],
    rng: np.random.Generator,
    calls: tuple[int, ...],
    height: int,
    width: int,
    images: int | None,
) -> dict[str, np.ndarray]:
    """Draws of many calls, arrays of shape `calls` + (images,) + their own.

    `columns`, `rows` int64 [grid]: orders of patches; `box` int64 [4] of the shuffled image, and `flip` int64 (0:
    mirrored); `jitter` float64 [3] and `jitter_order` int64 [3]; `lighting` float64 [3]. What changes nothing is not
    drawn: a grid of one, and crops of all of a square image (RDED on CIFAR and Tiny-ImageNet). ValueError where one
    draw is asked for all images.
    """
    if images is None:
        raise ValueError("crops are drawn for each image: networks are trained with the dialect `crops`, not matched")
    shape = (*calls, images)
    drawn: dict[str, np.ndarray] = {}
    kept = (height, width)
    if "shuffle" in groups and grid > 1:
        kept = shuffled_side(height, grid), shuffled_side(width, grid)
        for axis in ("columns", "rows"):
            drawn[axis] = rng.permuted(np.broadcast_to(np.arange(grid), (*shape, grid)), axis=-1)
    least, most = area or (1 / grid, 1.0)
    if "resized" in groups and not (least == 1 and grid == 1 and height == width):
        boxes = crop_boxes(rng, int(np.prod(shape)), *kept, (least, most))
        drawn["box"] = boxes.reshape(*shape, 4)
    elif kept != (height, width):
        raise ValueError(
            f"a grid of {grid} leaves {kept[0]} x {kept[1]} of {height} x {width} pixels: augment with "
            "shuffle_resized, which makes them whole again"
        )
    if "flip" in groups:
        drawn["flip"] = rng.integers(2, size=shape)
    if "jitter" in groups:
        drawn["jitter"] = rng.uniform(-JITTER, JITTER, size=(*shape, 3))
        drawn["jitter_order"] = rng.permuted(np.broadcast_to(np.arange(3), (*shape, 3)), axis=-1)
    if "lighting" in groups:
        drawn["lighting"] = rng.normal(0.0, LIGHTING, size=(*shape, 3))
    return drawn


def apply(x: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
    """Images [n, C, H, W] (shares 0-1) as one call's draws, each [n, ...], show them."""
    height, width = int(x.shape[2]), int(x.shape[3])
    if x.shape[1] != 3 and ("jitter" in draws or "lighting" in draws):
        raise ValueError(f"jitter and lighting are of colours: these images have {x.shape[1]} channels, not 3")
    if "columns" in draws:
        x = shuffle(x, draws["columns"], draws["rows"])
    if "box" in draws:
        x = resized_crop(x, draws["box"], (height, width))
    if "flip" in draws:
        x = ops.flip(x, draws["flip"])
    if "jitter" in draws:
        x = jitter(x, draws["jitter"], draws["jitter_order"])
    return lighting(x, draws["lighting"]) if "lighting" in draws else x
