"""Progress of a loop: a bar, a line a minute, events; the time to go of a resumed loop."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import pytest

from ddlib.events import NullEvents
from ddlib.progress import Progress, duration, progress


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Kept(NullEvents):
    """Events kept in a list."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def _put(self, event: str, **values: Any) -> None:
        self.seen.append({"event": event, **values})


def test_progress_without_a_terminal_is_a_line_a_minute_and_events_every_five_seconds() -> None:
    clock, stream, events = Clock(), io.StringIO(), Kept()
    bar: Progress[int] = Progress(range(100), 100, "condense", "networks", events, 0, stream, clock)
    for step in bar:
        bar.note(f"loss {step}")
        clock.now += 2.0
    lines = stream.getvalue().splitlines()
    assert lines[0] == "condense: 3/100 networks (3%), 6 s, 3:14 min to go, loss 2"
    assert lines[1] == "condense: 33/100 networks (33%), 1:06 min, 2:14 min to go, loss 32"
    assert lines[-1] == "condense: 100/100 networks (100%), 3:20 min, loss 99"
    assert len(lines) == 5  # at 6, 66, 126, 186 s and the end
    short, quiet = Progress(range(2), 2, "x", "steps", None, 0, io.StringIO(), clock), io.StringIO()
    short.stream = quiet
    assert list(short) == [0, 1]
    assert quiet.getvalue() == ""
    done = [event["done"] for event in events.seen]
    assert (done[0], done[-1]) == (0, 100)
    assert {b - a for a, b in pairwise(done[:-1])} == {3}  # 6 s: never less than 5


def test_progress_of_a_resumed_loop_counts_all_but_times_only_its_own() -> None:
    clock, stream = Clock(), io.StringIO()
    bar: Progress[int] = Progress(range(90, 100), 100, "x", "steps", None, 90, stream, clock)
    assert bar.eta_s is None
    steps = iter(bar)
    next(steps)
    clock.now = 4.0
    assert next(steps) == 91
    assert (bar.done, bar.eta_s) == (91, 36.0)
    assert list(progress(5, "x", first=3)) == [3, 4]
    assert list(progress(["a", "b"], "x")) == ["a", "b"]
    with pytest.raises(TypeError, match="progress of 'x' needs something with a length"):
        progress((i for i in range(3)), "x")


def test_progress_on_a_terminal_is_a_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    clock, stream = Clock(), Terminal()
    bar: Progress[int] = Progress(range(4), 4, "x", "steps", None, 0, stream, clock)
    for _ in bar:
        clock.now += 1.0
    shown = stream.getvalue()
    assert shown.count("\r") == 5
    assert "|############            | 2/4 steps (50%), 2 s, 2 s to go" in shown
    assert shown.endswith("\n")


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59.4, 59.6, 185, 3599.6, 7620)] == [
        "0 s",
        "59 s",
        "1:00 min",
        "3:05 min",
        "1:00 h",
        "2:07 h",
    ]
