"""Networks as pure functions of their weights, for ``torch.func`` and ``torch.compile``.

A functional call leaves the network and every tensor it was given as they were: also the running statistics of
batch norm, whose new values :func:`with_statistics` returns. PyTorch's own batch norm would write into them: networks
that have it are refused (:func:`ddlib.nn.norm.replace_batch_norm` gives them ours, as :func:`ddlib.nn.build` does).

A network is made sparse by masks among its buffers: one named ``mask/<name>`` multiplies the parameter `name` in every
call, so that gradients off it vanish.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Params = dict[str, Tensor]
Apply = Callable[[Params, Tensor], Tensor]
Features = Callable[[Params, Tensor], list[Tensor]]

PARTS = ("conv", "conv_fc", "all")
MASK = "mask/"


def split(net: nn.Module) -> tuple[Params, Params]:
    """Detached clones of the parameters and of the buffers of `net`, by name."""
    params = {name: value.detach().clone() for name, value in net.named_parameters()}
    buffers = {name: value.detach().clone() for name, value in net.named_buffers()}
    return params, buffers


def under_masks(params: Params, buffers: Params) -> tuple[Params, Params]:
    """(parameters times their masks, buffers that are no masks)."""
    masks = {name[len(MASK) :]: value for name, value in buffers.items() if name.startswith(MASK)}
    if not masks:
        return params, buffers
    seen = {name: value * masks[name] if name in masks else value for name, value in params.items()}
    return seen, {name: value for name, value in buffers.items() if not name.startswith(MASK)}


def _keeps(net: nn.Module) -> None:
    """ValueError if a forward of `net` writes into its buffers."""
    for name, layer in net.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats:
            raise ValueError(
                f"{name or type(net).__name__} is PyTorch's {type(layer).__name__}, which writes into the statistics a "
                "functional call gives it: call ddlib.nn.norm.replace_batch_norm(net) before."
            )


def functional(net: nn.Module) -> Callable[[Params, Params, Tensor], Tensor]:
    """fn(params, buffers, x) -> logits [N, classes], in the mode (train, eval) `net` is in."""
    _keeps(net)

    def call(params: Params, buffers: Params, x: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(net, under_masks(params, buffers), (x,))
        return logits

    return call


def with_statistics(net: nn.Module) -> Callable[[Params, Params, Tensor], tuple[Tensor, Params]]:
    """fn(params, buffers, x) -> (logits, the buffers after this forward): for training with batch norm."""
    _keeps(net)

    def call(params: Params, buffers: Params, x: Tensor) -> tuple[Tensor, Params]:
        seen, own = under_masks(params, buffers)
        merged = {**seen, **own}
        logits = torch.func.functional_call(net, merged, (x,))
        return logits, {name: merged.get(name, value).detach() for name, value in buffers.items()}

    return call


class _FeatureView(nn.Module):
    """`net` whose forward gives its list of feature maps."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> list[Tensor]:
        found: list[Tensor] = self.net.features(x)  # type: ignore[operator]
        return found


def functional_features(net: nn.Module) -> Callable[[Params, Params, Tensor], list[Tensor]]:
    """fn(params, buffers, x) -> the feature maps after each block, for networks that have ``features``."""
    if not callable(getattr(net, "features", None)):
        raise ValueError(f"{type(net).__name__} has no `features`: match gradients, or use a network that has them.")
    _keeps(net)
    view = _FeatureView(net)

    def call(params: Params, buffers: Params, x: Tensor) -> list[Tensor]:
        seen, own = under_masks(params, buffers)
        state = {f"net.{name}": value for name, value in {**seen, **own}.items()}
        found: list[Tensor] = torch.func.functional_call(view, state, (x,))
        return found

    return call


def in_precision(apply: Apply, dtype: torch.dtype) -> Apply:
    """`apply` computed in `dtype` (bfloat16, ...), with logits, and so gradients, in the precision given."""

    def call(params: Params, x: Tensor) -> Tensor:
        lowered = {name: value.to(dtype) for name, value in params.items()}
        return apply(lowered, x.to(dtype)).to(x.dtype)

    return call


def matched_names(net: nn.Module, which: str = "conv") -> tuple[str, ...]:
    """Names of the parameters whose gradients are matched: "conv" weights, "conv_fc" (linear weights too), "all".

    IDC's rule is "at least three dimensions" and "at least two". **Differs**: ours goes by the kind of layer, so that
    the [C, H, W] gains of layer norm are no convolution weights.
    """
    if which not in PARTS:
        raise ValueError(f"cannot match the parameters {which!r}: choose one of {', '.join(PARTS)}.")
    if which == "all":
        return tuple(name for name, _ in net.named_parameters())
    kinds: tuple[type, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d) + ((nn.Linear,) if which == "conv_fc" else ())
    layers = {name for name, layer in net.named_modules() if isinstance(layer, kinds)}
    wanted = {f"{layer}.weight" if layer else "weight" for layer in layers}
    return tuple(name for name, _ in net.named_parameters() if name in wanted)
