"""Trajectory matching as an objective: an expert a step, a student on mini-batches of all images, a learned step size.

GeorgeCazenavette/mtt-distillation @ 50dccea (distill.py). Soft labels by an expert: justincui03/tesla @ 488842e
(`teacher_label`), here at any size. Images of earlier stages of a progressive distillation are among the batches but
get no gradient, and keep the labels they have.

**Differs**: images are learned as shares 0-1 and normalised before they are augmented (officially they are learned
normalised; see the learning rates of :mod:`ddlib.methods.mtt`). All draws of an outer iteration come from keyed
streams. The student of a network with batch norm normalises by its batches.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddlib.augment.showing import to_device
from ddlib.augment.siamese import Augmentation
from ddlib.data.real import RealData
from ddlib.nn.chance import refuse_dropout
from ddlib.nn.functional import Params, functional
from ddlib.nn.norm import frozen_statistics
from ddlib.objectives.matching import Execution, Inner
from ddlib.objectives.trajectory import ENGINES, Batch, Student, Trajectory
from ddlib.pool.experts import Expert, Experts
from ddlib.registry import nearest
from ddlib.sets.synthetic import SyntheticSet
from ddlib.streams import Streams
from ddlib.train.compiler import Compiler, decide, forward_flops
from ddlib.train.loop import State

CHOICES = {"engine": tuple(ENGINES), "step_size_as": ("raw", "positive"), "soft_labels": ("none", "expert")}
LABELLED_AT_ONCE = 512


class TrajectoryMatching:
    """One step per outer iteration. `settings`: ddlib/presets.py; `labels` int64 [N]: of the images learned; `net`: the
    experts' architecture; `frozen`: images of earlier stages, which come before those learned."""

    inner_steps = 1
    chunk = 1

    def __init__(
        self,
        settings: Mapping[str, Any],
        data: RealData,
        labels: Tensor,
        net: nn.Module,
        experts: Experts,
        streams: Streams,
        execution: Execution,
        frozen: SyntheticSet | None = None,
    ) -> None:
        self.settings, self.data, self.experts, self.streams = settings, data, experts, streams
        self.device, self.bf16 = data.labels.device, execution.precision == "bf16"
        _check(settings)
        refuse_dropout(net)
        self.net = copy.deepcopy(net).to(self.device).train()
        self.std = torch.tensor(data.std, device=self.device).reshape(-1, 1, 1)
        self.frozen = None if frozen is None else frozen.pixels.to(self.device)
        self.labels = self._labels(labels.to(self.device), frozen)
        self.soft = self._frozen_soft(frozen) if settings["soft_labels"] == "expert" else None
        self.batch = min(settings["student_batch"] or len(labels), len(self.labels))
        self.augment = Augmentation(settings["augment"], settings["dialect"])
        self.compiler = self._decide(execution)
        self.call, self.judge = functional(self.net), functional(copy.deepcopy(self.net).eval())
        self.student = Student(self._logits, self.augment.apply, self.compiler)
        self.match = ENGINES[settings["engine"]]

    # ---- one outer iteration -----------------------------------------------------------------------------------

    def begin(self, outer: int, cursor: int) -> Inner:
        """The expert's earlier network in outer iteration `outer`."""
        return Inner(outer, self.experts.of(outer).start, cursor)

    def gradient(self, learned: Params, inner: Inner, step: int) -> tuple[Tensor, Params]:
        """(loss [1], gradients of "images" and "step_size", and the new labels "soft" where an expert gives them)."""
        expert, raw = self.experts.of(inner.outer), self.settings["step_size_as"] == "raw"
        union = learned["images"] if self.frozen is None else torch.cat([self.frozen, learned["images"]])
        seen, kept = self.data.normalise(union), len(union) - len(learned["images"])
        step_size = learned["step_size"] if raw else learned["step_size"].exp()
        labels, given = self.labels, dict[str, Tensor]()
        if self.soft is not None:
            given["soft"] = self.labels_by(expert, seen[kept:])
            labels = torch.cat([self.soft, given["soft"]])
        with frozen_statistics(self.net):
            batches = self.batches(inner.outer)
            start, buffers = inner.network.params, inner.network.buffers
            made = Trajectory(start, expert.target.params, buffers, seen, labels, step_size, batches, kept)
            found = self.match(self.student, made)
        slope = found.step_size if raw else found.step_size * step_size
        return found.loss[None], {"images": found.images / self.std, "step_size": slope, **given}

    def advance(self, inner: Inner) -> Inner:
        """Nothing moves between two steps: each has an expert of its own."""
        return inner

    # ---- its parts ---------------------------------------------------------------------------------------------

    def batches(self, outer: int) -> list[Batch]:
        """What the student's steps see in outer iteration `outer`."""
        steps, count = self.settings["student_steps"], len(self.labels)
        rows = batch_rows(self.streams.at("student_batches", outer), count, self.batch, steps)
        shape = {"height": self.data.height, "width": self.data.width, "images": self.batch}
        drawn = self.augment.draw(self.streams.at("student_augment", outer), (steps,), **shape)
        chosen = drawn.pop("choice", None)
        names = self.augment.choices
        choices = [None] * steps if chosen is None else [names[int(number)] for number in chosen]
        draws, order = to_device(drawn, self.device), to_device({"rows": np.concatenate(rows)}, self.device)["rows"]
        split = torch.split(order, [len(own) for own in rows])
        return [
            Batch(own, {name: values[step, : len(own)] for name, values in draws.items()}, choices[step])
            for step, own in enumerate(split)
        ]

    def labels_by(self, expert: Expert, seen: Tensor) -> Tensor:
        """What the expert's later network says of normalised images: shares [N, classes]."""
        network: State = expert.target
        with torch.no_grad():
            chunks = torch.split(seen, LABELLED_AT_ONCE)
            return torch.cat([self.judge(network.params, network.buffers, chunk).softmax(1) for chunk in chunks])

    def _logits(self, params: Params, buffers: Params, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return self.call(params, buffers, x)

    def _labels(self, labels: Tensor, frozen: SyntheticSet | None) -> Tensor:
        """Of the images learned, after those of earlier stages."""
        if frozen is None:
            return labels
        if frozen.factor != 1:
            raise ValueError(
                f"the images of the earlier stages are packed {frozen.factor} x {frozen.factor}: not MTT's"
            )
        return torch.cat([frozen.labels.to(self.device), labels])

    def _frozen_soft(self, frozen: SyntheticSet | None) -> Tensor:
        """Labels of the images of earlier stages, shares [frozen, classes]."""
        if frozen is None:
            return torch.zeros(0, self.data.classes, device=self.device)
        if frozen.soft is None:
            raise ValueError("the images of the earlier stages have no soft labels: condense them with soft_labels too")
        return frozen.soft.to(self.device)

    def _decide(self, execution: Execution) -> Compiler:
        """Compile or not, by the operations of the whole condensation."""
        shape = (self.data.channels, self.data.height, self.data.width)
        images = self.settings["student_steps"] * self.batch * self.settings["outer_iterations"]
        if self.settings["engine"] == "unroll":
            return Compiler(False, "eager: the engine unroll is the reference, never compiled")
        return decide(execution.compile, self.device.type, 12.0 * images * forward_flops(self.net, shape))


def batch_rows(rng: np.random.Generator, count: int, batch: int, steps: int) -> list[np.ndarray]:
    """int64 rows [<= batch] of each of `steps` steps: a permutation of `count` in chunks, taken from its end (where the
    last, smaller one is), then the next permutation."""
    found: list[np.ndarray] = []
    while len(found) < steps:
        order = rng.permutation(count)
        found += [order[first : first + batch] for first in range(0, count, batch)][::-1]
    return found[:steps]


def _check(settings: Mapping[str, Any]) -> None:
    """ValueError for settings that cannot be."""
    if settings["student_steps"] < 1:
        raise ValueError(f"student_steps is at least 1, not {settings['student_steps']}")
    if settings["student_batch"] < 0:
        raise ValueError(f"student_batch is at least 0 (as many as are learned), not {settings['student_batch']}")
    for name, known in CHOICES.items():
        if settings[name] not in known:
            raise ValueError(f"no {name} is called {settings[name]!r}: {nearest(settings[name], known)}")
