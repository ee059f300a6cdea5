"""How much the jobs of a plan are: their work in steps, and the bytes of the tensors they leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddlib import label_bytes
from ddlib.data.layout import expected
from ddlib.plan import Plan
from ddlib.registry import SOURCES

if TYPE_CHECKING:
    from ddlib.methods.cost import Work

COUNTED = ("train_block", "observe", "score", "condition", "condense", "relabel", "evaluate")


def work(plan: Plan, rule: str, names: dict[str, Any]) -> Work:
    """Steps of a job."""
    from ddlib.methods import cost

    if rule not in COUNTED:
        return []
    spec = plan.spec(rule, names)
    if rule in ("observe", "score", "relabel"):
        return _judging(plan, rule, names, spec)
    images = real_images(spec["dataset"], plan.config["machine"])[0]
    if rule == "train_block":
        return cost.training(spec, plan.config["pools"][names["pool"]]["network"], images)
    entry = plan.experiments[names["experiment"]]
    if rule == "condense":
        selecting = _selecting(plan, names, spec, images)
        return cost.condensing(spec, entry["network"] or "", images) + selecting
    if rule == "condition":
        return cost.conditioning(spec, entry["network"] or "", images, plan.factor(names["experiment"]))
    if entry["method"] != "whole":
        images = decoded(plan, names["experiment"], names["ipc"])
    label = plan.config["labels"].get(names["labels"])
    teacher = plan.observing(label["teacher"]) if label and label["kind"] == "online" else None
    asked = (teacher, plan.network(teacher)) if teacher and entry["method"] != "whole" else None
    return cost.evaluating(spec, images, entry["stages"], asked)


def _judging(plan: Plan, rule: str, names: dict[str, Any], spec: dict[str, Any]) -> Work:
    """What observers and teachers look at: real images, crops of them, or synthetic ones."""
    from ddlib.methods import cost

    if rule == "relabel":
        named = plan.observing(plan.config["labels"][names["labels"]]["teacher"])
        shown = decoded(plan, names["experiment"], names["ipc"])
        if spec["kind"] == "per_view":
            shown *= spec["epochs"] or label_bytes.passes_of(spec["protocol"], shown)
        return cost.judging(named, plan.network(named), spec["dataset"], shown)
    named = plan.observing(names["observer"])
    if rule == "score":
        shown = spec["dataset"]["classes"] * spec["mipc"] * spec["crops"]
    else:
        share, images = spec["dataset"]["heldout"], real_images(spec["dataset"], plan.config["machine"])[0]
        there = round(images / (1 - share) * share) if share else images
        shown = min(spec["dataset"]["classes"] * spec["gate"]["images"], there)
    return cost.judging(named, plan.network(named), spec["dataset"], shown)


def _selecting(plan: Plan, names: dict[str, Any], spec: dict[str, Any], images: int) -> Work:
    """What a network looks at in a condensation that selects images by it: crops where no table has their scores, whole
    images where its features are asked for."""
    from ddlib.methods import cost

    entry, settings = plan.experiments[names["experiment"]], spec["settings"]
    if "mipc" in settings and plan.scores(names["experiment"], names["seed"]) is None:
        shown = len(spec["classes"]) * settings["mipc"] * settings["crops"]
        return cost.judging(entry["network"], spec["network"], spec["dataset"], shown)
    if settings.get("features") == "observer":
        named = plan.observing(entry["observer"])
        shown = images * len(spec["classes"]) // spec["dataset"]["classes"]
        return cost.judging(named, plan.network(named), spec["dataset"], shown)
    return []


def bytes_of(plan: Plan, rule: str, names: dict[str, Any]) -> float:
    """Bytes of the tensors a job leaves."""
    from ddlib.methods.room import left

    spec = plan.spec(rule, names)
    if rule == "merge":
        entry = plan.experiments[names["experiment"]]
        spec |= {"dataset": plan.dataset(entry["dataset"]), "method": entry["method"], "settings": entry["settings"]}
    if "dataset" not in spec:
        return 0.0
    if rule == "relabel":
        images = decoded(plan, names["experiment"], names["ipc"])
        return float(label_bytes.planned(spec, images, spec["dataset"]["classes"], plan.grid(names["experiment"])))
    budgets = sum(map(int, str(names.get("per", names.get("ipc", 0))).split("-")))
    return left(rule, spec, real_images(spec["dataset"], plan.config["machine"]), budgets)


def decoded(plan: Plan, experiment: str, ipc: int | str) -> int:
    """Images of a set as students see them."""
    classes = plan.config["datasets"][plan.experiments[experiment]["dataset"]]["classes"]
    return int(classes * int(ipc) * plan.factor(experiment) ** 2)


def real_images(dataset: dict[str, Any], machine: dict[str, Any]) -> tuple[int, int]:
    """Images to train on (without those held out), and to test on; those of an image folder are counted if it is
    there."""
    facts = SOURCES[dataset["source"]].facts
    train, test = expected(dataset, machine) if facts.get("folder") else facts["images"]
    return round(train * (1 - dataset["heldout"])), test
