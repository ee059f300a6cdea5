"""What a pool and a view of config.yaml mean, and what is wrong with them.

Nothing here imports torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from . import presets
from .registry import nearest
from .settings import settings_problems

# Of a recipe, what all members of a pool share: which files a member has depends on it, or it is a list itself.
SHARED = ("epochs", "record_events", "decay_at")


def training(pool: Mapping[str, Any], member: int) -> dict[str, Any]:
    """How member `member` of a pool trains: the recipe, the pool's own settings over it, then its turn of each list of
    `diversity` (cyclically)."""
    given = pool.get("training", {})
    own = {key: value for key, value in given.items() if key != "recipe"}
    varied = {key: values[member % len(values)] for key, values in pool.get("diversity", {}).items()}
    return {**presets.POOL_TRAINING[given.get("recipe", "idc")], **own, **varied}


def kept_epochs(snapshots: str | list[int], epochs: int) -> list[int]:
    """The epochs whose snapshots a pool keeps: "all", "early" (0 to 10, as far as it trains), "last" or a list."""
    if snapshots == "all":
        return list(range(epochs + 1))
    if snapshots == "early":
        return list(range(min(epochs, presets.EARLY_EPOCHS) + 1))
    if snapshots == "last":
        return [epochs]
    if not isinstance(snapshots, list):
        raise ValueError(f"snapshots are all, early, last or a list of epochs, not {snapshots!r}")
    return sorted(snapshots)


def view_for(view: Mapping[str, Any], ipc: int) -> dict[str, Any]:
    """A view as jobs are told of it: its windows in numbers, however they were given."""
    if "metric" not in view:
        return dict(view)
    windows = view["windows"] if "windows" in view else [[view["low"], view["high"]]]
    if isinstance(windows, str):
        windows = [list(presets.WINDOWS[windows][ipc])]
    return {**{key: value for key, value in view.items() if key not in ("low", "high")}, "windows": windows}


# ---- what is wrong --------------------------------------------------------------------------------------------------


def pool_problems(where: str, pool: Mapping[str, Any]) -> list[str]:
    """What is wrong with a pool, whose recipe is known: its settings, its diversity, its snapshots."""
    given = pool.get("training", {})
    recipe = presets.POOL_TRAINING[given.get("recipe", "idc")]
    found = settings_problems(f"{where}.training", {k: v for k, v in given.items() if k != "recipe"}, recipe)
    for key, values in pool.get("diversity", {}).items():
        if key in SHARED:
            found.append(f"{where}.diversity: {key} is the same for all members: set it in training")
            continue
        plain = {name: value for name, value in recipe.items() if name not in SHARED}
        told = [said for value in values for said in settings_problems(f"{where}.diversity", {key: value}, plain)]
        found += dict.fromkeys(told)
    epochs = training(pool, 0)["epochs"]
    snapshots = pool.get("snapshots", "all")
    if not found and isinstance(snapshots, list) and (late := [epoch for epoch in snapshots if epoch > epochs]):
        found.append(f"{where}.snapshots: epochs {late} are beyond the pool's {epochs} epochs")
    return found


def view_problems(experiment: Mapping[str, Any], pool: Mapping[str, Any]) -> list[str]:
    """What a view asks that its pool cannot have."""
    view, found = experiment["view"], []
    for key in ("dataset", "network"):
        if experiment.get(key) != pool[key]:
            found.append(f"pool: its {key} is {pool[key]}, the experiment's is {experiment.get(key)}")
    kept = kept_epochs(pool.get("snapshots", "all"), training(pool, 0)["epochs"])
    if missing := [epoch for epoch in view.get("epochs", []) if epoch not in kept]:
        found.append(f"view.epochs: {missing} are not among the pool's snapshots {_listed(kept)}")
    elif (ahead := view.get("horizon", 0)) and not any(e + ahead in kept for e in view.get("epochs", kept)):
        asked = f"epochs {view['epochs']}" if "epochs" in view else "any epoch"
        found.append(f"view.horizon: {ahead} epochs after {asked} the pool has no snapshot, only {_listed(kept)}")
    return found


def _listed(epochs: Sequence[int]) -> str:
    """`[0, 4]`, or `0-300` where many follow each other."""
    one_run = list(epochs) == list(range(epochs[0], epochs[-1] + 1))
    return f"{epochs[0]}-{epochs[-1]}" if one_run and len(epochs) > 12 else str(list(epochs))


def window_problems(view: Mapping[str, Any], ipcs: Sequence[int]) -> list[str]:
    """What is wrong with the metric window (low, high) or windows of a view, whatever its pool."""
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
