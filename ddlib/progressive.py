"""What `progressive: {base, stages, ...}` of an experiment means, and what is wrong with it.

Progressive distillation (PDD, arXiv 2310.06982) is a base method run stage after stage: each makes `ipc / stages` new
images per class, with those of the earlier stages fixed and networks conditioned on them. Nothing here imports torch.

Published (from memory but for 67.9 and 45.8): over MTT 66.9 / 74.2 on CIFAR-10 and 43.1 / 52.0 on CIFAR-100, over IDC
67.9 / 76.5 and 45.8 / 53.1, at ipc 10 / 50 in five stages. Ours: docs/results.md (digits); at paper scale not yet
measured.

**Differs**: `members: K` (ours) draws a base's networks from K that are conditioned once a stage, each going on from
the stage before. As published every outer iteration trains a new one on all stages before: in stage p of P that is
p - 1 trainings for each of (say) 2000 outer iterations, here K in all, K P instead of 2000 P^2 / 2 over the stages.
Networks that start from a pool are always so (officially: MTT's experts). Choosing the images with the best accuracy on
test data between stages is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import presets, presets_students, registry
from .pool_settings import kept_epochs, training
from .registry import nearest
from .settings import settings_problems


def method_of(entry: Mapping[str, Any]) -> str:
    """The method an experiment of config.yaml runs: its own, or the base of its stages."""
    return str(entry["progressive"]["base"] if "progressive" in entry else entry["method"])


def name_of(entry: Mapping[str, Any]) -> str:
    """The method as tables name it: pdd_x for stages of x."""
    return f"pdd_{entry['method']}" if entry.get("stages", 1) > 1 else str(entry["method"])


def condition(entry: Mapping[str, Any]) -> dict[str, Any]:
    """How networks are trained on the earlier stages: the base's preset, the experiment's own settings over it."""
    given = entry["progressive"]
    preset = presets_students.CONDITION.get(given["base"], presets_students.CONDITION["default"])
    return {**preset, **given.get("condition", {})}


def discarding(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Which real images each stage is made from, by how often a member of a pool forgot them (None: all of them)."""
    given = entry["progressive"].get("discard")
    return given and {"member": 0, "interval": presets.FORGETTING_INTERVAL, **given}


def forgotten(entry: Mapping[str, Any], stage: int) -> dict[str, Any]:
    """The forgetting counts of a stage's real images: from `low` on, and below `high` but for the last stage; `of`:
    whether all of a stage's images are chosen so, or only those it begins with."""
    interval, last = entry["discard"]["interval"], stage == entry["stages"] - 1
    of = registry.METHODS[entry["method"]].facts.get("discards", "all")
    low, high = interval * stage, None if last else interval * (stage + 1)
    return {"low": low, "high": high, "member": entry["discard"]["member"], "of": of}


def kept(pool: Mapping[str, Any] | None, view: Mapping[str, Any] | None = None) -> list[int]:
    """The epochs whose snapshots conditioned members keep: their networks before any real data, and those of the pool
    that the view can choose."""
    if not pool:
        return [0]
    epochs = kept_epochs(pool.get("snapshots", "all"), training(pool, 0)["epochs"])
    if view is None or "metric" in view:
        return epochs
    starts = range(view["start_below"]) if "start_below" in view else view.get("epochs", epochs)
    ahead = view.get("horizon", 0)
    wanted = {0, *starts, *(epoch + ahead for epoch in starts)}
    return [epoch for epoch in epochs if epoch in wanted]


def problems(where: str, entry: Mapping[str, Any], pools: Mapping[str, Any]) -> list[str]:
    """What is wrong with an experiment's stages (or with having both a method and stages, or neither). `pools`: those
    nothing is wrong with."""
    if ("method" in entry) is ("progressive" in entry):
        both = "both" if "method" in entry else "neither"
        return [f"{where}: it has {both} of `method` and `progressive` (stages of a base method): give one of the two"]
    if "progressive" not in entry:
        return []
    given = entry["progressive"]
    facts = registry.METHODS[given["base"]].facts if given["base"] in registry.METHODS else None
    if facts is None or not _staged(facts):
        bases = [name for name, method in registry.METHODS.items() if _staged(method.facts)]
        return [
            f"{where}.progressive.base: {given['base']!r} is no method with stages; {nearest(given['base'], bases)}"
        ]
    found = _stages(where, entry, given["stages"])
    preset = presets_students.CONDITION.get(given["base"], presets_students.CONDITION["default"])
    found += settings_problems(f"{where}.progressive.condition", given.get("condition", {}), preset)
    if "budget" in entry:
        found.append(f"{where}.budget: the stages of several ipc are not the same images: give `ipc` instead")
    if entry.get("evaluate_at"):
        found.append(f"{where}.evaluate_at: snapshots are taken of methods without stages; leave it out")
    if pool := given.get("discard", {}).get("pool"):
        found += _discard(f"{where}.progressive.discard.pool", entry, pool, pools)
    if isinstance(entry.get("masks"), dict):
        found.append(f"{where}.masks: the stages of every ipc use one mask set: give its name")
    if isinstance((entry.get("view") or {}).get("windows"), str):
        found.append(f"{where}.view.windows: windows by ipc are of methods without stages; give numbers")
    return found + _networks(where, entry, pools)


def _staged(facts: Mapping[str, Any]) -> bool:
    """Whether a method can be the base of stages: it looks at networks, which can be trained on the stages before."""
    return bool(facts.get("network") or facts.get("stages"))


def _stages(where: str, entry: Mapping[str, Any], stages: int) -> list[str]:
    found = []
    for ipc in entry.get("ipc", []):
        if stages > ipc:
            found.append(f"{where}.progressive.stages: {stages} stages are more than {ipc} images per class")
        elif ipc % stages:
            fits = [n for n in range(1, ipc + 1) if ipc % n == 0]
            found.append(f"{where}.progressive.stages: {stages} does not divide ipc {ipc}; {ipc} takes {fits} stages")
    return found


def _discard(where: str, entry: Mapping[str, Any], name: str, pools: Mapping[str, Any]) -> list[str]:
    """What is wrong with the pool that says how often images are forgotten."""
    if name not in pools:
        return [f"{where}: no (sound) pool is called {name!r}; {nearest(name, pools)}"]
    if pools[name]["dataset"] != entry["dataset"]:
        return [f"{where}: the images of {name} are those of {pools[name]['dataset']}, not {entry['dataset']}"]
    if not training(pools[name], 0)["record_events"]:
        return [f"{where}: {name} does not count what it forgets: set record_events in its training"]
    return []


def _networks(where: str, entry: Mapping[str, Any], pools: Mapping[str, Any]) -> list[str]:
    given, pool = entry["progressive"], entry.get("pool")
    if "members" in given and pool is not None:
        return [f"{where}.progressive.members: the networks are those of the pool; its view says how many"]
    if pool is not None and pool in pools and 0 not in (epochs := kept(pools[pool])):
        return [
            f"{where}.pool: stages train on from the pool's networks before any real data; {pool} keeps epochs "
            f"{epochs[0]}-{epochs[-1]}, not 0: add it to its snapshots"
        ]
    return []
