"""How far an evaluation is: the rows of the students that have finished, and the one in training between two passes.

Kept in a checkpoint, where there is one: students are trained one after the other, so that a job killed at any moment
goes on in the middle of one, and its table has the bytes of an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ddlib.checkpoints import Checkpoint
from ddlib.train.loop import State


class Standing:
    """`rows`: of finished students (ddlib.train.evaluate), in order; `students`: how many there will be, for messages
    (0: not told); `compiled`: by network, whether it is, which changes the last bits."""

    def __init__(self, checkpoint: Checkpoint | None = None, students: int = 0) -> None:
        self.checkpoint, self.students = checkpoint, students
        found = checkpoint.load() if checkpoint else None
        self._tensors, facts = found or ({}, {})
        self.rows: list[dict[str, Any]] = list(facts.get("rows", []))
        self.compiled: dict[str, bool] = dict(facts.get("compiled", {}))
        self._place: tuple[int, int] = tuple(facts["place"]) if self._tensors else (0, 0)

    def todo(self, network: str, repeats: int) -> range:
        """Repeats of a network that have not finished."""
        return range(sum(row["network"] == network for row in self.rows), repeats)

    def mode(self, network: str, asked: str) -> str:
        """Whether to compile: as it was begun, or as `asked`."""
        return {True: "always", False: "never"}[self.compiled[network]] if network in self.compiled else asked

    @property
    def unit(self) -> str:
        """What the progress of the student in training is counted in, and which one it is."""
        return f"passes of student {len(self.rows) + 1}/{self.students}" if self.students else "passes"

    def begin(self, new: Callable[[], State], device: torch.device) -> tuple[State, int, int]:
        """The next student: a `new` one, or the one that was in training; its lesson, and how many passes over that one
        it has made."""
        tensors, self._tensors = self._tensors, {}
        if not tensors:
            return new(), 0, 0
        return State.from_tensors(tensors, device), *self._place

    def passed(self, state: State, passes: int, lesson: int) -> None:
        """The student in training has made so many passes over a lesson."""
        if self.checkpoint is not None and self.checkpoint.due:
            self._save(state.tensors(), place=[lesson, passes])

    def finished(self, row: Mapping[str, Any]) -> None:
        """The student in training is done."""
        self.rows.append(dict(row))
        if self.checkpoint is not None and self.checkpoint.due:
            self._save({})

    def _save(self, tensors: Mapping[str, torch.Tensor], **facts: Any) -> None:
        assert self.checkpoint is not None
        self.checkpoint.save(tensors, {"rows": self.rows, "compiled": self.compiled, **facts})
