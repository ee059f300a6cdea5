"""Distances between two lists of gradients, summed over tensors without weights.

As in snu-mllab/Efficient-Dataset-Condensation (ceac95a). A slice is a tensor's entry along its first axis: an output
filter, or a single number of a 1-D tensor.

**Differs**: the parser there accepts an "l2" that is not implemented; here it is unknown. Drop2Sparse's "cos" is not
differentiable (its images never move); here it is IDC's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddlib import registry


def _slices(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1)


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Sum of squared differences."""
    return (a - b).square().sum()


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Sum of absolute differences."""
    return (a - b).abs().sum()


def l1_mean(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of each slice, summed over slices."""
    return _slices((a - b).abs()).mean(1).sum()


def cos(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of each slice (1e-6 added to the product of the norms), summed over slices."""
    a, b = _slices(a), _slices(b)
    norms: Tensor = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (1 - (a * b).sum(1) / (norms + 1e-6)).sum()


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse, "l1": l1, "l1_mean": l1_mean, "cos": cos}


def distance(metric: str, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The distance `metric` (mse, l1, l1_mean, cos) between tensors pairwise, summed (0-d)."""
    if metric not in METRICS:
        raise ValueError(f"no metric is called {metric!r}: {registry.nearest(metric, METRICS)}")
    if not a or len(a) != len(b):
        raise ValueError(f"a distance needs as many tensors on both sides, at least one, not {len(a)} and {len(b)}.")
    measure = METRICS[metric]
    return torch.stack([measure(x, y) for x, y in zip(a, b, strict=True)]).sum()
