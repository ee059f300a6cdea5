"""What students are taught, in turn: a set at once, or the stages of a progressive distillation one after the other.

Chen et al., "Data Distillation Can Be Like Vodka: Distilling More Times For Better Quality" (PDD), 2023,
arXiv 2310.06982; VITA-Group/ProgressiveDD @ 844fa9a. U_p is the union of the images of stages 1 to p; a protocol's
`schedule` is one of

- ``at_once``: the whole set, as any other;
- ``in_sequence``: U_1, U_2, ..., U_P, each for the protocol's epochs (or steps) and with its learning rate from the
  beginning, the velocity carried over where `carry_optimiser` says so (as published);
- ``new_only``: in sequence, stage p's own images in place of U_p;
- ``as_many_steps``: the whole set at once for as many steps as ``in_sequence`` takes, so that what is left of a
  difference is the sequence's.

A set of one stage, as of the methods that are not progressive and the baselines, is taught alike by all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from ddlib.registry import nearest
from ddlib.train.evaluate import Labelled, Lesson, Recorded, steps_of
from ddlib.train.loop import Observe

# Labels that a set has by itself: its classes, or what it was made with.
OF_THE_SET = ("hard", "own")
SCHEDULES = ("at_once", "in_sequence", "new_only", "as_many_steps")


class Staged(Protocol):
    """A synthetic set (ddlib.sets.synthetic), as far as it concerns students."""

    @property
    def stage(self) -> Tensor: ...
    @property
    def factor(self) -> int: ...
    @property
    def grid(self) -> int: ...
    @property
    def step_size(self) -> Tensor | None: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    def upto(self, stage: int) -> Staged: ...
    def only(self, stage: int) -> Staged: ...
    def decode(self) -> tuple[Tensor, Tensor]: ...
    def decode_soft(self) -> Tensor | None: ...


class Store(Recorded, Protocol):
    """What a teacher said of a set's images, or of views of them (ddlib.sets.labels)."""

    @property
    def kind(self) -> str: ...
    def check(self, made: Any, protocol: Mapping[str, Any]) -> None: ...
    def logits(self) -> Tensor: ...


Labels = str | Store | Observe


def lessons(
    made: Staged, protocol: Mapping[str, Any], labels: Labels = "hard", device: str | torch.device = "cpu"
) -> list[Lesson]:
    """The lessons of a set by a protocol, decoded and on `device`.

    `labels`: hard (each image's class); own (the set's soft labels where it has them); a label store made for this set;
    or a teacher, which is asked for each batch as students train. A lesson at a learned step size (`learned_lr`) has
    that of its last stage. ValueError for an unknown schedule or kind of labels, for a store of another set or of other
    views than the protocol's, and for a step size that no student can train at.
    """
    if isinstance(labels, str) and labels not in OF_THE_SET:
        raise ValueError(
            f"a set has no labels called {labels!r}: {nearest(labels, OF_THE_SET)} Give the store, or the teacher, "
            "for others."
        )
    if not isinstance(labels, str) and not callable(labels):
        labels.check(made, protocol)
    stages = sorted(set(made.stage.tolist()))
    new = [int((made.stage == stage).sum()) * made.factor**2 for stage in stages]
    steps = steps_in_turn(protocol, new)
    told = _told(labels)
    if len(steps) == 1:
        rate = learning_rate(made, protocol, len(stages))
        return [Lesson(labelled(made, labels, device), steps[0][1], rate, **told)]
    if "recorded" in told:
        raise ValueError(
            f"labels of recorded views are those of a whole set, and the protocol teaches its {len(stages)} stages in "
            "turn: use schedule: at_once, static labels or an online teacher"
        )
    own = protocol["schedule"] == "new_only"
    found = []
    for place, (stage, (_, many)) in enumerate(zip(stages, steps, strict=True)):
        chosen = made.stage == stage if own else made.stage <= stage
        part = labelled(made.only(stage) if own else made.upto(stage), labels, device, chosen)
        found.append(Lesson(part, many, learning_rate(made, protocol, place + 1), (place,) if place else (), **told))
    return found


def _told(labels: Labels) -> dict[str, Any]:
    """What a lesson is told beside its images."""
    if isinstance(labels, str):
        return {}
    if callable(labels):
        return {"teacher": labels}
    return {"recorded": labels} if labels.kind == "per_view" else {}


def steps_in_turn(protocol: Mapping[str, Any], new: Sequence[int]) -> list[tuple[int, int]]:
    """(decoded images, steps) of each lesson of a set whose stages add `new` decoded images each."""
    schedule = protocol.get("schedule", "at_once")
    if schedule not in SCHEDULES:
        raise ValueError(f"no schedule is called {schedule!r}: {nearest(schedule, SCHEDULES)}")
    counts = list(new) if schedule == "new_only" else list(accumulate(new))
    if schedule == "at_once":
        counts = counts[-1:]
    found = [(count, steps_of(protocol, count, False)) for count in counts]
    return [(counts[-1], sum(steps for _, steps in found))] if schedule == "as_many_steps" else found


def learning_rate(made: Staged, protocol: Mapping[str, Any], number: int) -> float:
    """The rate that a lesson up to the `number`-th stage of a set (from 1) begins with."""
    rate = float(protocol["lr"])
    if protocol.get("learned_lr", False) and made.step_size is not None:
        rate = float(made.step_size[number - 1])
        if not 0 < rate < math.inf:
            raise ValueError(
                f"the step size learned in stage {number - 1} is {rate}: no student can train at it. Lower "
                "step_size_lr where the set is made, or set learned_lr: false in the protocol to train at its lr."
            )
    first = protocol.get("halve_from_stage", 0)
    return rate / 2 if first and number >= first else rate


def labelled(part: Staged, labels: Labels, device: str | torch.device, chosen: Tensor | None = None) -> Labelled:
    """A set decoded, on `device`, with soft labels where `labels` is own and it has them, or with a teacher's logits.

    `chosen` bool [N]: which of the images that a store is of are in this part of them (None: all).
    """
    images, hard = part.decode()
    soft = part.decode_soft() if labels == "own" else None
    soft = None if soft is None else soft.to(device)
    logits = None
    if not isinstance(labels, str) and not callable(labels) and labels.kind == "static":
        logits = labels.logits()
        # Decoded images lie cell by cell, all images' first cells first.
        logits = (logits if chosen is None else logits[chosen.repeat(part.factor**2)]).to(device)
    return Labelled(images.to(device), hard.to(device), part.mean, part.std, soft, logits, part.grid)
