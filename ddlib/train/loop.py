"""The one training loop of the project: pool members, the networks between image updates, and students all use it.

A network in training is a :class:`State` of plain tensors moved by a pure step (augment, mix, loss, optimiser): it
can be compiled, checkpointed and resumed anywhere between two batches. All random numbers of a run of batches are drawn
at once from keyed streams; nothing in the loop waits for the device.

The recipe is that of IDC's `train_epoch` (snu-mllab/Efficient-Dataset-Condensation @ ceac95a): normalise, augment per
image, CutMix with a probability, SGD with momentum and weight decay. Students may learn from a teacher's logits instead
of classes: given with the images, recorded with their views (:class:`Replay`), or asked for as they train.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ddlib.augment.showing import Drawing, Replay
from ddlib.nn.chance import has_dropout
from ddlib.nn.functional import Params, split, with_statistics
from ddlib.streams import Streams
from ddlib.train.compiler import EAGER, Compiler
from ddlib.train.learning import AT_REST, Learning, twice_remembering
from ddlib.train.losses import mixed_cross_entropy, taught_loss
from ddlib.train.sgd import zero_velocity

__all__ = ["AT_REST", "Learning", "Observe", "Replay", "Source", "State", "Totals", "Trainer"]

Observe = Callable[[Tensor], Tensor]
"""A teacher: logits [n, classes] of images [n, C, H, W] as networks see them (normalised)."""


class Source(Protocol):
    """Labelled images to train on: real data or a decoded synthetic set."""

    @property
    def labels(self) -> Tensor:
        """int64 [N]."""
        ...

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, as shares 0-1."""
        ...

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, as shares 0-1."""
        ...

    def pixels(self, index: Tensor) -> Tensor:
        """Images at `index` [n] as float32 [n, C, H, W] shares 0-1."""
        ...


@dataclass
class State:
    """A network in training: its parameters, buffers and the optimiser's velocity (for Adam: moments), by name."""

    params: Params
    buffers: Params
    velocity: Params

    @classmethod
    def of(cls, net: nn.Module, optimiser: str = "sgd") -> State:
        """The state of a network at rest, to be trained by `optimiser`."""
        params, buffers = split(net)
        return cls(params, buffers, AT_REST[optimiser](params))

    def tensors(self) -> dict[str, Tensor]:
        """As one flat map, for a checkpoint."""
        parts = {"params": self.params, "buffers": self.buffers, "velocity": self.velocity}
        return {f"{part}/{name}": value for part, held in parts.items() for name, value in held.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], device: str | torch.device = "cpu") -> State:
        """Back from :meth:`tensors`; a snapshot without velocity starts at rest, for SGD."""
        held: dict[str, Params] = {"params": {}, "buffers": {}, "velocity": {}}
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            held[part][name] = value.to(device)
        return cls(held["params"], held["buffers"], held["velocity"] or zero_velocity(held["params"]))


@dataclass(frozen=True)
class Totals:
    """Sums over the batches of a run, still on the device: `loss` x images, `correct` images, and how many."""

    loss: Tensor
    correct: Tensor
    count: int


