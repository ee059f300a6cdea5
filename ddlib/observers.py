"""What `observers`, `labels`, `observer` and `scoring` of config.yaml mean, and what is wrong with them.

An *observer* is a trained network that judges images: a checkpoint of a pool, or weights from a file. RDED scores crops
with it, and as the *teacher* it gives soft labels. Named labels are one of

- ``static``: one soft label for each decoded image;
- ``per_view``: one for each augmented view, of as many epochs as are kept, which students then see again;
- ``online``: the teacher labels every batch while students train (as RDED is published).

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from . import presets_students
from .pool_settings import kept_epochs, training
from .registry import METHODS, nearest

KINDS = ("static", "per_view", "online")
# Real images that are looked at per class, and random crops of each, unless the method or the experiment says other.
SCORING = {"mipc": 300, "crops": 5}
# How far an observer's accuracy may be from what it is known to have, beside three deviations of the estimate.
WITHIN = 0.05
# What is checked, per class: more images would say no more.
CHECKED = 100


def epoch_of(observer: Mapping[str, Any], pool: Mapping[str, Any]) -> int:
    """The epoch of the pool's member that an observer is."""
    epoch = observer.get("epoch", "last")
    return kept_epochs(pool.get("snapshots", "all"), training(pool, 0)["epochs"])[-1] if epoch == "last" else int(epoch)


def dataset_of(observer: Mapping[str, Any], pools: Mapping[str, Any]) -> str:
    """The data set an observer was trained on."""
    return str(pools[observer["pool"]]["dataset"] if "pool" in observer else observer["dataset"])


