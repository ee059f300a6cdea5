"""Students trained on a set and scored on test data: the accuracy of the last epoch, for every network and repeat."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ddlib import nn as networks
from ddlib.events import NullEvents
from ddlib.progress import progress
from ddlib.streams import Batches, Streams
from ddlib.train.compiler import decide, forward_flops
from ddlib.train.loop import AT_REST, Learning, Observe, Replay, Source, State, Trainer
from ddlib.train.schedules import rate
from ddlib.train.scoring import Scorer
from ddlib.train.standing import Standing


@dataclass(frozen=True)
class Labelled:
    """Decoded images float32 [N, C, H, W] with labels [N], as a source of training. In place of the labels what is
    trained on is `soft` [N, classes], shares, or `logits` [N, classes], a teacher's, where they are given. `grid`:
    patches a side that an image is stitched from."""

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    soft: Tensor | None = None
    logits: Tensor | None = None
    grid: int = 1

    def pixels(self, index: Tensor) -> Tensor:
        """Images at `index`."""
        return self.images[index.to(self.images.device)]


class Recorded(Protocol):
    """Views of a source, pass by pass, with what a teacher said of them (ddlib.sets.labels)."""

    def batches(self, turn: int) -> list[np.ndarray]:
        """Indices of the images, batch by batch, in pass `turn` (0, 1, ... without end)."""
        ...

    def replay(self, turn: int, many: int, device: torch.device) -> Replay:
        """How the first `many` batches of pass `turn` are shown, and the teacher's logits of them."""
        ...


@dataclass(frozen=True)
class Lesson:
    """What a student trains on for `steps`, from the rate `lr` on (None: the protocol's). `index` keys its draws.

    Its images are shown as `recorded`, where that is given; a `teacher` is asked for every batch.
    """

    source: Source
    steps: int
    lr: float | None = None
    index: tuple[int, ...] = ()
    recorded: Recorded | None = None
    teacher: Observe | None = None