class Trainer:
    """Trains networks of one architecture on one source. `streams` and `purpose` key what is drawn."""

    teacher: Observe | None = None

    def __init__(
        self,
        net: nn.Module,
        learning: Learning,
        source: Source,
        streams: Streams,
        purpose: str,
        compiler: Compiler = EAGER,
        precision: str = "fp32",
    ) -> None:
        self.learning, self.source, self.streams, self.purpose = learning, source, streams, purpose
        self.device = source.labels.device
        own = copy.deepcopy(net).to(self.device).train()
        self.call = with_statistics(twice_remembering(own) if learning.bn_twice else own)
        self.chancy = has_dropout(own)
        shape = source.pixels(torch.zeros(1, dtype=torch.int64)).shape
        self.sides = int(shape[2]), int(shape[3])
        self.mean, self.std = (
            torch.tensor(values, device=self.device).reshape(1, -1, 1, 1) for values in (source.mean, source.std)
        )
        self.autocast = precision == "bf16"
        # One of six operations a batch: inside, each would have the whole step compiled once more (torch stops at 8).
        self.augments_outside = learning.augment.dialect == "mtt"
        self.step = compiler(self._step)

    @property
    def targets(self) -> Tensor:
        """What images are trained to be, where no teacher says it: labels int64 [N], or where the source has them soft
        ones [N, classes]."""
        soft: Tensor | None = getattr(self.source, "soft", None)
        return self.source.labels if soft is None else soft

    def on(self, source: Source, lr: float | None = None, teacher: Observe | None = None) -> Trainer:
        """This trainer, with what it has compiled, on a source like its own and at another rate (None: its own); with
        a `teacher` that is asked for every batch."""
        other = copy.copy(self)
        other.source, other.teacher = source, teacher
        other.learning = self.learning if lr is None else dataclasses.replace(self.learning, lr=lr)
        return other

    def _shown(self, x: Tensor, draws: Params, mix: Params, choice: str | None) -> Tensor:
        """Pixels `x` [n, C, H, W] as the network sees them."""
        return self.learning.show(x, self.mean, self.std, draws, mix, choice)

    def _step(
        self,
        state: Any,
        x: Tensor,
        y: Tensor,
        draws: Params | None,
        mix: Params,
        choice: str | None,
        lr: Tensor,
        said: tuple[Tensor, ...] = (),
    ) -> tuple[Any, Tensor, Tensor]:
        """(params, buffers, velocity), loss 0-d, correct bool [n] after one batch.

        `x`: pixels [n, C, H, W], or where `draws` is None what is shown of them. `said`: a teacher's logits of what is
        shown, or of the images and of those mixed into them.
        """
        params, buffers, velocity = state
        if draws is not None:
            x = self._shown(x, draws, mix, choice)

        def loss_of(params: Params) -> tuple[Tensor, tuple[Tensor, Params]]:
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.autocast):
                logits, new = self.call(params, buffers, x)
            return self._loss(logits, y, mix, said), (logits, new)

        grads, (loss, (logits, buffers)) = torch.func.grad_and_value(loss_of, has_aux=True)(params)
        params, velocity = self.learning.step(params, velocity, grads, lr)
        return (params, buffers, velocity), loss, logits.argmax(1) == (y if y.ndim == 1 else y.argmax(1))

    def _loss(self, logits: Tensor, y: Tensor, mix: Params, said: tuple[Tensor, ...]) -> Tensor:
        """The loss on the classes, or on what a teacher has said."""
        learning, ratio = self.learning, mix["ratio"]
        if not said:
            return mixed_cross_entropy(logits, y, y[mix["permutation"]], ratio)
        permuted = said[1] if len(said) > 1 else None
        loss = taught_loss(learning.loss, logits, said[0], permuted, ratio, learning.temperature)
        if learning.loss != "mse_gt":
            return loss
        return loss + learning.truth_weight * mixed_cross_entropy(logits, y, y[mix["permutation"]], ratio)

    def run(
        self,
        state: State,
        batches: Sequence[np.ndarray],
        index: tuple[int, ...],
        lr_factor: Callable[[int], float] = lambda step: 1.0,
        seen: Callable[[Tensor, Tensor], None] | None = None,
        rest_at: Collection[int] = (),
        replay: Replay | None = None,
    ) -> tuple[State, Totals]:
        """Train on `batches` (indices into the source). `index` keys the draws; `lr_factor(i)` scales batch i's rate.

        `seen(indices, correct)` is told which images were classified right, batch by batch. Before the batches in
        `rest_at` the optimiser is put at rest. `replay`: how these batches are shown, and what was said of them then.
        """
        if self.chancy:
            torch.manual_seed(self.streams.integer(f"{self.purpose}_dropout", *index))
        order, places = self._indices(batches)
        drawing = replay.drawing if replay else self._draw(len(batches), index)
        rates = torch.tensor([self.learning.lr * lr_factor(step) for step in range(len(batches))], device=self.device)
        moved: Any = (state.params, state.buffers, state.velocity)
        loss_sum, correct_sum = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for step, (first, last) in enumerate(places):
            chosen = order[first:last]
            draw: Params | None
            draw, mix, choice = drawing.of(step, last - first)
            if step in rest_at:
                moved = (*moved[:2], AT_REST[self.learning.optimiser](moved[0]))
            x, y = self.source.pixels(chosen), self.targets[chosen]
            if self.augments_outside or self.teacher:
                x, draw, choice = self._shown(x, draw, mix, choice), None, None
            said = (replay.logits[first:last],) if replay else self._said(x, chosen, mix)
            moved, loss, correct = self.step(moved, x, y, draw, mix, choice, rates[step], said)
            loss_sum = loss_sum + loss.detach() * (last - first)
            correct_sum = correct_sum + correct.sum()
            if seen is not None:
                seen(chosen, correct)
        return State(*moved), Totals(loss_sum, correct_sum, len(order))

    def _said(self, x: Tensor, chosen: Tensor, mix: Params) -> tuple[Tensor, ...]:
        """What a teacher says of a batch shown as `x`, or has said of its images; nothing where there is none."""
        if self.teacher:
            with torch.no_grad():
                return (self.teacher(x),)
        logits: Tensor | None = getattr(self.source, "logits", None)
        if logits is None:
            return ()
        said = logits[chosen].float()
        return said, said[mix["permutation"]]

    def _draw(self, steps: int, index: tuple[int, ...]) -> Drawing:
        """All draws of `steps` batches."""
        return self.learning.draw(self.streams, self.purpose, index, steps, self.sides, self.device)

    def _indices(self, batches: Sequence[np.ndarray]) -> tuple[Tensor, list[tuple[int, int]]]:
        ends = np.cumsum([len(batch) for batch in batches]).tolist()
        order = torch.from_numpy(np.concatenate(batches)).to(self.device)
        return order, list(zip([0, *ends[:-1]], ends, strict=True))
