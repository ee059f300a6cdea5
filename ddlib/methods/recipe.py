"""What a method is: the declarations and parts the driver needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ddlib.data.native import Native
from ddlib.data.real import RealData
from ddlib.nn.functional import Params
from ddlib.objectives.matching import Execution, Inner
from ddlib.pool.condition import Conditioning
from ddlib.pool.draw import Changed, Fresh, FromPool, Start
from ddlib.sets.realism import Observe
from ddlib.sets.scores import ScoreTable
from ddlib.sets.synthetic import SyntheticSet
from ddlib.streams import Streams
from ddlib.transforms.sparsify import MaskSource


class Objective(Protocol):
    """What is matched: an inner loop per outer iteration, each step a loss and the gradient of what is learned."""

    inner_steps: int

    def begin(self, outer: int, cursor: int) -> Inner:
        """The start of outer iteration `outer`."""
        ...

    def gradient(self, learned: Params, inner: Inner, step: int) -> tuple[Tensor, Params]:
        """(loss of each budget [budgets], the gradient of everything that is learned, by its name)."""
        ...

    def advance(self, inner: Inner) -> Inner:
        """What moves between two steps (the network)."""
        ...


class Optimiser(Protocol):
    """Moves one learned tensor: `before` to where the gradient is taken, `after` with it."""

    def before(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(value, velocity) at which the gradient is taken."""
        ...

    def after(self, x: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """(value, velocity) after the step."""
        ...


def nothing_wrong(learned: Params) -> None:
    """What most recipes have to say about what they learned."""


@dataclass(frozen=True)
class Recipe:
    """A method, as the driver runs it.

    `init`, `factor`: how images begin and are stored; `outer_iterations`: 0 for methods that only pick and pack;
    `optimisers`: by name, of all that is learned: "images" [N, C, H, W], "step_size" 0-d, "soft" [N, classes];
    `begins`: where what is learned beside the images begins; `range`: "clamped" images are clipped to 0-1 at the
    beginning of each outer iteration, "free" ones never; `partitionable`: whether classes may be condensed in separate
    jobs with the same result; `told`: of each budget, the settings to name where its images diverge; `sound` says what
    is wrong with what was learned (None: nothing), which stops the job; `stored` maps what was learned to what a set
    holds, as a step size learned as its logarithm; `grid`: cells a side of stitched images, which are stored as bytes
    and seen whole; `options`: the settings of a selection (ddlib/methods/selection.py).
    """

    init: str
    factor: int
    outer_iterations: int
    objective: Objective | None = None
    optimisers: Mapping[str, Optimiser] = field(default_factory=dict)
    begins: Params = field(default_factory=dict)
    range: str = "clamped"
    partitionable: bool = True
    told: tuple[str, ...] = ()
    sound: Callable[[Params], str | None] = nothing_wrong
    stored: Callable[[Params], Params] = dict
    grid: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def learns(self) -> tuple[str, ...]:
        """What moves."""
        return tuple(self.optimisers)


@dataclass(frozen=True)
class Problem:
    """What is asked of a method in one job.

    `data`: real training images on the device; `classes`: those condensed here, of all `data.classes`; `ipc`: stored
    images per class, or several such budgets that are condensed together: then images lie budget after budget, in each
    class by class; `base_size`: of the learning-rate rule, pixels; `rows`: of the view, where it starts from a pool;
    `masks`: of each outer iteration, where networks are made sparse; `stage`: of a progressive distillation, from 0;
    `frozen`: the images of its earlier stages, of all classes, which stay as they are; `condition`: how networks that
    start from no pool are trained on these (the settings of a protocol); `begins_from`: the real images that the
    synthetic ones begin as, where not all of `data`; `scores`: the table crops are taken from, `native`: the images
    they are cut from, `observe`: the network that judges images, where a method selects any.
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
    frozen: SyntheticSet | None = None
    condition: Mapping[str, Any] | None = None
    begins_from: RealData | None = None
    scores: ScoreTable | None = None
    native: Native | None = None
    observe: Observe | None = None

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

    def start(self, times: int = 1) -> Start:
        """A fresh network per outer iteration (conditioned on the earlier stages, if any), or one drawn from the view.

        `times`: how many will be drawn.
        """
        if self.network is None:
            raise ValueError("this method needs a network: name one in the experiment")
        shape = (self.data.channels, self.data.height, self.data.width)
        fresh = Fresh(self.network, shape, self.data.classes, self.streams, self.data.labels.device)
        if self.rows is not None:
            return FromPool(self.rows, fresh)
        if self.frozen is None:
            return fresh
        if self.condition is None:
            raise ValueError(
                f"stage {self.stage} starts from networks trained on the stages before it: say how (`condition`), or "
                "give the rows of networks that are"
            )
        given = self.frozen, self.condition, self.streams, fresh.net, self.data.labels.device
        return Changed(fresh, Conditioning(*given, self.execution.compile, self.execution.precision, times))

    def frozen_images(self) -> Tensor | None:
        """Images of the earlier stages [classes of this job, ipc, stages, C, H, W] (None: this is the first)."""
        if self.frozen is None:
            return None
        device, (ipc,) = self.data.labels.device, self.budgets
        each = [self.frozen.pixels[self.frozen.labels == label] for label in self.classes]
        stages = len(set(self.frozen.stage.tolist()))
        if wrong := [len(own) for own in each if len(own) != stages * ipc]:
            raise ValueError(
                f"every earlier stage has {ipc} images per class, as this one: {stages} stages hold {stages * ipc}, "
                f"not {wrong[0]}"
            )
        return torch.stack([own.reshape(stages, ipc, *own.shape[1:]).transpose(0, 1) for own in each]).to(device)
