"""RDED at paper scale: its scripts' settings in the suites, and where its published numbers may stand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny import ROOT, Tiny

from ddlib import project, published
from ddlib.config import merged, read, resolve
from ddlib.plan import Plan, rows
from ddlib.pool_settings import training
from ddlib.tables import _published
from ddlib.train.schedules import rate

KNOWN = pd.read_csv(Path(published.__file__).with_name("published.csv")).fillna({"observer": ""})
SUITES = {
    "cifar": ("cifar10_rded", "cifar100_rded"),
    "tiny": ("tiny_rded",),
    "imagenette": ("nette_rded", "woof_rded"),
    "imagenet": ("imagenet10_rded", "imagenet100_rded"),
    "imagenet1k": ("imagenet1k_rded",),
}
# The 16 scripts: subset, network of observer and student, factor, crops, ipc; here: the experiment; size, batch, rate.
SCRIPTS = [
    ("cifar10", "conv3", 1, 5, 10, "cifar10_rded_convnet3", 32, 50, 1e-3),
    ("cifar10", "resnet18_modified", 1, 5, 10, "cifar10_rded_resnet18", 32, 50, 1e-3),
    ("cifar100", "conv3", 1, 5, 10, "cifar100_rded_convnet3", 32, 25, 2e-3),
    ("cifar100", "resnet18_modified", 1, 5, 10, "cifar100_rded_resnet18", 32, 100, 1e-3),
    ("tinyimagenet", "conv4", 1, 5, 10, "tiny_rded_convnet4", 64, 100, 1e-3),
    ("tinyimagenet", "resnet18_modified", 1, 5, 10, "tiny_rded_resnet18", 64, 100, 1e-3),
    ("tinyimagenet", "resnet18_modified", 1, 5, 50, "tiny_rded_resnet18", 64, 100, 1e-3),
    ("imagenet-nette", "conv5", 2, 5, 10, "nette_rded_convnet5", 128, 50, 1e-3),
    ("imagenet-nette", "resnet18", 2, 5, 10, "nette_rded_resnet18", 224, 50, 1e-3),
    ("imagenet-woof", "conv5", 2, 5, 10, "woof_rded_convnet5", 128, 50, 1e-3),
    ("imagenet-woof", "resnet18", 2, 5, 10, "woof_rded_resnet18", 224, 50, 1e-3),
    ("imagenet-10", "resnet18", 2, 5, 10, "imagenet10_rded_resnet18", 224, 50, 1e-3),
    ("imagenet-100", "conv6", 2, 5, 10, "imagenet100_rded_convnet6", 128, 100, 1e-3),
    ("imagenet-100", "resnet18", 2, 5, 10, "imagenet100_rded_resnet18", 224, 100, 1e-3),
    ("imagenet-1k", "resnet18", 2, 1, 10, "imagenet1k_rded_resnet18_cr1", 224, 100, 1e-3),
    ("imagenet-1k", "resnet18", 2, 5, 10, "imagenet1k_rded_resnet18", 224, 100, 1e-3),
]  # fmt: skip


@pytest.fixture(scope="module")
def plan() -> Plan:
    return project.load(ROOT)


def changed(over: dict[str, Any]) -> Plan:
    return Plan(resolve(merged(read(ROOT / "config.yaml"), over), read(project.SCHEMA)))


def observer_of(plan: Plan, name: str) -> dict[str, Any]:
    """The network of an experiment's observer, as its job is told of it."""
    spec = plan.spec("observe", {"observer": plan.experiments[name]["observer"]})
    network: dict[str, Any] = spec["network"]
    return network


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda row: "_".join(map(str, row[:5])))
def test_every_script_is_planned_with_its_settings(script: tuple[Any, ...], plan: Plan) -> None:
    _, official, factor, crops, ipc, name, size, batch, lr = script
    entry = plan.experiments[name]
    assert ipc in entry["ipc"]
    assert entry["settings"] | {"store": ""} == {
        "factor": factor, "mipc": 300, "crops": crops, "store": "", "outer_iterations": 0,
    }  # fmt: skip
    network = observer_of(plan, name)
    depth = int(official.removeprefix("conv").removeprefix("resnet").removesuffix("_modified"))
    assert (network["architecture"], network["depth"]) == ("convnet" if "conv" in official else "resnet", depth)
    assert network["norm"] == "batch"
    label = plan.config["labels"][entry["labels"][0]]
    assert label == {"kind": "online", "teacher": entry["observer"]}
    names = {"experiment": name, "ipc": ipc, "seed": 0, "at": "", "labels": entry["labels"][0], "protocol": "rded"}
    spec = plan.spec("evaluate", {**names, "students": entry["students"]})
    student = next(name for name, student in spec["students"].items() if student == network)
    own = {**spec["protocol"], **spec["protocol"].get("by_student", {}).get(student, {})}
    assert (own["batch"], own["lr"], own["epochs"], own["temperature"], own["loss"]) == (batch, lr, 300, 20.0, "kl")
    assert (own["optimiser"], own["schedule_lr"], own["mix"], own["mix_beta"]) == ("adamw", "half_cosine", "cutmix", 1)
    data = spec["dataset"]
    assert (data["size"], data.get("test_resize", size)) == (size, 8 * (size // 7))
    assert (data["mean"], data["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("suite", SUITES)
def test_suites_plan_all_of_rded(suite: str, plan: Plan) -> None:
    named = [name for name in plan.suites[suite]["experiments"] if name.startswith(SUITES[suite])]
    scripts = {row[5] for row in SCRIPTS if row[5].startswith(SUITES[suite])}
    assert set(named) == scripts
    jobs = plan.jobs(suite)
    assert all(plan.spec(*job)["versions"] for job in jobs)
    observers = {names["observer"] for rule, names in jobs if rule == "observe"}
    assert observers == {plan.experiments[name]["observer"] for name in named}
    tables = [names for rule, names in jobs if rule == "score" and names["seed"] == 0]
    assert len(tables) == len(named), "one pass over the images serves every ipc"
    for observer in observers:
        entry = plan.config["observers"][observer]
        if "pool" in entry:
            pool = plan.config["pools"][entry["pool"]]
            assert (pool["snapshots"], pool["training"]["recipe"][:8]) == ("last", "observer")
            assert plan.spec("observe", {"observer": observer})["epoch"] == training(pool, 0)["epochs"]


def test_observers_are_trained_by_falling_rates(plan: Plan) -> None:
    small, large = (training(plan.config["pools"][f"{name}_observer"], 0) for name in
                    ("cifar10_resnet18", "imagenet100_resnet18"))  # fmt: skip
    assert (small["epochs"], small["lr"], small["batch"], small["weight_decay"]) == (200, 0.1, 128, 5e-4)
    assert (large["epochs"], large["lr"], large["batch"], large["weight_decay"]) == (90, 0.1, 256, 1e-4)
    assert (small["augment"], large["augment"], large["crop_area"]) == ("crop_flip", "resized_flip", [0.08, 1.0])
    assert small["mix_probability"] == large["mix_probability"] == 0
    assert [rate(small, epoch, 200) for epoch in (0, 100)] == pytest.approx([1, 0.5])
    assert [rate(large, epoch, 90) for epoch in (29, 30, 60)] == pytest.approx([1, 0.1, 0.01])


# ---- where published numbers stand -----------------------------------------------------------------------------------


def shown(plan: Plan, experiment: str, **cell: Any) -> float | None:
    """The published accuracy beside a cell of an experiment (None: none)."""
    wanted = {"ipc": 10, "labels": plan.experiments[experiment]["labels"][0], "protocol": "rded", **cell}
    network = wanted.pop("network")
    found = [
        row
        for row in rows(plan.groups(experiment))
        if row["experiment"] == experiment and all(row[key] == value for key, value in wanted.items())
    ]
    line = pd.Series({"observer": "", **found[0], "network": network, "outer_iteration": found[0]["outer"]})
    said = _published(line, KNOWN)["published"]
    return None if pd.isna(said) else float(said)


def test_published_numbers_stand_beside_what_they_are_of(plan: Plan) -> None:
    assert shown(plan, "cifar10_rded_convnet3", network="convnet3_batch") == 0.502
    assert shown(plan, "cifar100_rded_resnet18", network="resnet101_batch", ipc=50) == 0.634
    assert shown(plan, "nette_rded_convnet5", network="convnet5_batch", ipc=1) == 0.338
    assert shown(plan, "imagenet10_rded_resnet18", network="resnet18_batch") == 0.533
    assert shown(plan, "imagenet1k_rded_resnet18", network="resnet18_batch") == 0.42
    assert shown(plan, "imagenet1k_rded_resnet18", network="mobilenet_v2") == 0.404
    assert shown(plan, "imagenet1k_rded_resnet18", network="efficientnet_b0") is None, "not known"
    assert shown(plan, "imagenet1k_rded_resnet18_cr1", network="resnet18_batch") is None, "of five crops"
    assert shown(plan, "cifar10_rded_convnet3", network="convnet3_batch", labels="hard") is None
    assert shown(plan, "cifar10_idc", network="convnet3", labels="hard", protocol="idc") == 0.675


R18, SHOWN = "cifar10_rded_resnet18", {"network": "resnet18_batch"}


def test_every_experiment_has_its_papers_row(plan: Plan) -> None:
    for _, _, _, crops, ipc, name, *_ in SCRIPTS:
        student = plan.students[plan.experiments[name]["students"]][0]
        assert (shown(plan, name, network=student, ipc=ipc) is not None) is (crops == 5)


@pytest.mark.parametrize("over, why", [
    ({"protocols": {"rded": {"epochs": 100}}}, "another protocol of its name"),
    ({"datasets": {"cifar10_rded": {"normalisation": "own"}}}, "CIFAR's own mean"),
    ({"datasets": {"cifar10_rded": {"heldout": 0.1}}}, "fewer images"),
    ({"experiments": {R18: {"settings": {"mipc": 600}}}}, "more images looked at"),
    ({"experiments": {R18: {"observer": "cifar10_convnet3", "labels": ["cifar10_convnet3_online"]}}}, "other observer"),
    ({"experiments": {R18: {"labels": ["cifar10_convnet3_online"]}}}, "another teacher"),
    ({"labels": {"cifar10_resnet18_online": {"kind": "static"}}}, "one label an image"),
    ({"labels": {"cifar10_resnet18_online": {"kind": "per_view", "top_k": 3}}}, "a part of what was said"),
    ({"labels": {"cifar10_resnet18_online": {"kind": "per_view", "epochs": 30}}}, "the same views over again"),
    ({"networks": {"resnet18_batch": {"norm": "instance"}}}, "another network of its name"),
])  # fmt: skip
def test_published_numbers_stand_beside_nothing_else(over: dict[str, Any], why: str) -> None:
    assert shown(changed(over), R18, **SHOWN) is None, why


@pytest.mark.parametrize("over", [
    {"labels": {"cifar10_resnet18_online": {"kind": "per_view"}}},
    {"experiments": {R18: {"settings": {"store": "jpeg75"}}}},
    {"datasets": {"cifar10_rded": {"order": "official"}}},
])  # fmt: skip
def test_what_makes_no_other_images_or_labels_may_differ(over: dict[str, Any]) -> None:
    assert shown(changed(over), R18, **SHOWN) == 0.371


def test_batches_of_views_that_are_kept_are_not_those_of_the_exception() -> None:
    over = {"labels": {"cifar100_convnet3_online": {"kind": "per_view"}}}
    assert shown(changed(over), "cifar100_rded_convnet3", network="convnet3_batch") is None


@pytest.mark.parametrize("over", [
    {"size": 160, "test_resize": 176}, {"test_resize": 224}, {"normalisation": "own"}, {"class_seed": 1},
])  # fmt: skip
def test_images_of_another_kind_are_not_what_was_published(over: dict[str, Any]) -> None:
    config = {"datasets": {"imagenet100_rded": over}}
    assert shown(changed(config), "imagenet100_rded_resnet18", network="resnet18_batch") is None


def test_other_methods_numbers_stand_beside_classes_alone() -> None:
    told = {"labels": {"told": {"kind": "online", "teacher": "cifar10_mini_judge"}}}
    found = changed({**told, "experiments": {"cifar10_idc": {"labels": ["hard", "told"]}}})
    assert shown(found, "cifar10_idc", network="convnet3", protocol="idc", labels="told") is None
    assert shown(found, "cifar10_idc", network="convnet3", protocol="idc", labels="hard") == 0.675
    other = changed({"datasets": {"cifar10": {"normalisation": "imagenet"}}})
    assert shown(other, "cifar10_idc", network="convnet3", protocol="idc", labels="hard") is None


# ---- weights that are not there --------------------------------------------------------------------------------------


def test_weights_may_be_missing_while_nothing_is_run(tmp_path: Path) -> None:
    tiny = Tiny.new(tmp_path / "repo")
    config: dict[str, Any] = copy.deepcopy(tiny.config)
    held = {"dataset": "digits", "network": "small", "weights": "weights/none.pth", "accuracy": 0.5}
    config |= {"observers": {"judge": held}}
    picked = {"method": "rded", "observer": "judge", "settings": {"mipc": 10, "crops": 1}}
    asked = {key: config["experiments"]["a"][key] for key in ("dataset", "ipc", "seeds", "protocols", "students")}
    config["experiments"]["c"] = {**asked, **picked}
    tiny.config = config
    tiny.save()
    wanted = "results/tables/c.csv"
    planned = tiny.snakemake("-n", wanted)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "rule observe" in planned.stdout
    run = tiny.snakemake(wanted)
    assert run.returncode == 1
    assert "weights/none.pth" in run.stdout + run.stderr
    assert not (tiny.folder / "results" / "data").exists(), "said before anything is made"
