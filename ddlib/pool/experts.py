"""Pairs of snapshots of one member of a pool, some epochs apart: where a student starts and where it is to end.

Cazenavette et al., "Dataset Distillation by Matching Training Trajectories" (MTT), 2022, arXiv 2203.11932. Nothing but
the two snapshots of the present outer iteration is held: files are mapped, and each is checked against its hash once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ddlib.artifacts import load_tensors
from ddlib.streams import Streams
from ddlib.train.loop import State

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Expert:
    """A network (`start`) and what it became on real data (`target`); no optimiser's state in either."""

    start: State
    target: State


@dataclass
class Experts:
    """Draws rows of a view uniformly, with replacement; `device`: where networks are put.

    A row has file, sha256, target_file and target_sha256. ValueError where there is no row, or one has no target.
    """

    rows: Sequence[Row]
    streams: Streams
    device: str | torch.device = "cpu"
    _checked: set[str] = field(default_factory=set)
    _held: tuple[int, Expert] | None = None

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("the view selects no snapshot: there is nothing to start from")
        if without := [row for row in self.rows if not (isinstance(at := row.get("target_file"), str) and at)]:
            raise ValueError(
                f"{without[0]['file']} has no target: trajectories are matched over some epochs. Give the view a "
                "`horizon`, such as horizon: 2."
            )

    def of(self, outer: int) -> Expert:
        """The expert of the stream (member, outer); ValueError for one that did not move or is not finite."""
        if self._held is None or self._held[0] != outer:
            row = self.rows[int(self.streams.at("member", outer).integers(len(self.rows)))]
            self._held = (outer, self._read(row))
        return self._held[1]

    def _read(self, row: Row) -> Expert:
        start = self._tensors(row["file"], row["sha256"])
        target = self._tensors(row["target_file"], row.get("target_sha256"))
        names = [name for name in start if name.startswith("params/")]
        moved = torch.stack([(target[name] - start[name]).square().sum() for name in names]).sum()
        if not bool(torch.isfinite(moved)):
            raise ValueError(
                f"from {row['file']} to {row['target_file']} the weights are not finite: that expert diverged. Lower "
                "the learning rate of the pool's training."
            )
        if not float(moved):
            raise ValueError(
                f"from {row['file']} to {row['target_file']} no weight moved, so that the distance to it cannot be "
                "normalised. Give the view a horizon above 0, or raise the learning rate of the pool's training."
            )
        return Expert(self._state(start), self._state(target))

    def _tensors(self, file: str, sha256: str | None) -> dict[str, Tensor]:
        found = load_tensors(file, None if file in self._checked else sha256)[0]
        self._checked.add(file)
        return found

    def _state(self, tensors: Mapping[str, Tensor]) -> State:
        held: dict[str, dict[str, Tensor]] = {"params": {}, "buffers": {}}
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            if part in held:
                held[part][name] = value.to(self.device)
        return State(held["params"], held["buffers"], {})
