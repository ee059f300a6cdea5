"""How a network learns from a batch: what it is shown, the loss, the optimiser. The loop is ddlib/train/loop.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ddlib.augment.showing import Showing
from ddlib.nn.functional import Params
from ddlib.registry import nearest
from ddlib.train.adam import adam_step, adamw_step, no_moments
from ddlib.train.losses import LOSSES
from ddlib.train.sgd import sgd_step, zero_velocity

AT_REST: dict[str, Callable[[Params], Params]] = {"sgd": zero_velocity, "adam": no_moments, "adamw": no_moments}
"""An optimiser's own state before its first step, by its name."""


@dataclass(frozen=True, kw_only=True)
class Learning(Showing):
    """How a network is trained: what it is shown, and optimiser (sgd, or adam and adamw, which have no use for
    `momentum`). Where a teacher tells what to learn: `loss` (ddlib/train/losses.py), its `temperature`, and for mse_gt
    the weight of the classes' cross entropy. `bn_twice`: batch norm's statistics move twice a step."""

    lr: float
    momentum: float
    weight_decay: float
    optimiser: str = "sgd"
    loss: str = "soft_ce"
    temperature: float = 1.0
    truth_weight: float = 0.1
    bn_twice: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in LOSSES:
            raise ValueError(f"no loss is called {self.loss!r}: {nearest(self.loss, LOSSES)}")
        if self.bn_twice and self.mix != "cutmix":
            raise ValueError("bn_twice stands for a second look at the same images: with mixup RDED's are others")
        if self.optimiser not in AT_REST:
            raise ValueError(f"no optimiser is called {self.optimiser!r}: {nearest(self.optimiser, AT_REST)}")

    @classmethod
    def of(cls, settings: Mapping[str, Any], prefix: str = "", grid: int = 1) -> Learning:
        """From settings named lr, momentum, ... (with `prefix`, as in network_lr), those not named as they are here.

        `grid`: patches a side of the images, which count where the settings say ``grid: set``.
        """
        named = {name: settings[prefix + name] for name in ("lr", "momentum", "weight_decay")}
        others = ("optimiser", "loss", "temperature", "truth_weight", "bn_twice")
        named |= {name: settings[prefix + name] for name in others if prefix + name in settings}
        return cls(**cls.options(settings, prefix, grid), **named)

    def step(self, params: Params, velocity: Params, grads: Params, lr: Tensor) -> tuple[Params, Params]:
        """(params, velocity) after a step of the optimiser."""
        if self.optimiser == "adamw":
            return adamw_step(params, velocity, grads, lr, self.weight_decay)
        if self.optimiser == "adam":
            return adam_step(params, velocity, grads, lr, self.weight_decay)
        return sgd_step(params, velocity, grads, lr, self.momentum, self.weight_decay)


def twice_remembering(net: nn.Module) -> nn.Module:
    """`net`, changed so that a forward moves batch norm's statistics as two of the same images would: momentum 0.19
    instead of 0.1. RDED's official code (LINs-lab/RDED @ 3f6453d) runs the student twice a step."""
    for layer in net.modules():
        momentum = getattr(layer, "momentum", None)
        if isinstance(momentum, float) and hasattr(layer, "running_mean"):
            layer.momentum = 1 - (1 - momentum) ** 2  # type: ignore[assignment]
    return net
