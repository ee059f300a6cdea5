"""Where an outer iteration starts: a fresh network, or a snapshot of the pool drawn at random from a view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from ddlib import nn as networks
from ddlib.artifacts import load_tensors
from ddlib.streams import Streams
from ddlib.train.loop import State


class Start(Protocol):
    """A source of networks, one per outer iteration."""

    net: nn.Module

    def draw(self, outer: int) -> State:
        """The network of outer iteration `outer`, with an optimiser at rest."""
        ...


@dataclass
class Fresh:
    """A newly initialised network in each outer iteration (IDC on small data sets)."""

    network: Mapping[str, Any]
    shape: tuple[int, int, int]
    classes: int
    streams: Streams
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        self.net = self._build(0)

    def _build(self, outer: int) -> nn.Module:
        options = {key: value for key, value in self.network.items() if key != "version"}
        channels, size, _ = self.shape
        seed = self.streams.integer("network", outer)
        return networks.build(options, channels=channels, size=size, classes=self.classes, seed=seed)

    def draw(self, outer: int) -> State:
        """A network in its initialisation, of the stream (network, outer)."""
        return State.of(self._build(outer).to(self.device))


@dataclass
class FromPool:
    """A snapshot drawn uniformly, with replacement, from the rows of a view (IDC's and Acc-DD's pretrained starts)."""

    rows: Sequence[Mapping[str, Any]]
    fresh: Fresh

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("the view selects no snapshot: there is nothing to start from")
        self.net = self.fresh.net
        self._held: dict[str, dict[str, torch.Tensor]] = {}

    def draw(self, outer: int) -> State:
        """The snapshot of the stream (member, outer); its file is checked against the hash the view recorded."""
        row = self.rows[int(self.fresh.streams.at("member", outer).integers(len(self.rows)))]
        if row["file"] not in self._held:
            self._held[row["file"]] = load_tensors(row["file"], row["sha256"])[0]
        return State.from_tensors(self._held[row["file"]], self.fresh.device)


@dataclass
class Changed:
    """Another start's network with something done to it: `change(state, outer)`, once per outer iteration."""

    start: Start
    change: Callable[[State, int], State]

    def __post_init__(self) -> None:
        self.net = self.start.net

    def draw(self, outer: int) -> State:
        """The changed network of outer iteration `outer`."""
        return self.change(self.start.draw(outer), outer)
