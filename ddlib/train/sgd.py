"""One step of SGD as a pure function of dictionaries of tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def zero_velocity(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The velocity before the first step."""
    return {name: torch.zeros_like(value) for name, value in params.items()}


def sgd_step(
    params: Mapping[str, Tensor],
    velocity: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    lr: float | Tensor,
    momentum: float,
    weight_decay: float,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(params, velocity) after a step: v <- momentum * v + (g + weight_decay * p); p <- p - lr * v.

    The rule of ``torch.optim.SGD`` (no dampening, no Nesterov) from a zero velocity. `lr` may be a 0-d tensor, so that
    a schedule does not recompile. Nothing is changed in place. Elementwise, so stacked weights of several networks may
    be given as they are, outside ``vmap`` (inside it, ``torch._foreach`` has no rule).
    """
    names = list(params)
    old, slow, pull = [params[n] for n in names], [velocity[n] for n in names], [grads[n] for n in names]
    if weight_decay:
        pull = list(torch._foreach_add(pull, old, alpha=weight_decay))
    fast = list(torch._foreach_add(pull, slow, alpha=momentum)) if momentum else pull
    new = torch._foreach_sub(old, torch._foreach_mul(fast, lr))
    return dict(zip(names, new, strict=True)), dict(zip(names, fast, strict=True))
