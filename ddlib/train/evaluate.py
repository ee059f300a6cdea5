"""Students trained on a set and scored on test data: the accuracy of the last epoch, for every network and repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddlib import nn as networks
from ddlib.events import NullEvents
from ddlib.progress import progress
from ddlib.streams import Batches, Streams
from ddlib.train.compiler import decide, forward_flops
from ddlib.train.loop import Learning, Source, State, Trainer
from ddlib.train.schedules import decayed
from ddlib.train.scoring import Scorer


@dataclass(frozen=True)
class Labelled:
    """Decoded images float32 [N, C, H, W] (shares 0-1) with labels [N], as a source of training."""

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def pixels(self, index: Tensor) -> Tensor:
        """Images at `index`."""
        return self.images[index.to(self.images.device)]


def steps_of(protocol: Mapping[str, Any], images: int, whole: bool) -> int:
    """Steps of one student on `images` training images. `whole` trains by its own number of steps."""
    if whole:
        return int(protocol["whole_steps"])
    steps = protocol["steps"] or protocol["epochs"] * -(-images // min(protocol["batch"], images))
    if not steps:
        raise ValueError("the protocol trains for 0 epochs and 0 steps: give it one of the two")
    return int(steps)


def train_student(
    trainer: Trainer, state: State, passes: Iterable[int], steps: int, batches: Batches, protocol: Mapping[str, Any]
) -> State:
    """Train one student for `steps`, pass by pass over its data; the learning rate falls by epochs, or by steps where
    these are no whole number of epochs."""
    per_pass = batches.per_pass
    by_epochs = steps % per_pass == 0
    at, decay = protocol["decay_at"], protocol["decay_factor"]
    for turn in passes:
        first = turn * per_pass
        many = min(per_pass, steps - first)
        rates = [
            decayed(turn, steps // per_pass, at, decay) if by_epochs else decayed(first + step, steps, at, decay)
            for step in range(many)
        ]
        state, _ = trainer.run(state, batches.batches(first, many), (*batches.index, turn), rates.__getitem__)
    return state


def evaluate(
    source: Source,
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
) -> Iterator[dict[str, Any]]:
    """Rows {network, repeat, accuracy (share 0-1), train_images, steps}, one per student.

    `students`: name -> network; `shape`: (C, H, W). Repeat r of a distillation seed starts from the same weights and
    sees the same draws whatever the set: methods are compared on paired students.
    """
    streams = Streams(seed, "evaluate")
    count = len(source.labels)
    steps = steps_of(protocol, count, whole)
    learning = Learning.of(protocol)
    for name, network in students.items():
        build = _builder(network, shape, classes, streams)
        net = build(0)
        flops = 3.0 * steps * min(learning.batch, count) * forward_flops(net, shape) * protocol["repeats"]
        compiler = decide(compile_mode, str(source.labels.device.type), flops)
        trainer = Trainer(net, learning, source, streams, "student", compiler, precision)
        scorer = Scorer(net, test.labels.device, compiler)
        for repeat in range(protocol["repeats"]):
            net = build(repeat)
            state = State.of(net.to(source.labels.device))
            batches = Batches(streams, "student_batches", count, learning.batch, index=(repeat,))
            passes = progress(range(-(-steps // batches.per_pass)), f"{name}, repeat {repeat + 1}", "passes", events)
            state = train_student(trainer, state, passes, steps, batches, protocol)
            found = scorer.accuracy(state, test)
            yield {"network": name, "repeat": repeat, "accuracy": found, "train_images": count, "steps": steps}


def _builder(
    network: Mapping[str, Any], shape: tuple[int, int, int], classes: int, streams: Streams
) -> Callable[[int], torch.nn.Module]:
    options = {key: value for key, value in network.items() if key != "version"}

    def build(repeat: int) -> torch.nn.Module:
        seed = streams.integer("student", repeat)
        return networks.build(options, channels=shape[0], size=shape[1], classes=classes, seed=seed)

    return build
