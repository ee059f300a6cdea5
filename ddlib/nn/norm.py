"""Normalisation layers written from mean and variance, so that they compile and can be differentiated twice.

Fused kernels (``nn.GroupNorm``, ``nn.InstanceNorm2d``) fall apart into many small ones in a double backward and
do not fuse with their neighbours under ``torch.compile``; these do.

**Differs**: batch norm keeps no ``num_batches_tracked``. It assigns its new running statistics instead of writing
into the old tensors, so that a functional call never changes what it was given. PyTorch's own writes in place: in
networks that :func:`ddlib.nn.build` makes it is replaced by ours (:func:`replace_batch_norm`).

Batch norm while images are matched (:func:`frozen_statistics`): real and synthetic images of a class are each
normalised by the statistics of their own batch, as in training, and running statistics stay those of the real data the
network was trained on. **Differs**: the official codes of gradient matching let every matching forward, of one class
and of synthetic images too, move them. They are used in evaluation mode alone, in which nothing is matched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddlib import registry

EPS = 1e-5
GROUPS = 4


class _Affine(nn.Module):
    """A gain (starts at 1) and an offset (starts at 0) of the given shape, over channels or [C, H, W]."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.eps = EPS
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def scale(self, x: Tensor, found: Moments, dtype: torch.dtype) -> Tensor:
        """(x - mean) / sqrt(variance + eps) * weight + bias, in the common type of `dtype` and the weights; `x` and
        the mean from the same origin.

        Gain and deviation are multiplied first, and the mean goes into the offset, while they are small, where there
        is one gain a channel.
        """
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if weight.ndim == 1:
            weight, bias = weight[:, None, None], bias[:, None, None]
        gain = torch.rsqrt(found.variance + self.eps) * weight
        out = torch.addcmul(bias - found.mean * gain, x, gain)
        return out.to(torch.promote_types(dtype, weight.dtype))


class Moments(NamedTuple):
    """Mean and biased variance over some axes, these kept with length 1."""

    mean: Tensor
    variance: Tensor


def from_origin(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor, Moments]:
    """`x` less its mean over `dims` as a *constant*, that constant, and the moments of the difference; of bfloat16 and
    float16 in float32.

    The norm of `x` does not depend on the origin `x` is measured from, so its derivatives of every order are those of
    the plain formula, but a backward pass needs two sums in one sweep (of g and of g x) instead of a second sweep for
    the mean. Without the shift, the variance as a difference of squares would cancel.
    """
    if x.dtype in (torch.bfloat16, torch.float16):
        x = x.float()
    origin = x.detach().mean(dims, keepdim=True)
    x = x - origin
    mean = x.mean(dims, keepdim=True)
    return x, origin, Moments(mean, x.square().mean(dims, keepdim=True) - mean.square())


class InstanceNorm(_Affine):
    """Each channel of each image [N, C, H, W] over its own pixels (GroupNorm with a group a channel)."""

    def forward(self, x: Tensor) -> Tensor:
        shifted, _, found = from_origin(x, (2, 3))
        return self.scale(shifted, found, x.dtype)


class GroupNorm(_Affine):
    """Groups of consecutive channels of each image over their pixels."""

    def __init__(self, channels: int, groups: int = GROUPS) -> None:
        if channels % groups:
            raise ValueError(
                f"group norm splits the channels in {groups}: a width of {channels} does not divide. "
                f"Choose a multiple of {groups}."
            )
        super().__init__(channels)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        shifted, _, found = from_origin(x.reshape(x.shape[0], self.groups, -1), (2,))
        each = (value.repeat_interleave(x.shape[1] // self.groups, 1)[..., None] for value in found)
        return self.scale(shifted.reshape(x.shape), Moments(*each), x.dtype)


class LayerNorm(_Affine):
    """Each image over all its channels and pixels; one gain and offset for each entry [C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        shifted, _, found = from_origin(x, (1, 2, 3))
        return self.scale(shifted, found, x.dtype)


class BatchNorm(_Affine):
    """Each channel over the batch when training, by running statistics (unbiased) in evaluation."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, eps: float = EPS) -> None:
        super().__init__(channels)
        self.momentum, self.eps = momentum, eps
        self.frozen = False
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            kept = Moments(self.running_mean[:, None, None], self.running_var[:, None, None])
            return self.scale(x, kept, x.dtype)
        shifted, origin, found = from_origin(x, (0, 2, 3))
        if not self.frozen:
            mean = (origin + found.mean).detach().flatten()
            self._remember(mean, found.variance.detach().flatten(), x.numel() // x.shape[1])
        return self.scale(shifted, found, x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if count < 2:
            raise ValueError("batch norm needs more than one value per channel to train: use a larger batch or image.")
        keep, new = 1 - self.momentum, self.momentum
        dtype = self.running_mean.dtype
        self.running_mean = keep * self.running_mean + new * mean.to(dtype)
        self.running_var = keep * self.running_var + new * variance.to(dtype) * (count / (count - 1))


def replace_batch_norm(net: nn.Module) -> None:
    """Put :class:`BatchNorm` with the same weights and statistics in the place of every ``nn.BatchNorm2d`` of `net`.

    ValueError for batch norms of another kind: one or three dimensions, without gains or without running statistics.
    """
    for name, layer in list(net.named_modules()):
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            if not (isinstance(layer, nn.BatchNorm2d) and layer.affine and layer.track_running_stats):
                raise ValueError(f"{name} ({layer}) is no batch norm of images with gains and running statistics.")
            if layer.momentum is None:
                raise ValueError(f"{name} ({layer}) averages its statistics over all batches: give it a momentum.")
            ours = BatchNorm(layer.num_features, layer.momentum, layer.eps).to(layer.weight)
            ours.load_state_dict({key: value for key, value in layer.state_dict().items() if "num_batches" not in key})
            net.set_submodule(name, ours.train(layer.training))


@contextlib.contextmanager
def frozen_statistics(net: nn.Module) -> Iterator[None]:
    """Within it, forwards of `net` in train mode normalise by the batch but leave the running statistics alone."""
    layers = [layer for layer in net.modules() if isinstance(layer, BatchNorm)]
    before = [layer.frozen for layer in layers]
    try:
        for layer in layers:
            layer.frozen = True
        yield
    finally:
        for layer, state in zip(layers, before, strict=True):
            layer.frozen = state


KINDS = ("instance", "batch", "layer", "group", "none")


def build_norm(kind: str, channels: int, size: int | None = None) -> nn.Module:
    """The layer called `kind`. `size`: side of the square maps it will see (only "layer" needs it)."""
    if kind == "instance":
        return InstanceNorm(channels)
    if kind == "batch":
        return BatchNorm(channels)
    if kind == "group":
        return GroupNorm(channels)
    if kind == "layer":
        if size is None:
            raise ValueError("layer norm has a gain for every pixel: build_norm('layer', ...) needs the maps' size.")
        return LayerNorm(channels, size, size)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"no norm is called {kind!r}: {registry.nearest(kind, KINDS)}")
