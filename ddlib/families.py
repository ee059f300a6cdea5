"""Which synthetic set a job belongs to: what it condenses, labels or evaluates. Known from paths and cards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from ddlib.artifacts import read_manifest

_OF_A_SET = re.compile(r"results/(?:evaluations|sets)/(.+?/ipc\d+/seed\d+/)(at\d+/)?(?:.+/.+/.+|labels/.+/.+)\.json")
_SNAPSHOT = re.compile(r"(results/sets/.+?/ipc\d+/seed\d+/)at\d+/card\.json")
_CONDENSED = re.compile(r"results/condensed/[^/]+/per[^/]+/seed\d+/")
_CARD = re.compile(r"results/sets/[^/]+/ipc(\d+)/seed\d+/card\.json")


class Families:
    """Sets, by the outputs of the jobs around them. What is condensed for several sets belongs to the smallest."""

    def __init__(self, results: Path, say: Callable[[str], None]) -> None:
        self.results, self.say = results, say
        self._read: set[str] = set()
        self._made: dict[str, str] = {}

    def learn(self, outputs: Iterable[str]) -> None:
        """Read the cards among `outputs` that are new: they name what their sets were merged from."""
        cards = ((int(match[1]), output) for output in outputs if (match := _CARD.fullmatch(output)))
        for _, card in sorted(each for each in cards if each[1] not in self._read):
            self._read.add(card)
            for match in filter(None, map(_CONDENSED.match, self._parts(card))):
                self._made.setdefault(match[0], card)

    def _parts(self, card: str) -> list[str]:
        """The manifests that a set was merged from; none where its card is gone, or (with a word) damaged."""
        path = self.results.parent / card
        try:
            return list(read_manifest(path, "set")["result"]["parts"]) if path.is_file() else []
        except ValueError as error:
            self.say(f"what {card} was made of is not shown as its parts: {error}")
            return []

    def set_of(self, output: str) -> str | None:
        """The card of the set a job belongs to; None of data, pools, observers, and sets themselves."""
        if match := _SNAPSHOT.fullmatch(output):
            return f"{match[1]}card.json"
        if match := _OF_A_SET.fullmatch(output):
            return f"results/sets/{match[1]}{match[2] or ''}card.json"
        match = _CONDENSED.match(output)
        return self._made.get(match[0]) if match else None
