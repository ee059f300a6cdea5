"""What a method is: the declarations and parts the driver needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ddlib.data.real import RealData
from ddlib.objectives.matching import Execution, Inner
from ddlib.pool.draw import Fresh, FromPool, Start
from ddlib.streams import Streams
from ddlib.transforms.sparsify import MaskSource


class Objective(Protocol):
    """What is matched: an inner loop per outer iteration, each step a loss and the gradient of what is learned."""

    inner_steps: int

    def begin(self, outer: int, cursor: int) -> Inner:
        """The start of outer iteration `outer`."""
        ...

    def gradient(self, images: Tensor, inner: Inner, step: int) -> tuple[Tensor, Tensor]:
        """(loss of each budget [budgets], gradient [N, C, H, W])."""
        ...

    def advance(self, inner: Inner) -> Inner:
        """What moves between two steps (the network)."""
        ...


class ImageOptimiser(Protocol):
    """Moves the images: `before` to where the gradient is taken, `after` with it."""

    def before(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(images, velocity) at which the gradient is taken."""
        ...

    def after(self, x: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """(images, velocity) after the step."""
        ...


@dataclass(frozen=True)
class Recipe:
    """A method, as the driver runs it.

    `init`, `factor`: how images begin and are stored; `outer_iterations`: 0 for methods that only pick and pack;
    `learns`: what moves ("images"); `range`: "clamped" images are clipped to 0-1 at the beginning of each outer
    iteration; `partitionable`: whether classes may be condensed in separate jobs with the same result; `told`: of each
    budget, the settings to name where its images diverge.
    """

    init: str
    factor: int
    outer_iterations: int
    objective: Objective | None = None
    optimiser: ImageOptimiser | None = None
    learns: tuple[str, ...] = ()
    range: str = "clamped"
    partitionable: bool = True
    told: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """What is asked of a method in one job.

    `data`: real training images on the device; `classes`: those condensed here, of all `data.classes`; `ipc`: stored
    images per class, or several such budgets that are condensed together: then images lie budget after budget, in each
    class by class; `base_size`: of the learning-rate rule, pixels; `rows`: of the view, where it starts from a pool;
    `masks`: of each outer iteration, where networks are made sparse.
    """

    data: RealData
    ipc: int | tuple[int, ...]
    classes: Sequence[int]
    seed: int
    base_size: int
    network: Mapping[str, Any] | None = None
    rows: Sequence[Mapping[str, Any]] | None = None
    stage: int = 0
    execution: Execution = field(default_factory=Execution)
    masks: MaskSource | None = None

    @property
    def budgets(self) -> tuple[int, ...]:
        """Stored images per class of every set that is condensed."""
        return (self.ipc,) if isinstance(self.ipc, int) else tuple(self.ipc)

    def parts(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (or what goes with each, [N, ...]) by budget."""
        return torch.split(images, [len(self.classes) * ipc for ipc in self.budgets])

    @property
    def streams(self) -> Streams:
        """Streams of this stage's condensation."""
        return Streams(self.seed, f"condense{self.stage}")

    def start(self) -> Start:
        """A fresh network per outer iteration, or one drawn from the view."""
        if self.network is None:
            raise ValueError("this method needs a network: name one in the experiment")
        shape = (self.data.channels, self.data.height, self.data.width)
        fresh = Fresh(self.network, shape, self.data.classes, self.streams, self.data.labels.device)
        return fresh if self.rows is None else FromPool(self.rows, fresh)
