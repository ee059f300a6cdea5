"""What gradient matching draws at random: real batches, augmentation, subsampling; all of an outer iteration at once.

For *all* classes of the data set, of which a class phase takes its slice: phases merged are what one phase would have
made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddlib.augment.showing import to_device
from ddlib.augment.siamese import Augmentation
from ddlib.data.real import RealData
from ddlib.nn.functional import Params
from ddlib.streams import Batches, Streams


@dataclass(frozen=True)
class Drawn:
    """Draws of one outer iteration: tensors [steps, classes, ...] on the device, the operations chosen, by name, and of
    each budget the decoded images that are seen (None: all)."""

    tensors: Params
    choices: list[list[str]] | None
    rows: list[Tensor | None]


class MatchDraws:
    """Draws for the classes `classes` of `data`; `decoded`: images a class decodes to, in each budget. `settings`:
    ddlib/presets.py. What a budget is drawn does not depend on the others."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        data: RealData,
        classes: Sequence[int],
        decoded: Sequence[int],
        streams: Streams,
    ) -> None:
        self.settings, self.data, self.classes, self.streams = settings, data, list(classes), streams
        self.augment = Augmentation(settings["match_augment"])
        self.decoded = tuple(decoded)
        self.members = {label: data.of_class(label) for label in classes}
        self._held: tuple[int, Drawn] | None = None

    def of(self, outer: int) -> Drawn:
        """Augmentation of every inner step and class, and rows where a class decodes to more than `synthetic_batch`."""
        if self._held is None or self._held[0] != outer:
            self._held = (outer, self._draw(outer))
        return self._held[1]

    def _draw(self, outer: int) -> Drawn:
        calls = (self.settings["inner_steps"], self.data.classes)
        rng = self.streams.at("match_augment", outer)
        drawn = self.augment.draw(rng, calls, height=self.data.height, width=self.data.width)
        chosen = drawn.pop("choice", None)
        mine = {f"aug/{name}": values[:, self.classes] for name, values in drawn.items()}
        names = self.augment.choices
        choices = None
        if names and chosen is not None:
            choices = [[names[int(number)] for number in row] for row in chosen[:, self.classes]]
        rows = [self._rows(outer, calls, decoded) for decoded in self.decoded]
        return Drawn(to_device(mine, self.data.labels.device), choices, rows)

    def _rows(self, outer: int, calls: tuple[int, int], decoded: int) -> Tensor | None:
        """Which of `decoded` images are seen in each step [steps, classes, synthetic_batch], without replacement."""
        if decoded <= self.settings["synthetic_batch"]:
            return None
        order = np.argsort(self.streams.at("match_rows", outer).random((*calls, decoded)), axis=-1)
        seen = order[:, self.classes, : self.settings["synthetic_batch"]]
        return to_device({"rows": seen}, self.data.labels.device)["rows"]

    def real(self, label: int, number: int) -> Tensor:
        """Indices of the real batch `number` of a class: a permutation without replacement, its tail dropped."""
        members = self.members[label]
        batches = Batches(self.streams, "class_batches", len(members), self.settings["real_batch"], True, (label,))
        return members[torch.from_numpy(batches.batch(number)).to(members.device)]
