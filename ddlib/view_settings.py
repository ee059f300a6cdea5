"""What a view of config.yaml means, and what is wrong with it.

Nothing here imports torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from . import presets
from .registry import nearest


def start_epochs(view: Mapping[str, Any]) -> list[int] | None:
    """The epochs a view starts from: its list, or all below a bound (None: it does not say)."""
    found: list[int] | None = view.get("epochs")
    return list(range(view["start_below"])) if "start_below" in view else found


def listed(epochs: Sequence[int]) -> str:
    """`[0, 4]`, or `0-300` where many follow each other."""
    one_run = list(epochs) == list(range(epochs[0], epochs[-1] + 1))
    return f"{epochs[0]}-{epochs[-1]}" if one_run and len(epochs) > 12 else str(list(epochs))


def horizon_problems(method: str, needed: bool, view: Mapping[str, Any]) -> list[str]:
    """What is wrong with how far ahead a view looks, for a method that needs a later snapshot or does not."""
    ahead = view.get("horizon", 0)
    if needed and not ahead:
        given = "0" if "horizon" in view else "not given"
        return [f".horizon: {method} matches a later snapshot, so many epochs ahead: give 1 or more (it is {given})"]
    if ahead and not needed:
        return [f".horizon: {method} does not look at a later snapshot, {ahead} epochs ahead: leave it out"]
    return []


def epoch_problems(view: Mapping[str, Any], kept: Sequence[int], epochs: int) -> list[str]:
    """Start epochs of a view, and those a horizon further on, that a pool of `epochs` epochs does not keep."""
    starts = start_epochs(view)
    ahead = view.get("horizon", 0)
    if starts is None:
        if ahead and not any(epoch + ahead in kept for epoch in kept):
            return [f"view.horizon: {ahead} epochs after any epoch the pool has no snapshot, only {listed(kept)}"]
        return []
    key = "epochs" if "epochs" in view else "start_below"
    short = f"its members train for {epochs} epochs" if max(starts) + ahead > epochs else "change its snapshots"
    if missing := [epoch for epoch in starts if epoch not in kept]:
        return [f"view.{key}: {listed(missing)} are not among the pool's snapshots {listed(kept)} ({short})"]
    if missing := sorted({epoch + ahead for epoch in starts} - set(kept)):
        return [
            f"view.horizon: {ahead} epochs after the start epochs {listed(starts)} are {listed(missing)}, which are "
            f"not among the pool's snapshots {listed(kept)} ({short})"
        ]
    return []


def window_problems(view: Mapping[str, Any], ipcs: Sequence[int]) -> list[str]:
    """What is wrong with the metric window (low, high) or windows of a view, whatever its pool."""
    if "start_below" in view and "epochs" in view:
        return [f": start_below {view['start_below']} and epochs are two ways to say one thing: give one of them"]
    given = [key for key in ("metric", "low", "high", "windows") if key in view]
    if "windows" in given and ("low" in given or "high" in given):
        return [": windows and low with high are two ways to say one thing: give one of them"]
    if given and given not in (["metric", "low", "high"], ["metric", "windows"]):
        return [f": a metric window needs metric, low and high (or metric and windows); it has only {', '.join(given)}"]
    if "low" in given and view["low"] >= view["high"]:
        return [f": low {view['low']} is not below high {view['high']}"]
    windows = view.get("windows", [])
    if isinstance(windows, str):
        return _preset_problems(windows, ipcs)
    if "windows" in given and not windows:
        return [".windows: give at least one [low, high]"]
    if wrong := [window for window in windows if not _is_window(window)]:
        return [f".windows: {window} is no [low, high] with 0 <= low < high <= 1" for window in wrong]
    pairs = itertools.pairwise(windows)
    return [f".windows: {b} does not begin after {a}: order them, without overlap" for a, b in pairs if b[0] < a[1]]


def _is_window(window: Any) -> bool:
    if not isinstance(window, list) or len(window) != 2:
        return False
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in window)
    return numbers and 0 <= window[0] < window[1] <= 1


def _preset_problems(name: str, ipcs: Sequence[int]) -> list[str]:
    """What is wrong with windows given by the name of a preset."""
    if name not in presets.WINDOWS:
        return [f".windows: no windows are called {name!r}; {nearest(name, presets.WINDOWS)}"]
    there = presets.WINDOWS[name]
    if missing := [ipc for ipc in ipcs if ipc not in there]:
        known = ", ".join(map(str, there))
        return [
            f".windows: {name} has no window for ipc {', '.join(map(str, missing))}, only for {known}; give numbers"
        ]
    return []
