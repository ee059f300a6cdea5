"""Which experiments of a configuration may stand beside a paper's numbers (ddlib/published.csv), and which stand on
settings that were published for other cells. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import presets, presets_imagenet, presets_students, protocol_settings
from .pool_settings import training, view_for
from .progressive import name_of
from .registry import NORMALISATION, SOURCES
from .settings import method_settings

# What names a variant, which ddlib/published.csv tells apart.
VARIANT = ("factor", "init", "outer_iterations")
# RDED's images through JPEG, as there, or kept as they are (ours; **Differs** in ddlib/methods/rded.py).
ALIKE = ("store",)
# The labels of students where nothing else is published: classes.
CLASSES = ("hard", "own")


def protocols(config: Mapping[str, Any], entry: Mapping[str, Any]) -> list[str]:
    """The protocols under which an experiment may stand beside the paper's number: the paper's own, untouched, if its
    settings are the published ones (but for those that name a variant) and it starts from what the paper starts from,
    on the same pixels."""
    if entry["method"] not in presets.METHOD_SETTINGS:
        return []
    dataset = config["datasets"][entry["dataset"]]
    preset = method_settings(entry["method"], dataset["source"], {})
    cells = presets.PUBLISHED_CELLS.get(name_of(entry))
    cell = None if cells is None else cells.get(dataset["source"], {}).get(entry["ipc"][0])
    if cells is not None and (cell is None or len(entry["ipc"]) > 1 or not _conditioned_as_published(entry)):
        return []
    wanted = {**preset, **(cell["settings"] if cell else {})}
    free = (*VARIANT, *ALIKE)
    as_set = all(entry["settings"].get(key) == value for key, value in wanted.items() if key not in free)
    pixels = cell["whitening"] if cell else "none"
    if not as_set or dataset.get("whitening", "none") != pixels or dataset.get("heldout"):
        return []
    if not _sized_as_published(config, entry, dataset) or not _normalised_as_published(entry["method"], dataset):
        return []
    begun = _start(config, entry)
    published = cell["start"] if cell else _published_start(entry["method"], dataset["source"])
    if cell and begun is not None:
        begun["training"] = {**begun["training"], "epochs": presets.POOL_TRAINING["mtt"]["epochs"]}  # what is read
    papers = presets_students.PAPERS_PROTOCOL.get(dataset["source"], "idc")
    papers = name_of(entry) if name_of(entry) in presets_students.PROTOCOLS and name_of(entry) != "idc" else papers
    untouched = config["protocols"].get(papers) == {"recipe": papers}
    return [papers] if untouched and begun == published else []


def beside(config: Mapping[str, Any], entry: Mapping[str, Any], labels: Iterable[str]) -> dict[str, Any]:
    """What more a published number depends on, where an observer picks the images: its architecture, and which of
    `labels` are the published ones: the observer's own, as students see them ({}: nothing more)."""
    if entry["method"] != "rded" or not entry["observer"]:
        return {}
    kind = _observer(config, entry)
    kept = {name: config["labels"][name] for name in labels if name in config["labels"]}
    own = {name: label for name, label in kept.items() if label["teacher"] == entry["observer"]}
    exception = (config["datasets"][entry["dataset"]]["source"], kind) in presets_students.RDED_TABLES["exceptions"]
    told = [name for name, label in own.items() if _told_as_published(label, views=not exception)]
    return {"published_labels": told, "observer": kind}


def _told_as_published(label: Mapping[str, Any], views: bool) -> bool:
    """Whether labels are RDED's: of every view, by the teacher at work or as it said (`views`: these are in the
    published batches), all of what it said."""
    whole = views and label["kind"] == "per_view" and not label.get("epochs") and not label.get("top_k")
    return bool(label["kind"] == "online" or whole)


def _observer(config: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """The architecture of an experiment's observer, as RDED's tables call it; "" if it is not the published one."""
    held = config["observers"][entry["observer"]]
    name = config["pools"][held["pool"]]["network"] if "pool" in held else held["network"]
    network = config["networks"][name]
    norm = {**presets.NETWORK_DEFAULTS[network["architecture"]], **network}.get("norm", "batch")
    return protocol_settings.kind_of(network) if norm == "batch" else ""


def _published_start(method: str, source: str) -> dict[str, Any] | None:
    """What a paper's outer iterations start from (None: new networks)."""
    return presets.STARTS_BY_SOURCE.get((method, source), presets.PUBLISHED_STARTS.get(method))


def _sized_as_published(config: Mapping[str, Any], entry: Mapping[str, Any], dataset: Mapping[str, Any]) -> bool:
    """Whether images that come in any size, and any classes, are those of the paper: RDED's go by the observer, and its
    test images are resized to 8/7 of the size first."""
    source = dataset["source"]
    usual = SOURCES[source].facts.get("size", 0)
    size, wanted = dataset.get("size", usual), presets_imagenet.SIZES.get((entry["method"], source), usual)
    if any(key in dataset for key in ("class_list", "class_seed")):
        return False
    if entry["method"] != "rded":
        return bool(size == wanted)
    judged = entry["observer"] and presets_students.RDED_SIZES.get((source, _observer(config, entry)))
    return bool(size == judged and dataset.get("test_resize", size) == 8 * (size // 7))


def _normalised_as_published(method: str, dataset: Mapping[str, Any]) -> bool:
    """Whether pixels are normalised as in the paper: RDED's by ImageNet's mean, others by that of the data."""
    facts, named = SOURCES[dataset["source"]].facts, dataset.get("normalisation")
    if named == "own" and facts.get("folder"):
        return False
    mean = NORMALISATION[named]["mean"] if named in NORMALISATION else facts["mean"]
    return bool(mean == (NORMALISATION["imagenet"] if method == "rded" else facts)["mean"])


def _conditioned_as_published(entry: Mapping[str, Any]) -> bool:
    """Whether its stages (if any) are those of PDD: five, on networks conditioned as there."""
    if entry["stages"] == 1:
        return True
    preset = presets_students.CONDITION.get(entry["method"], presets_students.CONDITION["default"])
    return bool(entry["stages"] == 5 and not entry["conditioned"] and entry["condition"] == preset)


def assumed(config: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> str | None:
    """What is assumed of an experiment that has a published start, but not of its own cells (None: nothing)."""
    known = presets.ASSUMED.get(entry["method"])
    source = config["datasets"][entry["dataset"]]["source"]
    if known is None or _start(config, entry) != _published_start(entry["method"], source):
        return None
    there = known["known"].get(source, ())
    cells = [str(ipc) for ipc in entry["ipc"] if ipc not in there]
    return f"{name} at ipc {', '.join(cells)}: assumed: {known['what']}" if cells else None


def _start(config: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the networks of an experiment's outer iterations are (None: new ones)."""
    if entry["pool"] is None:
        return None
    pool, masks = config["pools"][entry["pool"]], entry["masks"]
    sparse = {key: config["masksets"][masks][key] for key in ("kind", "sparsity")} if isinstance(masks, str) else masks
    return {
        "training": training(pool, 0) if not pool.get("diversity") else {},
        "view": view_for(entry["view"], entry["ipc"][0]),
        "masks": sparse,
    }
