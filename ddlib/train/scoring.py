"""Networks scored on a source: logits and accuracy, without augmentation."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ddlib.nn.functional import Params, functional
from ddlib.train.compiler import EAGER, Compiler
from ddlib.train.loop import Source, State

# Images scored at once: more only leave the cache of a CPU.
SCORED_AT_ONCE = {"cpu": 100, "cuda": 1000}


class Scorer:
    """Networks of one architecture in evaluation mode: compiled once, for any state and source."""

    def __init__(
        self, net: nn.Module, device: str | torch.device, compiler: Compiler = EAGER, precision: str = "fp32"
    ) -> None:
        self.device, self.autocast = torch.device(device), precision == "bf16"
        self.call = functional(copy.deepcopy(net).to(device).eval())
        self.forward = compiler(self._forward)

    def _forward(self, params: Params, buffers: Params, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            return self.call(params, buffers, x).to(x.dtype)

    def logits(self, state: State, source: Source, batch: int = 0) -> Tensor:
        """Logits [N, classes] on every image of `source`, `batch` at a time (0: what suits the device)."""
        batch = batch or SCORED_AT_ONCE[self.device.type]
        mean, std = (torch.tensor(v, device=self.device).reshape(1, -1, 1, 1) for v in (source.mean, source.std))
        found = []
        with torch.no_grad():
            for first in range(0, len(source.labels), batch):
                chosen = torch.arange(first, min(first + batch, len(source.labels)), device=self.device)
                found.append(self.forward(state.params, state.buffers, (source.pixels(chosen) - mean) / std))
        return torch.cat(found)

    def accuracy(self, state: State, source: Source) -> float:
        """Share (0-1) of a source's images classified right."""
        return float((self.logits(state, source).argmax(1) == source.labels).double().mean())


def logits_of(net: nn.Module, state: State, source: Source, batch: int = 0) -> Tensor:
    """Logits [N, classes] of one network, once, eager: see :class:`Scorer`."""
    return Scorer(net, source.labels.device).logits(state, source, batch)


def accuracy(net: nn.Module, state: State, source: Source) -> float:
    """Share (0-1) of a source's images a network classifies right."""
    return Scorer(net, source.labels.device).accuracy(state, source)
