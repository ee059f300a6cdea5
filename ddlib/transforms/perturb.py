"""Acc-DD's parameter perturbation: weights moved in random directions scaled to their own size.

Zhang et al., "Accelerating Dataset Distillation via Model Augmentation", CVPR 2023, arXiv 2212.06152;
ncsu-dk-lab/Acc-DD @ 3a8fdea (weight_perturbation.py). With directions d_i of normal numbers, normalised to the weights,
and magnitudes a_i of a uniform size and a random sign, w becomes w + (a_1 d_1 + a_2 d_2). As published: two directions,
each output filter (row of a linear layer) scaled to the norm of the weights' own, sizes from 0.01 to 0.09, once per
outer iteration; convolutions and the classifier move, biases and norms do not.

**Differs**: the official run is unseeded; normals are drawn for moved tensors alone. `linear` off leaves the
classifier as it is (there: always moved).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddlib.nn.functional import Params
from ddlib.registry import nearest
from ddlib.streams import Streams
from ddlib.train.loop import State

EPS = 1e-10


def _rows(x: Tensor) -> Tensor:
    """Norm of each slice along the first axis, shaped to divide by."""
    norms: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norms.reshape(-1, *[1] * (x.ndim - 1))


# direction = NORMS[name](raw normals, weights); the official names: filter, layer, weight, dfilter, dlayer.
NORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "filter": lambda raw, w: raw * (_rows(w) / (_rows(raw) + EPS)),
    "layer": lambda raw, w: raw * (w.norm() / raw.norm()),
    "weight": lambda raw, w: raw * w,
    "unit_filter": lambda raw, w: raw / (_rows(raw) + EPS),
    "unit_layer": lambda raw, w: raw / raw.norm(),
}


def direction(raw: Tensor, weights: Tensor, norm: str, one_dim: str = "zero") -> Tensor:
    """The direction of one tensor from normals `raw` of its shape. `one_dim`: of biases, gains and statistics (at most
    one axis): zero leaves them, copy takes the tensor itself as its direction. ValueError for an unknown norm."""
    if norm not in NORMS:
        raise ValueError(f"no normalisation of a perturbation is called {norm!r}: {nearest(norm, NORMS)}")
    if weights.ndim <= 1:
        return weights.clone() if one_dim == "copy" else torch.zeros_like(weights)
    return NORMS[norm](raw, weights)


def perturbed(
    params: Mapping[str, Tensor],
    raws: Sequence[Mapping[str, Tensor]],
    magnitudes: Sequence[float],
    norm: str = "filter",
    one_dim: str = "zero",
) -> Params:
    """`params` moved by magnitudes[i] in the direction of the normals raws[i] (tensors it does not name stay)."""
    out = dict(params)
    for name in raws[0]:
        moves = [
            direction(raw[name], params[name], norm, one_dim) * size for raw, size in zip(raws, magnitudes, strict=True)
        ]
        out[name] = params[name] + sum(moves[1:], moves[0])
    return out


@dataclass(frozen=True)
class Perturbation:
    """`perturbation(state, outer)`: the network of outer iteration `outer`, moved by the stream (perturb, outer).

    `low`, `high`: sizes, relative to the weights; `directions`: 1 or 2; `linear`: whether linear layers move;
    `buffers`: whether statistics of batch norm are treated as weights (they have one axis: only `copy` moves them).
    """

    streams: Streams
    norm: str = "filter"
    low: float = 0.01
    high: float = 0.09
    directions: int = 2
    linear: bool = True
    one_dim: str = "zero"
    buffers: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ValueError(f"perturb_low {self.low} must be from 0 to perturb_high {self.high}")
        if self.directions not in (1, 2):
            raise ValueError(f"perturb_directions is 1 or 2, not {self.directions}")
        if self.norm not in NORMS:
            raise ValueError(f"no normalisation of a perturbation is called {self.norm!r}: {nearest(self.norm, NORMS)}")

    @classmethod
    def of(cls, settings: Mapping[str, Any], streams: Streams) -> Perturbation:
        """From settings named perturb, perturb_low, ... (ddlib/presets.py)."""
        names = ("low", "high", "directions", "linear", "one_dim", "buffers")
        return cls(streams, settings["perturb"], **{name: settings[f"perturb_{name}"] for name in names})

    def __call__(self, state: State, outer: int) -> State:
        """A network with moved weights; the optimiser's velocity as it was (at rest, where just drawn)."""
        rng = self.streams.at("perturb", outer)
        held = {**state.params, **(self._statistics(state) if self.buffers else {})}
        names = [name for name, value in held.items() if self._moves(value)]
        raws = [{name: _normal(rng, held[name]) for name in names} for _ in range(self.directions)]
        sizes = rng.uniform(self.low, self.high, self.directions) * rng.choice([-1.0, 1.0], self.directions)
        moved = perturbed(held, raws, sizes.tolist(), self.norm, self.one_dim)
        params = {name: moved[name] for name in state.params}
        return State(params, {name: moved.get(name, value) for name, value in state.buffers.items()}, state.velocity)

    def _moves(self, value: Tensor) -> bool:
        if value.ndim <= 1:
            return self.one_dim == "copy"
        return self.linear or value.ndim > 2

    @staticmethod
    def _statistics(state: State) -> Params:
        return {name: value for name, value in state.buffers.items() if value.is_floating_point()}


def _normal(rng: np.random.Generator, like: Tensor) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(like.shape), dtype=np.float32)).to(like)
