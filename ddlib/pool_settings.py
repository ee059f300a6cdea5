"""What a pool and a view of config.yaml mean, and what is wrong with them.

Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import presets
from .settings import settings_problems
from .view_settings import epoch_problems, listed

# Of a recipe, what all members of a pool share: which files a member has depends on it, or it is a list itself.
SHARED = ("epochs", "record_events", "decay_at", "score_snapshots")
_RANGE = re.compile(r"(\d{1,6})-(\d{1,6})")


def training(pool: Mapping[str, Any], member: int) -> dict[str, Any]:
    """How member `member` of a pool trains: the recipe, the pool's own settings over it, then its turn of each list of
    `diversity` (cyclically)."""
    given = pool.get("training", {})
    own = {key: value for key, value in given.items() if key != "recipe"}
    varied = {key: values[member % len(values)] for key, values in pool.get("diversity", {}).items()}
    return {**presets.POOL_TRAINING[given.get("recipe", "idc")], **own, **varied}


def told(trained: Mapping[str, Any]) -> dict[str, Any]:
    """How a member trains as a job is told of it: that snapshots are scored is said where they are not."""
    return {key: value for key, value in trained.items() if key != "score_snapshots" or not value}


def kept_epochs(snapshots: str | list[int], epochs: int) -> list[int]:
    """The epochs whose snapshots a pool keeps: "all", "early" (0 to 10, as far as it trains), "last", a range such as
    "0-16" (both included) or a list. ValueError for what is none of these."""
    if snapshots == "all":
        return list(range(epochs + 1))
    if snapshots == "early":
        return list(range(min(epochs, presets.EARLY_EPOCHS) + 1))
    if snapshots == "last":
        return [epochs]
    if isinstance(snapshots, list):
        return sorted(snapshots)
    if not (ends := _RANGE.fullmatch(snapshots)) or int(ends[1]) > int(ends[2]):
        raise ValueError(f"snapshots are all, early, last, a range such as 0-16 or a list of epochs, not {snapshots!r}")
    return list(range(int(ends[1]), int(ends[2]) + 1))


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
        wrong = [said for value in values for said in settings_problems(f"{where}.diversity", {key: value}, plain)]
        found += dict.fromkeys(wrong)
    return found or snapshot_problems(f"{where}.snapshots", pool.get("snapshots", "all"), training(pool, 0)["epochs"])


def snapshot_problems(where: str, snapshots: str | list[int], epochs: int) -> list[str]:
    """What is wrong with the snapshots a pool of `epochs` epochs keeps."""
    try:
        kept = kept_epochs(snapshots, epochs)
    except ValueError as error:
        return [f"{where}: {error}"]
    late = [epoch for epoch in kept if epoch > epochs]
    return [f"{where}: epochs {listed(late)} are beyond the pool's {epochs} epochs"] if late else []


def view_problems(
    experiment: Mapping[str, Any],
    pool: Mapping[str, Any],
    datasets: Mapping[str, Mapping[str, Any]],
    epochs_too: bool = True,
) -> list[str]:
    """What a view asks that its pool cannot have; `epochs_too`: also of its epochs, where these are clear."""
    view, found = experiment["view"], []
    for key in ("dataset", "network"):
        if experiment.get(key) != pool[key]:
            why = _same_source(datasets, pool[key], experiment["dataset"]) if key == "dataset" else ""
            found.append(f"pool: its {key} is {pool[key]}, the experiment's is {experiment.get(key)}{why}")
    trained = training(pool, 0)
    if view.get("metric") == "train_clean" and not trained["score_snapshots"]:
        found.append(
            "view.metric: the pool's snapshots have no train_clean accuracy (score_snapshots: false): take "
            "train_augmented, or set score_snapshots: true in its training"
        )
    if epochs_too:
        found += epoch_problems(view, kept_epochs(pool.get("snapshots", "all"), trained["epochs"]), trained["epochs"])
    return found


def _same_source(datasets: Mapping[str, Mapping[str, Any]], *names: str) -> str:
    """Why two data sets of one source are not one, where they are of one."""
    one, other = (datasets.get(name, {}) for name in names)
    if one.get("source") != other.get("source"):
        return ""
    keys = sorted(key for key in {**one, **other} if one.get(key) != other.get(key))
    ways = " and ".join(f"{key} {one.get(key, 'as by default')} / {other.get(key, 'as by default')}" for key in keys)
    what = f" (they differ in {ways})" if keys else ""
    return (
        f". Both are {one['source']}{what}, but whitening, order and held-out images are part of a data set: networks "
        "trained on one are no start for the other. Name a pool of the experiment's data set"
    )
