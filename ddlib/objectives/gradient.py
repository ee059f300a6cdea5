"""Gradient matching per class: synthetic images are moved so that a network's gradient on them is that on real ones.

Zhao et al., "Dataset Condensation with Gradient Matching" (2020, arXiv 2006.05929), in the form of IDC (2022, arXiv
2205.14959), snu-mllab/Efficient-Dataset-Condensation (ceac95a): one class at a time, cross entropy (mean), convolution
weights, gradients compared by :mod:`ddlib.objectives.distances`. And feature matching as that code has it.

Everything is a pure function of tensors through ``torch.func``: whole under ``torch.compile(fullgraph=True)`` (which
traces the second derivative of these, not of plain autograd), and ``torch.func.vmap`` over a leading class axis of
`stored`, `real`, `label` and the draws in `prepare` gives what a loop over classes gives. No host synchronisation.

**Differs**: nothing here moves running statistics of batch norm (`apply` is a functional call, see
:mod:`ddlib.nn.functional`); the official code lets each matching forward move them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddlib.nn.functional import Apply, Features, Params
from ddlib.objectives.distances import distance
from ddlib.train.losses import cross_entropy

Prepare = Callable[[Tensor], Tensor]
ORDERS = ("reverse", "forward")


def class_gradients(
    apply: Apply, params: Params, matched: Sequence[str], x: Tensor, labels: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of the mean cross entropy of images [n, C, H, W] and labels [n], for the parameters named `matched`."""

    def loss(moving: Params) -> Tensor:
        return cross_entropy(apply({**params, **moving}, x), labels)

    grads = torch.func.grad(loss)({name: params[name] for name in matched})
    return tuple(grads[name] for name in matched)


def match_class(
    apply: Apply,
    params: Params,
    matched: Sequence[str],
    prepare: Prepare,
    stored: Tensor,
    real: Tensor,
    label: Tensor,
    metric: str,
    order: str = "reverse",
) -> tuple[Tensor, Tensor]:
    """(loss 0-d, its gradient [n, C, H, W] with respect to `stored`) for one class.

    `stored`: the class's images as stored; `prepare` takes them to what the network sees (decode, subsample, normalise,
    augment), differentiably. `real`: real images of the class, already normalised and augmented by the same draws.
    `label`: 0-d int64. `order`: see :func:`match_target`.
    """
    target = class_gradients(apply, params, matched, real, label.expand(real.shape[0]))
    return match_target(apply, params, matched, prepare, stored, target, label, metric, order)


def match_target(
    apply: Apply,
    params: Params,
    matched: Sequence[str],
    prepare: Prepare,
    stored: Tensor,
    target: Sequence[Tensor],
    label: Tensor,
    metric: str,
    order: str = "reverse",
) -> tuple[Tensor, Tensor]:
    """As :func:`match_class`, from the real gradients `target` themselves (which several budgets may share).

    `order`: "reverse" differentiates the gradient backwards (double backward); "forward" takes the directional
    derivative of the image gradient along the distance's slope: the same numbers up to rounding, less memory.
    """
    if order not in ORDERS:
        raise ValueError(f"no order of differentiation is called {order!r}: choose one of {', '.join(ORDERS)}.")
    x, pull = torch.func.vjp(prepare, stored)[:2]
    labels = label.expand(x.shape[0])
    if order == "reverse":

        def objective(x: Tensor) -> Tensor:
            return distance(metric, class_gradients(apply, params, matched, x, labels), target)

        slope, loss = torch.func.grad_and_value(objective)(x)
    else:
        slope, loss = _forward_over_reverse(apply, params, matched, x, target, labels, metric)
    (gradient,) = pull(slope)
    return loss, gradient


def _forward_over_reverse(
    apply: Apply,
    params: Params,
    matched: Sequence[str],
    x: Tensor,
    target: Sequence[Tensor],
    labels: Tensor,
    metric: str,
) -> tuple[Tensor, Tensor]:
    """(d/dx <g(x), s>, loss), s the distance's slope at g(x), as the derivative of dCE/dx along s."""
    own = class_gradients(apply, params, matched, x, labels)
    direction, loss = torch.func.grad_and_value(lambda own: distance(metric, own, target))(own)

    def image_gradient(moving: tuple[Tensor, ...]) -> Tensor:
        moved = {**params, **dict(zip(matched, moving, strict=True))}
        gradient: Tensor = torch.func.grad(lambda x: cross_entropy(apply(moved, x), labels))(x)
        return gradient

    point = tuple(params[name] for name in matched)
    slope: Tensor = torch.func.jvp(image_gradient, (point,), (tuple(direction),))[1]
    return slope, loss


def match_features(
    features: Features, params: Params, prepare: Prepare, stored: Tensor, real: Tensor, first: int, last: int
) -> tuple[Tensor, Tensor]:
    """(loss 0-d, its gradient with respect to `stored`): squared distance of batch-mean feature maps, summed.

    `first` to `last`, both included: the blocks whose maps are compared, from 0. Others as :func:`match_class`.
    """
    target = mean_features(features, params, real, first, last)
    return match_means(features, params, prepare, stored, target, first, last)


def mean_features(features: Features, params: Params, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
    """Feature maps of images [n, C, H, W] after the blocks `first` to `last`, averaged over the images."""
    return tuple(maps.mean(0) for maps in _between(features(params, x), first, last))


def match_means(
    features: Features,
    params: Params,
    prepare: Prepare,
    stored: Tensor,
    target: Sequence[Tensor],
    first: int,
    last: int,
) -> tuple[Tensor, Tensor]:
    """As :func:`match_features`, from the mean maps `target` of real images (which several budgets may share)."""

    def objective(stored: Tensor) -> Tensor:
        return distance("mse", mean_features(features, params, prepare(stored), first, last), target)

    gradient, loss = torch.func.grad_and_value(objective)(stored)
    return loss, gradient


def _between(maps: list[Tensor], first: int, last: int) -> list[Tensor]:
    if not 0 <= first <= last < len(maps):
        raise ValueError(f"cannot match features of blocks {first} to {last}: the network has 0 to {len(maps) - 1}.")
    return maps[first : last + 1]
