"""Images of a batch mixed with each other: CutMix, where a box is replaced by that of another image, and MixUp, where
all pixels are averaged with those of another (Zhang et al., "mixup", 2017, arXiv 1710.09412).

Yun et al., "CutMix" (2019, arXiv 1905.04899), by the rule of snu-mllab/Efficient-Dataset-Condensation (ceac95a): the
box has sides int(side * sqrt(1 - lambda)) around a uniform centre, is clipped, loses a pixel where a side is odd, and
the labels are mixed by its true area. One box and one permutation a batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MIXES = ("cutmix", "mixup")


def cutmix_boxes(
    lam: np.ndarray, centre_rows: np.ndarray, centre_cols: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Boxes int64 [..., 4] = (r0, c0, r1, c1), half open, in pixels, for lambda in [0, 1] and centres in pixels."""
    share = np.sqrt(1.0 - np.asarray(lam, dtype=np.float64))
    edges = []
    for centre, length in ((centre_rows, height), (centre_cols, width)):
        half = (length * share).astype(np.int64) // 2
        edges.append((np.clip(centre - half, 0, length), np.clip(centre + half, 0, length)))
    (r0, r1), (c0, c1) = edges
    return np.stack([r0, c0, r1, c1], axis=-1).astype(np.int64)


def cutmix_ratio(box: np.ndarray, height: int, width: int) -> np.ndarray:
    """Share of the image that is kept, float64 [...], for boxes [..., 4]."""
    area = (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])
    return np.asarray(1.0 - area / (height * width), dtype=np.float64)


def cutmix_draw(
    rng: np.random.Generator,
    calls: tuple[int, ...],
    *,
    batch: int,
    height: int,
    width: int,
    probability: float,
    beta: float = 1.0,
) -> dict[str, np.ndarray]:
    """Draws of many calls: `box` int64 calls + (4,), `permutation` int64 calls + (batch,), `ratio` float64 calls.

    A call mixes with `probability` (0-1), with lambda from Beta(beta, beta); where it does not, the box is empty
    (0, 0, 0, 0) and the ratio 1.
    """
    _check(probability, beta)
    mixes = rng.random(calls) < probability
    lam = rng.beta(beta, beta, size=calls)
    rows, cols = rng.integers(height, size=calls), rng.integers(width, size=calls)
    permutation = rng.permuted(np.broadcast_to(np.arange(batch), (*calls, batch)), axis=-1)
    box = cutmix_boxes(lam, rows, cols, height, width) * mixes[..., None]
    return {"box": box, "permutation": permutation, "ratio": cutmix_ratio(box, height, width)}


def _check(probability: float, beta: float) -> None:
    if not 0 <= probability <= 1 or beta <= 0:
        raise ValueError(f"CutMix and MixUp need a probability in 0-1 and beta > 0, not {probability} and {beta}.")


def cutmix_apply(x: Tensor, permutation: Tensor, box: Tensor) -> Tensor:
    """Images [N, C, H, W] with `box` [4] of each taken from image `permutation` [N]; no host synchronisation."""
    rows = torch.arange(x.shape[2], device=x.device)[:, None]
    cols = torch.arange(x.shape[3], device=x.device)
    r0, c0, r1, c1 = box.unbind(-1)
    inside = (rows >= r0) & (rows < r1) & (cols >= c0) & (cols < c1)
    return torch.where(inside, x.index_select(0, permutation), x)


def mixup_draw(
    rng: np.random.Generator, calls: tuple[int, ...], *, batch: int, probability: float, beta: float
) -> dict[str, np.ndarray]:
    """Draws of many calls as of :func:`cutmix_draw`, without boxes: `ratio` is lambda, and 1 where nothing is mixed."""
    _check(probability, beta)
    mixes = rng.random(calls) < probability
    lam = rng.beta(beta, beta, size=calls)
    permutation = rng.permuted(np.broadcast_to(np.arange(batch), (*calls, batch)), axis=-1)
    return {"permutation": permutation, "ratio": np.where(mixes, lam, 1.0)}


def mix_draw(
    kind: str,
    rng: np.random.Generator,
    calls: tuple[int, ...],
    *,
    batch: int,
    height: int,
    width: int,
    probability: float,
    beta: float,
) -> dict[str, np.ndarray]:
    """Draws of many calls of the way to mix called `kind`."""
    if kind == "mixup":
        return mixup_draw(rng, calls, batch=batch, probability=probability, beta=beta)
    return cutmix_draw(rng, calls, batch=batch, height=height, width=width, probability=probability, beta=beta)


def mixup_apply(x: Tensor, permutation: Tensor, ratio: Tensor) -> Tensor:
    """`ratio` (0-d) of each image [N, C, H, W], the rest of image `permutation` [N]."""
    ratio = ratio.to(x.dtype)
    return ratio * x + (1 - ratio) * x.index_select(0, permutation)


def mix_apply(kind: str, x: Tensor, mix: dict[str, Tensor]) -> Tensor:
    """Images mixed by one call's draws."""
    if kind == "mixup":
        return mixup_apply(x, mix["permutation"], mix["ratio"])
    return cutmix_apply(x, mix["permutation"], mix["box"])
