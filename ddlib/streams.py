"""Every random number of the project, as a pure function of where it is used.

A counter-based generator (numpy's Philox, on the CPU) is keyed by (seed, purpose, indices), such as
``streams.at("match_augment", outer)``. Nothing is ever "the next number": a resumed run repeats an uninterrupted one,
a class phase takes its slice of what all classes would have drawn, and networks trained in any order are the same.

**Differs**: the official repositories draw from the global numpy, torch and CUDA generators, mostly unseeded; the order
of their draws is not reproduced. Parity tests inject the draws instead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Streams:
    """All streams of one seed (and, by `scope`, of one use of it: "condense", "pool", "evaluate", ...)."""

    seed: int
    scope: str

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"a seed is a non-negative integer, not {self.seed}")

    def at(self, purpose: str, *index: int) -> np.random.Generator:
        """The generator of `purpose` at `index` (outer iteration, epoch, class, ...): always the same numbers."""
        text = "/".join([str(self.seed), self.scope, purpose, *map(str, index)])
        key = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def integer(self, purpose: str, *index: int) -> int:
        """One 63-bit integer, to seed a generator of another library (network initialisation)."""
        return int(self.at(purpose, *index).integers(2**63 - 1))


@dataclass(frozen=True)
class Batches:
    """An endless loader over `count` examples: a new permutation each pass, batch b known without the ones before.

    `drop_last`: the official class sampler drops a last partial batch, the mixed-class loader keeps it.
    """

    streams: Streams
    purpose: str
    count: int
    size: int
    drop_last: bool = False
    index: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.count < 1 or self.size < 1:
            raise ValueError(
                f"a loader needs examples and a batch size, both at least 1, not {self.count} and {self.size}"
            )

    @property
    def per_pass(self) -> int:
        """Batches in one pass over the examples."""
        size = min(self.size, self.count)
        return self.count // size if self.drop_last else -(-self.count // size)

    def batch(self, number: int) -> np.ndarray:
        """int64 indices [n] of batch `number` (0, 1, 2, ... without end)."""
        return self.batches(number, 1)[0]

    def batches(self, first: int, many: int) -> list[np.ndarray]:
        """The batches first, ..., first + many - 1."""
        out: list[np.ndarray] = []
        size, order, held = min(self.size, self.count), None, -1
        for number in range(first, first + many):
            turn, place = divmod(number, self.per_pass)
            if turn != held:
                order, held = self.streams.at(self.purpose, *self.index, turn).permutation(self.count), turn
            assert order is not None
            out.append(order[place * size : (place + 1) * size])
        return out

    def until(self, first: int, samples: int) -> int:
        """How many batches from `first` on hold at least `samples` examples (IDC's `n_data` rule)."""
        size, taken, many = min(self.size, self.count), 0, 0
        last = self.count - (self.per_pass - 1) * size if not self.drop_last else size
        while taken < samples:
            taken += last if (first + many) % self.per_pass == self.per_pass - 1 else size
            many += 1
        return many