def label(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Named labels as jobs are told of them, but for the teacher."""
    preset = presets_students.LABEL_KINDS[entry["kind"]]
    return {"kind": entry["kind"], **preset, **{key: entry[key] for key in preset if key in entry}}


def views(entry: Mapping[str, Any] | None, protocol: str) -> str:
    """What soft labels are filed under: the protocol whose views they are of, or `decoded`."""
    return protocol if entry and entry["kind"] == "per_view" else "decoded"


def scored(entry: Mapping[str, Any]) -> dict[str, int] | None:
    """How the crops that an experiment starts from are scored (None: it starts from none, or scores them itself)."""
    settings = entry["settings"]
    if not entry.get("observer") or "rded" not in (entry["method"], settings.get("init")):
        return None
    given = {**SCORING, **{key: settings[key] for key in SCORING if key in settings}, **entry.get("scoring", {})}
    return {**given, "factor": settings["factor"]}


# ---- what is wrong --------------------------------------------------------------------------------------------------


def observer_problems(
    where: str, entry: Mapping[str, Any], config: Mapping[str, Any], sound_pools: Collection[str]
) -> list[str]:
    """What is wrong with an observer. `sound_pools`: names of the pools nothing is wrong with."""
    if ("pool" in entry) is ("weights" in entry):
        both = "both" if "pool" in entry else "neither"
        return [f"{where}: it has {both} of `pool` (a checkpoint of ours) and `weights` (a file): give one of the two"]
    if "pool" in entry:
        if beside := sorted(entry.keys() & {"dataset", "network", "outputs"}):
            return [f"{where}.{beside[0]}: it is the pool's: leave it out"]
        if entry["pool"] not in config["pools"]:
            return [f"{where}.pool: no pool is called {entry['pool']!r}; {nearest(entry['pool'], config['pools'])}"]
        if entry["pool"] not in sound_pools:
            return []  # said of the pool itself
        return _epoch_problems(f"{where}.epoch", entry, config["pools"][entry["pool"]])
    found = [f"{where}: key {key!r} is missing" for key in ("dataset", "network", "accuracy") if key not in entry]
    found += [f"{where}.{key}: it is of a pool: leave it out" for key in ("member", "epoch") if key in entry]
    classes = config["datasets"].get(entry.get("dataset"), {}).get("classes")
    if "outputs" in entry and classes not in (None, len(entry["outputs"])):
        found.append(
            f"{where}.outputs: {len(entry['outputs'])} of the file's outputs for {classes} classes: one for each"
        )
    for key, table in (("dataset", config["datasets"]), ("network", config["networks"])):
        if key in entry and entry[key] not in table:
            found.append(f"{where}.{key}: none is called {entry[key]!r}; {nearest(entry[key], table)}")
    return found


def _epoch_problems(where: str, entry: Mapping[str, Any], pool: Mapping[str, Any]) -> list[str]:
    there = kept_epochs(pool.get("snapshots", "all"), training(pool, 0)["epochs"])
    epoch = entry.get("epoch", "last")
    if epoch == "last" or epoch in there:
        return []
    return [f"{where}: {epoch!r} is no epoch that pool {entry['pool']} keeps ({there[0]}-{there[-1]}), nor `last`"]


def label_problems(where: str, entry: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """What is wrong with named labels."""
    found = []
    if where.removeprefix("labels.") in presets_students.LABELS:
        found.append(f"{where}: labels of this name there are already; choose another name")
    if entry["teacher"] not in config["observers"]:
        known = nearest(entry["teacher"], config["observers"])
        found.append(f"{where}.teacher: no observer is called {entry['teacher']!r}; {known}")
    preset = presets_students.LABEL_KINDS[entry["kind"]]
    unknown = [key for key in entry if key not in ("kind", "teacher", *preset)]
    return found + [f"{where}.{key}: {entry['kind']} labels have no such setting" for key in unknown]


def problems(where: str, entry: Mapping[str, Any], settings: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """What is wrong with the observer and the labels of an experiment whose method is known. `settings`: its own over
    the method's."""
    found = [
        f"{where}.labels: the teacher of {name} was trained on {trained}, not on {entry['dataset']}"
        for name in entry.get("labels", [])
        if (trained := _taught_on(name, config)) not in (None, entry["dataset"])
    ]
    base = entry["progressive"]["base"] if "progressive" in entry else entry["method"]
    judges = base == "rded" and "progressive" not in entry
    judges = judges or settings.get("init") == "rded" or settings.get("features") == "observer"
    if judges is not ("observer" in entry):
        needs = "picks images by an observer: key 'observer' is missing" if judges else "has no use for an observer"
        return [*found, f"{where}: {base} {needs}"]
    if "scoring" in entry and (base == "rded" or settings.get("init") != "rded"):
        found.append(
            f"{where}.scoring: it is of methods with `init: rded`; leave it out (rded has settings of its own)"
        )
    if base == "rded" and "progressive" in entry and "pool" not in entry:
        found.append(
            f"{where}: in stages of rded the observer is the stage's network: keys 'pool' and 'view' are missing"
        )
    found += _whitened(where, base, entry, settings, config)
    if "observer" not in entry:
        return found
    if entry["observer"] not in config["observers"]:
        known = nearest(entry["observer"], config["observers"])
        return [*found, f"{where}.observer: no observer is called {entry['observer']!r}; {known}"]
    trained = _dataset(config["observers"][entry["observer"]], config)
    if trained not in (None, entry["dataset"]):
        found.append(f"{where}.observer: {entry['observer']} was trained on {trained}, not on {entry['dataset']}")
    return found + _enough(where, entry, settings)


def _whitened(
    where: str, base: str, entry: Mapping[str, Any], settings: Mapping[str, Any], config: Mapping[str, Any]
) -> list[str]:
    """Whether there are crops to cut: of images as they are, of any size."""
    cut = METHODS[base].facts.get("native") or settings.get("init") in ("rded", "crops")
    if not cut or "whitening" not in config["datasets"][entry["dataset"]]:
        return []
    return [
        f"{where}: {base} would begin with crops of real images, which cannot be whitened as {entry['dataset']} is: "
        "name a data set without whitening"
    ]


def _enough(where: str, entry: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Whether enough images are looked at for those wanted."""
    if "mipc" not in settings and settings.get("init") != "rded":
        return []
    mipc = {**SCORING, **settings, **entry.get("scoring", {})}["mipc"]
    most = max(entry.get("ipc", [0])) * settings["factor"] ** 2
    if most <= mipc:
        return []
    return [
        f"{where}: ipc {max(entry['ipc'])} at factor {settings['factor']} takes {most} images per class, of which each "
        f"gives one crop, and mipc is {mipc}: raise mipc or lower ipc"
    ]


def _taught_on(name: str, config: Mapping[str, Any]) -> str | None:
    """The data set on which the teacher of named labels was trained (None: hard labels, or something is wrong)."""
    labels = config["labels"].get(name)
    observer = labels and config["observers"].get(labels["teacher"])
    return _dataset(observer, config) if observer else None


def _dataset(observer: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    held = config["pools"].get(observer["pool"], {}) if "pool" in observer else observer
    found: str | None = held.get("dataset")
    return found
