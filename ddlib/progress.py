"""How far a loop is: a bar with the time to go on a terminal, a line a minute where there is none (and none at all for
a loop of a few seconds), events for `make status`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Generic, TextIO, TypeVar, cast

from ddlib.events import NullEvents

T = TypeVar("T")
LINE_SECONDS = 60.0
FIRST_LINE_SECONDS = 5.0
EVENT_SECONDS = 5.0
BAR_SECONDS = 0.2
_BAR = 24


class Progress(Generic[T]):
    """Iterates over `items` and reports; `note` puts a few words (such as the loss) behind the numbers."""

    def __init__(
        self,
        items: Iterable[T],
        total: int,
        description: str,
        unit: str,
        events: NullEvents | None,
        first: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.items, self.total, self.description, self.unit = items, total, description, unit
        self.events, self.first, self.done, self.words = events, first, first, ""
        self.stream, self.clock = stream or sys.stderr, clock
        self.terminal, self._spoke = self.stream.isatty(), False
        self._began = self._shown = self._told = clock()

    def note(self, words: str) -> None:
        """Show `words` behind the numbers from now on."""
        self.words = words

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at the speed so far of this session; None before the first step."""
        steps = self.done - self.first
        return (self.clock() - self._began) / steps * (self.total - self.done) if steps else None

    def __iter__(self) -> Iterator[T]:
        self._began = self.clock()
        self._report(always=True)
        for item in self.items:
            yield item
            self.done += 1
            self._report(always=self.done == self.total)
        if self.terminal:
            self.stream.write("\n")

    def _report(self, always: bool) -> None:
        now = self.clock()
        if self._speaks(now, always):
            self._shown, self._spoke = now, True
            self.stream.write(f"\r{self._line()}\x1b[K" if self.terminal else f"{self._line()}\n")
            self.stream.flush()
        if self.events is not None and (always or now - self._told >= EVENT_SECONDS):
            self._told = now
            self.events.progress(self.done, self.total, self.unit, self.eta_s)

    def _speaks(self, now: float, always: bool) -> bool:
        """A bar five times a second; a line after five seconds, one a minute, and the last. Short loops are silent."""
        if self.terminal:
            return always or now - self._shown >= BAR_SECONDS
        if not self._spoke:
            return now - self._began >= FIRST_LINE_SECONDS
        return always or now - self._shown >= LINE_SECONDS

    def _line(self) -> str:
        share = self.done / self.total if self.total else 1.0
        bar = f" |{'#' * int(share * _BAR):{_BAR}}|" if self.terminal else ""
        passed = duration(self.clock() - self._began)
        left = "" if self.eta_s is None or self.done == self.total else f", {duration(self.eta_s)} to go"
        words = f", {self.words}" if self.words else ""
        return f"{self.description}:{bar} {self.done}/{self.total} {self.unit} ({share:.0%}), {passed}{left}{words}"


def progress(
    work: Iterable[T] | int, description: str, unit: str = "steps", events: NullEvents | None = None, *, first: int = 0
) -> Progress[T]:
    """Iterate over `work` (something with a length, or a number n for first, ..., n - 1) and report how far it is.

    `first`: steps done before (a resumed loop), counted in the total but not in the speed. With `events`, at most one
    every 5 s.
    """
    items: Any = range(first, work) if isinstance(work, int) else work
    if not isinstance(items, Sized):
        raise TypeError(f"progress of {description!r} needs something with a length, or the number of {unit}")
    return Progress(cast("Iterable[T]", items), first + len(items), description, unit, events, first)


def duration(seconds: float) -> str:
    """Seconds as 12 s, 3:05 min or 2:07 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    high, low = divmod(whole, 60) if whole < 3600 else divmod(whole // 60, 60)
    return f"{high}:{low:02d} {'min' if whole < 3600 else 'h'}"
