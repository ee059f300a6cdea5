"""One step of Adam, or AdamW, as a pure function of dictionaries of tensors.

Kingma and Ba 2015, arXiv 1412.6980; Loshchilov and Hutter 2019, arXiv 1711.05101.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def no_moments(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The moments before the first step, in one map: ``mean/<name>``, ``square/<name>`` and ``steps`` (0-d int64)."""
    moments = {f"{part}/{name}": torch.zeros_like(params[name]) for part in ("mean", "square") for name in params}
    device = next(iter(params.values())).device
    return {**moments, "steps": torch.zeros((), dtype=torch.int64, device=device)}


def adam_step(
    params: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    lr: float | Tensor,
    weight_decay: float,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(params, moments) after a step with betas 0.9 and 0.999, eps 1e-8, weight decay added to the gradient.

    The rule of ``torch.optim.Adam`` (no AMSGrad). `lr` may be a 0-d tensor, so that a schedule does not recompile.
    Nothing is changed in place.
    """
    names = list(params)
    old, pull = [params[n] for n in names], [grads[n] for n in names]
    if weight_decay:
        pull = list(torch._foreach_add(pull, old, alpha=weight_decay))
    steps = moments["steps"] + 1
    # Both moments begin at zero: how far they have come from there.
    mean_share, square_share = ((1 - beta ** steps.double()).to(old[0].dtype) for beta in BETAS)
    mean = torch._foreach_lerp([moments[f"mean/{n}"] for n in names], pull, 1 - BETAS[0])
    square = torch._foreach_mul([moments[f"square/{n}"] for n in names], BETAS[1])
    square = torch._foreach_add(square, torch._foreach_mul(pull, pull), alpha=1 - BETAS[1])
    width = torch._foreach_add(torch._foreach_sqrt(torch._foreach_div(square, square_share)), EPSILON)
    new = torch._foreach_sub(old, torch._foreach_mul(torch._foreach_div(mean, width), lr / mean_share))
    moved = {f"mean/{n}": value for n, value in zip(names, mean, strict=True)}
    moved |= {f"square/{n}": value for n, value in zip(names, square, strict=True)}
    return dict(zip(names, new, strict=True)), {**moved, "steps": steps}


def decays(name: str, value: Tensor) -> bool:
    """Whether AdamW decays a parameter: weights of more than one axis, not biases and gains, as RDED and SRe2L do."""
    return "weight" in name and value.ndim > 1


def adamw_step(
    params: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    lr: float | Tensor,
    weight_decay: float,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(params, moments) after a step whose decay is apart from the gradient: p <- p (1 - lr weight_decay), then Adam.

    The rule of ``torch.optim.AdamW`` with :func:`decays` as its groups.
    """
    shrunk = {n: p * (1 - lr * weight_decay) if weight_decay and decays(n, p) else p for n, p in params.items()}
    return adam_step(shrunk, moments, grads, lr, 0.0)
