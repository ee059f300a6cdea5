"""The one training loop of the project: pool members, the networks between image updates, and students all use it.

A network in training is a :class:`State` of plain tensors moved by a pure step (augment, CutMix, cross entropy, SGD or
Adam): it can be compiled, checkpointed and resumed anywhere between two batches. All random numbers of a run of batches
are drawn at once from keyed streams; nothing in the loop waits for the device.

The recipe is that of IDC's `train_epoch` (snu-mllab/Efficient-Dataset-Condensation @ ceac95a): normalise, augment per
image, CutMix with a probability, SGD with momentum and weight decay.
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

from ddlib.augment.mix import cutmix_apply, cutmix_draw
from ddlib.augment.siamese import Augmentation
from ddlib.nn.functional import Params, split, with_statistics
from ddlib.registry import nearest
from ddlib.streams import Streams
from ddlib.train.adam import adam_step, no_moments
from ddlib.train.compiler import EAGER, Compiler
from ddlib.train.losses import mixed_cross_entropy
from ddlib.train.sgd import sgd_step, zero_velocity

AT_REST: dict[str, Callable[[Params], Params]] = {"sgd": zero_velocity, "adam": no_moments}
"""An optimiser's own state before its first step, by its name."""


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


@dataclass(frozen=True)
class Learning:
    """How a network is trained: optimiser (sgd, or adam, which has no use for `momentum`), augmentation, CutMix."""

    lr: float
    momentum: float
    weight_decay: float
    batch: int
    augment: Augmentation
    mix_probability: float
    mix_beta: float
    optimiser: str = "sgd"

    def __post_init__(self) -> None:
        if self.optimiser not in AT_REST:
            raise ValueError(f"no optimiser is called {self.optimiser!r}: {nearest(self.optimiser, AT_REST)}")

    @classmethod
    def of(cls, settings: Mapping[str, Any], prefix: str = "") -> Learning:
        """From settings named lr, momentum, ... (with `prefix`, as in network_lr); SGD where no optimiser is named."""
        names = ("lr", "momentum", "weight_decay", "batch", "mix_probability", "mix_beta")
        augment = Augmentation(settings[f"{prefix}augment"], settings.get("dialect", "idc"))
        optimiser = settings.get(f"{prefix}optimiser", "sgd")
        return cls(augment=augment, optimiser=optimiser, **{name: settings[prefix + name] for name in names})

    def step(self, params: Params, velocity: Params, grads: Params, lr: Tensor) -> tuple[Params, Params]:
        """(params, velocity) after a step of the optimiser."""
        if self.optimiser == "adam":
            return adam_step(params, velocity, grads, lr, self.weight_decay)
        return sgd_step(params, velocity, grads, lr, self.momentum, self.weight_decay)


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
        self.call = with_statistics(copy.deepcopy(net).to(self.device).train())
        shape = source.pixels(torch.zeros(1, dtype=torch.int64)).shape
        self.height, self.width = int(shape[2]), int(shape[3])
        self.mean, self.std = (
            torch.tensor(values, device=self.device).reshape(1, -1, 1, 1) for values in (source.mean, source.std)
        )
        self.autocast = precision == "bf16"
        # One of six operations a batch: inside, each would have the whole step compiled once more (torch stops at 8).
        self.augments_outside = learning.augment.dialect == "mtt"
        self.step = compiler(self._step)

    @property
    def targets(self) -> Tensor:
        """What images are trained to be: labels int64 [N], or where the source has them soft ones [N, classes]."""
        soft: Tensor | None = getattr(self.source, "soft", None)
        return self.source.labels if soft is None else soft

    def on(self, source: Source, lr: float | None = None) -> Trainer:
        """This trainer, with what it has compiled, on a source like its own and at another rate (None: its own)."""
        other = copy.copy(self)
        other.source = source
        other.learning = self.learning if lr is None else dataclasses.replace(self.learning, lr=lr)
        return other

    def _augmented(self, x: Tensor, draws: Params, choice: str | None) -> Tensor:
        """Pixels `x` [n, C, H, W], normalised and augmented."""
        return self.learning.augment.apply((x - self.mean) / self.std, draws, choice)

    def _step(
        self, state: Any, x: Tensor, y: Tensor, draws: Params, mix: Params, choice: str | None, lr: Tensor
    ) -> tuple[Any, Tensor, Tensor]:
        """(params, buffers, velocity), loss 0-d, correct bool [n] after one batch of pixels `x` [n, C, H, W]."""
        params, buffers, velocity = state
        if not self.augments_outside:
            x = self._augmented(x, draws, choice)
        x = cutmix_apply(x, mix["permutation"], mix["box"])
        permuted = y[mix["permutation"]]

        def loss_of(params: Params) -> tuple[Tensor, tuple[Tensor, Params]]:
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.autocast):
                logits, new = self.call(params, buffers, x)
            return mixed_cross_entropy(logits, y, permuted, mix["ratio"]), (logits, new)

        grads, (loss, (logits, buffers)) = torch.func.grad_and_value(loss_of, has_aux=True)(params)
        params, velocity = self.learning.step(params, velocity, grads, lr)
        return (params, buffers, velocity), loss, logits.argmax(1) == (y if y.ndim == 1 else y.argmax(1))

    def run(
        self,
        state: State,
        batches: Sequence[np.ndarray],
        index: tuple[int, ...],
        lr_factor: Callable[[int], float] = lambda step: 1.0,
        seen: Callable[[Tensor, Tensor], None] | None = None,
        rest_at: Collection[int] = (),
    ) -> tuple[State, Totals]:
        """Train on `batches` (indices into the source). `index` keys the draws; `lr_factor(i)` scales batch i's rate.

        `seen(indices, correct)` is told which images were classified right, batch by batch. Before the batches in
        `rest_at` the optimiser is put at rest.
        """
        order, places = self._indices(batches)
        draws, mixes, choices = self._draws(len(batches), index)
        rates = torch.tensor([self.learning.lr * lr_factor(step) for step in range(len(batches))], device=self.device)
        moved: Any = (state.params, state.buffers, state.velocity)
        loss_sum, correct_sum = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for step, (first, last) in enumerate(places):
            n, chosen = last - first, order[first:last]
            draw = {name: values[step, :n] for name, values in draws.items()}
            mix = {name: values[step] for name, values in mixes.items()}
            if n < self.learning.batch:
                permutation = mix["permutation"]
                mix["permutation"] = permutation[torch.nonzero(permutation < n).flatten()]
            if step in rest_at:
                moved = (*moved[:2], AT_REST[self.learning.optimiser](moved[0]))
            x, y = self.source.pixels(chosen), self.targets[chosen]
            choice = choices[step]
            if self.augments_outside:
                x, draw, choice = self._augmented(x, draw, choice), {}, None
            moved, loss, correct = self.step(moved, x, y, draw, mix, choice, rates[step])
            loss_sum = loss_sum + loss.detach() * n
            correct_sum = correct_sum + correct.sum()
            if seen is not None:
                seen(chosen, correct)
        return State(*moved), Totals(loss_sum, correct_sum, len(order))

    def _indices(self, batches: Sequence[np.ndarray]) -> tuple[Tensor, list[tuple[int, int]]]:
        ends = np.cumsum([len(batch) for batch in batches]).tolist()
        order = torch.from_numpy(np.concatenate(batches)).to(self.device)
        return order, list(zip([0, *ends[:-1]], ends, strict=True))

    def _draws(self, steps: int, index: tuple[int, ...]) -> tuple[Params, Params, list[str | None]]:
        """All draws of `steps` batches on the device: augmentation, CutMix, and the chosen operation by name."""
        recipe = self.learning
        rng = self.streams.at(f"{self.purpose}_augment", *index)
        drawn = recipe.augment.draw(rng, (steps,), height=self.height, width=self.width, images=recipe.batch)
        chosen = drawn.pop("choice", None)
        names = recipe.augment.choices
        choices: list[str | None] = [None] * steps
        if names and chosen is not None:
            choices = [names[int(number)] for number in chosen]
        rng = self.streams.at(f"{self.purpose}_mix", *index)
        mix = cutmix_draw(
            rng,
            (steps,),
            batch=recipe.batch,
            height=self.height,
            width=self.width,
            probability=recipe.mix_probability,
            beta=recipe.mix_beta,
        )
        return to_device(drawn, self.device), to_device(mix, self.device), choices


def to_device(draws: Mapping[str, np.ndarray], device: str | torch.device) -> Params:
    """Drawn arrays as tensors: float64 becomes float32, integers stay."""
    out = {}
    for name, values in draws.items():
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        out[name] = (tensor.float() if tensor.dtype == torch.float64 else tensor).to(device, non_blocking=True)
    return out
