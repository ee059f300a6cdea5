"""Drop2Sparse's sparse sub-networks: binary masks over the weights of convolutions and linear layers.

Drop2Sparse (IEEE TCSVT 2025); DingFong/Drop2Sparse @ 139e1bb (condense.py, condense_mp.py). A mask removes
round(sparsity x entries) weights (Python's rounding, half to even); what it keeps is not rescaled. Masked weights stay
parameters: their gradients vanish off the mask, weight decay alone moves them, and the network trains on with the mask
in place.

Kinds: `uniform` removes the share `sparsity` of *each* layer, at random - **the official option for this is called
"global"**; `global` here removes that share of all weights together, so that layers differ; `last`: of the classifier
alone (official: "fc"); `magnitude`: the smallest weights of each layer (not random: it changes with the network alone).
Masked by kind of layer, in every network (official: three convolutions by name).

**Differs**: masks come from seeded streams and are artifacts; with a fixed network (`fix_iter`) they never compound.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ddlib.nn.functional import MASK, Params, matched_names
from ddlib.registry import nearest
from ddlib.streams import Streams
from ddlib.train.loop import State

KINDS = ("uniform", "global", "last", "magnitude")
# The masks of an outer iteration, by the name of the weight: bool, True where it is kept.
MaskSource = Callable[[int, Params], Params]


def masked_names(net: nn.Module, kind: str) -> tuple[str, ...]:
    """The weights a kind of mask lies on: of all convolutions and linear layers, or of the last linear layer.

    ValueError for an unknown kind, or a network without such layers.
    """
    if kind not in KINDS:
        raise ValueError(
            f"no kind of mask is called {kind!r}: {nearest(kind, KINDS)} (what the official option calls global is "
            "`uniform` here: each layer at one rate)"
        )
    names = matched_names(net, "conv_fc")
    if kind == "last":
        linear = {f"{name}.weight" for name, layer in net.named_modules() if isinstance(layer, nn.Linear)}
        names = tuple(name for name in names if name in linear)[-1:]
    if not names:
        raise ValueError(f"{type(net).__name__} has no layer that a mask of kind {kind} could lie on")
    return names


def removed(entries: int, sparsity: float) -> int:
    """How many of `entries` weights are removed. ValueError where nothing would be, or all."""
    count = round(sparsity * entries)
    if not 0 < count < entries:
        raise ValueError(
            f"sparsity {sparsity} removes {count} of {entries} weights of a layer: it must remove some and leave some."
        )
    return count


def without(scores: Tensor, count: int) -> Tensor:
    """bool mask of the shape of `scores`, False at its `count` largest entries."""
    mask = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[scores.flatten().topk(count).indices] = False
    return mask.reshape(scores.shape)


def masks_of(draws: Mapping[str, Tensor], kind: str, sparsity: float) -> Params:
    """Masks from one number per weight: the largest are removed, of each tensor, or (`global`) of all together."""
    if kind != "global":
        return {name: without(draw, removed(draw.numel(), sparsity)) for name, draw in draws.items()}
    together = torch.cat([draw.flatten() for draw in draws.values()])
    kept = without(together, removed(together.numel(), sparsity))
    parts = torch.split(kept, [draw.numel() for draw in draws.values()])
    return {name: part.reshape(draw.shape) for (name, draw), part in zip(draws.items(), parts, strict=True)}


@dataclass(frozen=True)
class RandomMasks:
    """Masks drawn for each outer iteration from the stream (mask, outer): a :data:`MaskSource`.

    `shapes`: of the masked weights by name, in the network's order.
    """

    shapes: Mapping[str, Sequence[int]]
    kind: str
    sparsity: float
    streams: Streams

    @classmethod
    def on(cls, net: nn.Module, kind: str, sparsity: float, seed: int) -> RandomMasks:
        """Masks for `net`, of a maskset's seed. ValueError for magnitude, which draws nothing."""
        if kind == "magnitude":
            raise ValueError("masks of kind magnitude follow from the weights: nothing is drawn")
        held = dict(net.named_parameters())
        shapes = {name: tuple(held[name].shape) for name in masked_names(net, kind)}
        return cls(shapes, kind, sparsity, Streams(seed, "masks"))

    def __call__(self, outer: int, params: Params | None = None) -> Params:
        """The masks of outer iteration `outer`; they do not depend on the weights."""
        rng = self.streams.at("mask", outer)
        draws = {name: torch.from_numpy(rng.random(shape, dtype=np.float32)) for name, shape in self.shapes.items()}
        return masks_of(draws, self.kind, self.sparsity)


@dataclass(frozen=True)
class MagnitudeMasks:
    """Masks that remove the smallest weights of each layer named: a :data:`MaskSource`."""

    names: Sequence[str]
    sparsity: float

    def __call__(self, outer: int, params: Params) -> Params:
        """The masks of these weights, whatever the outer iteration."""
        return masks_of({name: -params[name].abs() for name in self.names}, "magnitude", self.sparsity)


@dataclass(frozen=True)
class Sparsify:
    """`sparsify(state, outer)`: the network with the masks of outer iteration `outer`, carried among its buffers."""

    source: MaskSource

    def __call__(self, state: State, outer: int) -> State:
        """The state with masks; weights off them are kept, and without a say. ValueError for masks of another
        network."""
        masks = self.source(outer, state.params)
        for name, mask in masks.items():
            if name not in state.params or state.params[name].shape != mask.shape:
                there = tuple(state.params[name].shape) if name in state.params else "no such weight"
                raise ValueError(f"the mask of {name} is of shape {tuple(mask.shape)}; the network has {there}")
        held = {f"{MASK}{name}": mask.to(state.params[name].device) for name, mask in masks.items()}
        return State(state.params, {**state.buffers, **held}, state.velocity)


def digest(masks: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of masks: their bits packed, layer after layer."""
    return hashlib.sha256(pack(masks).tobytes()).hexdigest()


def pack(masks: Mapping[str, Tensor]) -> np.ndarray:
    """The masks' bits, layer after layer, as uint8 [ceil(entries / 8)]."""
    return np.packbits(np.concatenate([mask.cpu().numpy().ravel() for mask in masks.values()]))


def unpack(bits: np.ndarray, shapes: Mapping[str, Sequence[int]]) -> Params:
    """Back from :func:`pack`, for weights of these shapes."""
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    flat = np.unpackbits(bits, count=sum(sizes)).astype(bool)
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return {
        name: torch.from_numpy(part.reshape(tuple(shape)).copy())
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
