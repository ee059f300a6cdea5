"""The optimiser of the images: IDC's class-sequential SGD with momentum, in closed form.

snu-mllab/Efficient-Dataset-Condensation (ceac95a) steps one optimiser over *all* images once per class, with a gradient
that is zero outside the class. So an image moves on along its decaying velocity during the other classes' turns. Class
losses do not depend on each other's images, so a class in position k of C may as well make k idle steps, its own step
and C - 1 - k idle steps: every class then takes its turn at once. k idle steps are
``x -= lr * v * mu * (1 - mu^k) / (1 - mu); v *= mu^k``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def tuned_lr(base: float, ipc: int, size: int, base_size: int) -> float:
    """IDC's rule for the image learning rate: base * (ipc / 10) * (size / base_size)^2; sizes in pixels.

    Linear in the images per class, as the mean loss divides each image's gradient by their number. Applied by whoever
    builds the optimiser, never silently.
    """
    return base * (ipc / 10) * (size / base_size) ** 2


@dataclass(frozen=True)
class ImageSGD:
    """SGD with momentum over images [N, ...], without weight decay.

    `lr`: one number for all images, or one each, float64 [N] (:func:`tuned_lr` depends on the images per class).
    `positions` int64 [N]: the place of each image's class in the order of turns, 0 to classes - 1, counted over all
    classes of the data set (also in a job that holds some of them), on the device of the images. `sequential` off:
    ordinary momentum, one step a round. The velocity starts at zero and lives on over outer iterations.
    """

    lr: float | Tensor
    momentum: float
    positions: Tensor
    classes: int
    sequential: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"the momentum of the images lies in 0 <= momentum < 1, not {self.momentum}.")
        if self.positions.numel() and not 0 <= int(self.positions.min()) <= int(self.positions.max()) < self.classes:
            raise ValueError(
                f"class positions run from 0 to {self.classes - 1}, but some are "
                f"{int(self.positions.min())} to {int(self.positions.max())}: give global positions."
            )
        if isinstance(self.lr, Tensor) and self.lr.shape != self.positions.shape:
            raise ValueError(
                f"a learning rate an image is needed: {len(self.positions)} images, rates {list(self.lr.shape)}."
            )

    def before(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(x, v) at each class's own turn. Decode, and take the gradient, at *these* images."""
        return self._idle(x, v, self.positions) if self.sequential else (x, v)

    def after(self, x: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """(x, v) at the end of the round, from those of :meth:`before` and the gradient `g` [N, ...] taken there."""
        v = self.momentum * v + g
        x = x - self._rates(x).to(x.dtype) * v
        return self._idle(x, v, self.classes - 1 - self.positions) if self.sequential else (x, v)

    def _idle(self, x: Tensor, v: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """`steps` [N] steps without a gradient."""
        decay = _along(x, torch.pow(self.momentum, steps.double()))
        drift = self._rates(x) * self.momentum * (1 - decay) / (1 - self.momentum)
        return x - drift.to(x.dtype) * v, decay.to(x.dtype) * v

    def _rates(self, x: Tensor) -> Tensor:
        """The learning rate of each image, float64, along the first axis of `x`."""
        given = torch.as_tensor(self.lr, dtype=torch.float64, device=self.positions.device)
        return _along(x, given.expand(self.positions.shape))


def _along(x: Tensor, values: Tensor) -> Tensor:
    """`values` [N] along the first axis of `x`."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True)
class PlainSGD:
    """SGD with momentum over a tensor of any shape, without weight decay: of MTT's images and its step size.

    `lr`: a number, or several along the last axes, such as one a channel [C, 1, 1].
    """

    lr: float | Tensor
    momentum: float

    def before(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Where they are."""
        return x, v

    def after(self, x: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """(x, v) after a step along the gradient `g`."""
        v = self.momentum * v + g
        return x - self.lr * v, v


@dataclass(frozen=True)
class Assigned:
    """What is not moved by a gradient but takes the value it is given: soft labels of an expert."""

    def before(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As they are."""
        return x, v

    def after(self, x: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """(`g`, v)."""
        return g, v