def steps_of(protocol: Mapping[str, Any], images: int, whole: bool) -> int:
    """Steps of one student on `images` training images. `whole` trains by its own number of steps."""
    if whole:
        return int(protocol["whole_steps"])
    steps = protocol["steps"] or protocol["epochs"] * -(-images // min(protocol["batch"], images))
    if not steps:
        raise ValueError("the protocol trains for 0 epochs and 0 steps: give it one of the two")
    return int(steps)


def train_student(
    trainer: Trainer,
    state: State,
    passes: Iterable[int],
    steps: int,
    batches: Batches,
    protocol: Mapping[str, Any],
    recorded: Recorded | None = None,
    passed: Callable[[State, int], object] = lambda state, passes: None,
) -> State:
    """Train one student for `steps`, pass by pass over its data (`passes`: those to make, from a later than the first
    where it goes on); the learning rate falls by epochs, or by steps where these are no whole number of epochs, and
    with `restart_at_decay` the velocity is zeroed then. What is `recorded` is shown in place of `batches`, which key
    the draws and say how long a pass is. After each pass `passed` is told the state and how many there were."""
    per_pass = batches.per_pass
    for turn in passes:
        first = turn * per_pass
        many = min(per_pass, steps - first)
        rates = [_rate(protocol, first + step, steps, per_pass) for step in range(many)]
        known = [_rate(protocol, max(first - 1, 0), steps, per_pass), *rates]
        falls = [step for step, (old, new) in enumerate(pairwise(known)) if old != new]
        rest_at = falls if protocol.get("restart_at_decay", False) else []
        index = (*batches.index, turn)
        own: dict[str, Any] = {"replay": recorded.replay(turn, many, trainer.device)} if recorded else {}
        order = recorded.batches(turn)[:many] if recorded else batches.batches(first, many)
        state, _ = trainer.run(state, order, index, rates.__getitem__, rest_at=rest_at, **own)
        passed(state, turn + 1)
    return state


def _rate(protocol: Mapping[str, Any], step: int, steps: int, per_pass: int) -> float:
    """The factor of the learning rate at a step of `steps`."""
    delay = protocol.get("decay_delay", 0)
    if steps % per_pass == 0:
        return rate(protocol, step // per_pass, steps // per_pass, delay)
    return rate(protocol, step, steps, delay * per_pass)


def evaluate(
    source: Source | Sequence[Lesson],
    test: Source,
    students: Mapping[str, Mapping[str, Any]],
    protocol: Mapping[str, Any],
    shape: tuple[int, int, int],
    classes: int,
    seed: int,
    whole: bool = False,
    compile_mode: str = "never",
    precision: str = "fp32",
    events: NullEvents | None = None,
    standing: Standing | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows {network, repeat, accuracy (share 0-1), train_images, steps}, one per student.

    `source`: what students train on, or lessons that they are given in turn (ddlib/train/lessons.py): `train_images`
    is then how many images there are in all lessons together, each counted once, and `steps` the sum of theirs.
    `students`: name -> network; `shape`: (C, H, W). Repeat r of a distillation seed starts from the same weights and
    sees the same draws whatever the set: methods are compared on paired students. `standing`: where an interrupted
    evaluation goes on; students that had finished give no rows here.

    **Differs**: repeats start from weights of their own. PDD's official evaluation starts all from one network that the
    images were made with, so that its deviation is that of batches and augmentation alone; `shared_start` starts
    all repeats from one network, a new one.
    """
    streams = Streams(seed, "evaluate")
    if not isinstance(source, Sequence):
        source = [Lesson(source, steps_of(protocol, len(source.labels), whole))]
    taught: Sequence[Lesson] = source
    learning = Learning.of(protocol, grid=getattr(taught[0].source, "grid", 1))
    steps, batched = (sum(found) for found in zip(*(_work(lesson, learning) for lesson in taught), strict=True))
    facts = {"train_images": images_of(taught, protocol), "steps": steps}
    device, standing = taught[0].source.labels.device, standing or Standing()
    for name, network in students.items():
        build = _builder(network, shape, classes, streams, protocol.get("shared_start", False))
        todo = standing.todo(name, protocol["repeats"])
        if not todo:
            continue
        net = build(0)
        flops = 3.0 * batched * forward_flops(net, shape) * protocol["repeats"]
        compiler = decide(standing.mode(name, compile_mode), str(device.type), flops)
        standing.compiled[name] = compiler.enabled
        trainer = Trainer(net, learning, taught[0].source, streams, "student", compiler, precision)
        scorer = Scorer(net, test.labels.device, compiler)
        for repeat in todo:
            state = _taught(trainer, build, taught, protocol, repeat, name, standing, events)
            row = {"network": name, "repeat": repeat, "accuracy": scorer.accuracy(state, test), **facts}
            yield row
            standing.finished(row)


def images_of(taught: Sequence[Lesson], protocol: Mapping[str, Any]) -> int:
    """Images of all lessons: the last has those of the lessons before it, unless each has only its own."""
    counts = [len(lesson.source.labels) for lesson in taught]
    return sum(counts) if protocol.get("schedule", "at_once") == "new_only" else counts[-1]


def _work(lesson: Lesson, learning: Learning) -> tuple[int, int]:
    """(steps of a lesson, images in them)."""
    return lesson.steps, lesson.steps * min(learning.batch, len(lesson.source.labels))


def _taught(
    trainer: Trainer,
    build: Callable[[int], torch.nn.Module],
    taught: Sequence[Lesson],
    protocol: Mapping[str, Any],
    repeat: int,
    name: str,
    standing: Standing,
    events: NullEvents | None,
) -> State:
    """A student after its lessons; where the optimiser is not carried over, it is at rest before each."""
    optimiser = trainer.learning.optimiser
    state, begun, first = standing.begin(lambda: State.of(build(repeat).to(trainer.device), optimiser), trainer.device)
    for number, lesson in enumerate(taught[begun:], begun):
        if not first and not protocol.get("carry_optimiser", True):
            state = State(state.params, state.buffers, AT_REST[optimiser](state.params))
        count, index = len(lesson.source.labels), (repeat, *lesson.index)
        batches = Batches(trainer.streams, "student_batches", count, trainer.learning.batch, index=index)
        title = f"{name}, repeat {repeat + 1}" + (f", stage {lesson.index[0] + 1}" if lesson.index else "")
        many = -(-lesson.steps // batches.per_pass)
        passes = progress(range(first, many), title, standing.unit, events, first=first)
        own = trainer.on(lesson.source, lesson.lr, lesson.teacher)
        passed = functools.partial(standing.passed, lesson=number)
        state = train_student(own, state, passes, lesson.steps, batches, protocol, lesson.recorded, passed)
        first = 0
    return state


def _builder(
    network: Mapping[str, Any], shape: tuple[int, int, int], classes: int, streams: Streams, shared: bool
) -> Callable[[int], torch.nn.Module]:
    options = {key: value for key, value in network.items() if key != "version"}

    def build(repeat: int) -> torch.nn.Module:
        seed = streams.integer("student", 0 if shared else repeat)
        return networks.build(options, channels=shape[0], size=shape[1], classes=classes, seed=seed)

    return build
