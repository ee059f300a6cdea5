"""ImageNet subsets and Tiny-ImageNet: published settings, protocols, plans of the suites, methods on their networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small import digits, equipped, problem, recipe, settings
from test_presets import GOLDEN
from tiny import ROOT

from ddlib import presets, presets_imagenet, presets_students, project, published, registry
from ddlib.config import ConfigError, read, resolve
from ddlib.data.real import RealData
from ddlib.methods.driver import condense
from ddlib.methods.recipe import Problem
from ddlib.nn.norm import BatchNorm
from ddlib.objectives.matching import Execution
from ddlib.plan import Plan
from ddlib.pool_settings import training
from ddlib.protocol_settings import by_images
from ddlib.sets.packing import decoded_count
from ddlib.train.evaluate import Labelled, evaluate
from ddlib.train.schedules import decayed

SUITES = ("imagenet", "tiny", "imagenet_mtt")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return project.load(ROOT)


def published_rows() -> list[tuple[list[str], np.ndarray]]:
    """(words, numbers) of IDC's published settings on ImageNet subsets, at factor 3."""
    rules = np.load(GOLDEN, allow_pickle=False)
    words = [str(row).split("|") for row in rules["preset_text_dataset_net_metric_decode_aug_mixup_mixupnet"]]
    rows = zip(words, rules["preset_classes_factor_ipc_depth_outer_lrimg_ndata_early"], strict=True)
    return [(text, numbers) for text, numbers in rows if text[0] == "imagenet" and numbers[1] == 3]


def test_presets_of_idc_are_the_published_settings() -> None:
    rows = published_rows()
    assert len(rows) == 4
    for (_, net, metric, decode, augment, _, mix), numbers in rows:
        classes, factor, ipc, depth, outer, image_lr, samples, early = numbers
        ours = {
            **presets.METHOD_SETTINGS["idc"]["default"],
            **presets.METHOD_SETTINGS["idc"][f"imagenet{int(classes)}"],
        }
        assert (ours["metric"], ours["match_augment"], net, depth) == (metric, augment, "resnet_avgpool", 10)
        assert (ours["factor"], ours["outer_iterations"], ours["network_samples"]) == (factor, outer, samples)
        assert ours["image_lr"] == pytest.approx(image_lr, rel=1e-15)
        assert (ours["pretrain_epochs"], mix, ours["network_mix_probability"]) == (early, "cut", 1.0)
        how = (int(factor), decode, ours["decode_limit"])
        assert decoded_count(int(ipc), int(factor), ours["decode"], ours["decode_limit"]) == decoded_count(
            int(ipc), *how
        )
        for method in ("acc_dd", "drop2sparse"):
            theirs = {**ours, **presets.METHOD_SETTINGS[method][f"imagenet{int(classes)}"]}
            assert {key for key in ours if ours[key] != theirs[key]} <= {"pretrain_epochs"}
            assert theirs["pretrain_epochs"] == 0


def test_bound_decodes_as_single_below_its_limit() -> None:
    for factor, most in ((3, 12), (2, 25)):
        for ipc in range(1, most + 1):
            assert decoded_count(ipc, factor, "bound", 128) == decoded_count(ipc, factor, "single", 128)
        assert decoded_count(most + 1, factor, "bound", 128) < decoded_count(most + 1, factor, "single", 128)


def test_the_rate_of_early_networks_falls_after_the_seventh_and_ninth_epoch() -> None:
    for name, lr in (("idc_imagenet10", 0.01), ("idc_imagenet100", 0.1)):
        recipe = presets.POOL_TRAINING[name]
        rates = [
            lr * decayed(epoch, recipe["epochs"], recipe["decay_at"], recipe["decay_factor"]) for epoch in range(10)
        ]
        assert recipe["lr"] == lr
        assert rates == pytest.approx([lr] * 7 + [lr / 5] * 2 + [lr / 25])


@pytest.mark.parametrize("classes, factor, ipc, epochs", [
    (10, 3, 1, 2000), (10, 3, 10, 1000), (10, 3, 20, 1000), (10, 3, 50, 500), (10, 1, 1, 3000), (10, 1, 10, 2000),
    (10, 3, 100, 300), (100, 3, 10, 600), (100, 3, 20, 600), (100, 1, 10, 1300), (100, 3, 100, 200),
])  # fmt: skip
def test_students_train_by_the_images_they_have(classes: int, factor: int, ipc: int, epochs: int) -> None:
    asked = presets_students.PROTOCOLS["idc_imagenet100" if classes == 100 else "idc_imagenet10"]
    found = by_images(asked, classes, factor, ipc)
    assert found == {**{key: value for key, value in asked.items() if key != "epochs_by"}, "epochs": epochs}
    assert by_images({**asked, "epochs": 7}, classes, factor, ipc)["epochs"] == 7, "one's own number stands"
    assert by_images(asked, classes, factor, 0)["epochs"] == 0, "all images: by steps"
    assert by_images(presets_students.PROTOCOLS["idc"], classes, factor, ipc) == presets_students.PROTOCOLS["idc"]


def test_protocols_of_imagenet_are_the_published_ones() -> None:
    for classes, lr, decay, batch in ((10, 0.01, 5e-4, 64), (100, 0.1, 1e-4, 128)):
        protocol = presets_students.PROTOCOLS[f"idc_imagenet{classes}"]
        assert (protocol["lr"], protocol["weight_decay"], protocol["batch"]) == (lr, decay, batch)
        assert (protocol["augment"], protocol["crop_area"]) == ("resized_flip_jitter_lighting", [0.5, 1.0])
        assert (protocol["mix_probability"], protocol["mix_beta"], protocol["momentum"]) == (1.0, 1.0, 0.9)
        assert (protocol["decay_at"], protocol["decay_factor"]) == ([2 / 3, 5 / 6], 0.2)


# ---- what is planned -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
def test_every_experiment_stands_beside_its_papers_numbers(suite: str, plan: Plan) -> None:
    known = pd.read_csv(Path(published.__file__).with_name("published.csv"))
    for group in plan.groups(suite):
        if group["experiment"] not in plan.suites[suite]["experiments"]:
            continue
        assert group["as_published"], group["experiment"]
        if group["method"] in ("acc_dd", "drop2sparse"):
            continue  # their numbers on ImageNet are not known
        there = known[(known.method == group["method"]) & (known.source == group["source"])]
        there = there[(there.factor == group["factor"]) & (there.outer_iteration == group["outer"])]
        missing = set(group["ipc"]) - set(there.ipc)
        assert not missing or (suite, missing) == ("tiny", {50}), group["experiment"]


def test_imagenet_is_planned_as_published(plan: Plan) -> None:
    ten, hundred = (plan.experiments[f"imagenet{classes}_idc"] for classes in (10, 100))
    assert (ten["phases"], ten["pool"], ten["settings"]["pretrain_epochs"]) == (1, None, 10)
    assert (hundred["phases"], hundred["settings"]["pretrain_epochs"]) == (5, 0)
    assert hundred["view"] == {"members": 10, "epochs": [5]}
    spec = plan.spec("condense", {"experiment": "imagenet100_idc", "per": "20", "seed": 0, "stage": 0, "phase": 3})
    assert spec["classes"] == list(range(60, 80))
    assert spec["dataset"]["size"] == spec["dataset"]["base_size"] == 224
    assert spec["network"]["initialisation"] == "fan_out"
    fast = plan.experiments["imagenet10_acc_dd"]
    assert (fast["settings"]["outer_iterations"], fast["evaluate_at"]) == (100, [25, 50])
    for cell in plan.cells("imagenet"):
        protocol = plan.spec("evaluate", cell.__dict__)["protocol"]
        assert "epochs_by" not in protocol
        assert protocol["whole_steps" if cell.ipc == 0 else "epochs"] > 0


def test_experts_are_trained_as_far_as_they_are_read(plan: Plan) -> None:
    for suite in ("tiny", "imagenet_mtt"):
        for name in plan.suites[suite]["experiments"]:
            entry = plan.experiments[name]
            if entry["pool"] is None:  # RDED starts from none
                continue
            pool, view = plan.config["pools"][entry["pool"]], entry["view"]
            assert training(pool, 0)["epochs"] >= view["start_below"] - 1 + view["horizon"]


def test_another_size_or_other_classes_are_not_what_was_published() -> None:
    raw = read(ROOT / "config.yaml")
    raw["datasets"]["nette128"]["size"] = 160
    raw["datasets"]["imagenet10"]["class_seed"] = 3
    raw["datasets"]["imagenet10"]["source"] = "imagenet100"
    plan = Plan(resolve(raw, read(project.SCHEMA)))
    for name in ("nette128_mtt_ipc1", "imagenet10_idc"):
        assert published.protocols(plan.config, plan.experiments[name]) == []


@pytest.mark.parametrize("network, said", [
    ({"architecture": "torchvision"}, "key 'name' is missing: torchvision needs it"),
    ({"architecture": "torchvision", "name": "mobilenetv2"}, "did you mean 'mobilenet_v2'"),
    ({"architecture": "torchvision", "name": "resnet18", "small_stem": 1}, "it must be a bool"),
    ({"architecture": "resnet", "initialisation": "he"}, "'he' is not one of default, fan_out"),
    ({"architecture": "convnet", "initialisation": "fan_out"}, "unknown setting 'initialisation'"),
])  # fmt: skip
def test_networks_that_cannot_be_are_refused_before_any_job(network: dict[str, Any], said: str) -> None:
    raw = read(ROOT / "config.yaml")
    raw["networks"]["mine"] = network
    with pytest.raises(ConfigError, match=said):
        resolve(raw, read(project.SCHEMA))


def test_existing_networks_are_specified_as_before(plan: Plan) -> None:
    assert "initialisation" not in plan.network("resnet18")
    assert plan.network("resnetap10")["initialisation"] == "fan_out"


# ---- methods on these networks ---------------------------------------------------------------------------------------

AP = {
    "architecture": "resnet",
    "depth": 10,
    "width": 4,
    "downsampling": "avg",
    "initialisation": "fan_out",
    "version": 1,
}


def larger(side: int = 16) -> RealData:
    """Three of the digits in `side` px."""
    few = digits(per_class=30)
    few = few._take(torch.nonzero(few.labels < 3).flatten())
    images = torch.nn.functional.interpolate(torch.as_tensor(few.images[:]), size=(side, side))
    return dataclasses.replace(few, images=images, class_names=few.class_names[:3])


def asked_of(method: str, over: dict[str, Any], network: dict[str, Any], ipc: int, chunk: int) -> Problem:
    asked = problem(range(3), ipc=ipc, network=network, data=larger(), execution=Execution(class_chunk=chunk))
    return equipped(method, dataclasses.replace(asked, base_size=16), settings(method, **over))


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("method", ["idc", "acc_dd", "drop2sparse"])
def test_methods_run_on_residual_networks_with_nine_images_in_one(method: str, norm: str) -> None:
    """At factor 3, decoded up to a bound: of 3 images 1 is taken apart into 9, 1 into 4, 1 is whole."""
    over = {
        **presets.METHOD_SETTINGS[method]["imagenet10"],
        "decode_limit": 16,
        "outer_iterations": 1,
        "inner_steps": 2,
    }
    over |= {"real_batch": 8, "network_batch": 8, "network_samples": 16, "synthetic_batch": 14, "pretrain_epochs": 0}
    over["image_lr"] = 0.05
    network = {**AP, "norm": norm}
    assert decoded_count(3, 3, "bound", 16) == 14
    made = {}
    for chunk in (1, 3):
        asked = asked_of(method, over, network, 3, chunk)
        made[chunk] = condense(recipe(method, asked, **over), asked)
        moved = (made[chunk].images - made[chunk].initial["images"]).abs().amax((1, 2, 3))
        assert bool((moved > 0).all())
        assert bool(made[chunk].images.isfinite().all())
    off = (made[3].images - made[1].images).abs()  # at kinks of ReLU, next to norms, float32 differs now and then
    assert float(off.max()) < 5e-3
    assert float(off.mean()) < 1e-5


def test_statistics_of_batch_norm_in_the_middle_of_a_network_stay_in_matching() -> None:
    over = {
        "factor": 1,
        "init": "first",
        "outer_iterations": 1,
        "inner_steps": 1,
        "real_batch": 8,
        "network_samples": 0,
    }
    asked = asked_of("idc", over, {**AP, "norm": "batch"}, 2, 1)
    plan = recipe("idc", asked, **over)
    objective: Any = plan.objective
    assert sum(isinstance(layer, BatchNorm) for layer in objective.start.net.modules()) == 12
    inner = objective.begin(0, 0)
    before = {name: value.clone() for name, value in inner.network.buffers.items()}
    objective.gradient({"images": torch.rand(6, 1, 16, 16)}, inner, 0)
    assert all(torch.equal(value, before[name]) for name, value in inner.network.buffers.items())


def test_a_network_with_dropout_is_not_matched() -> None:
    network = {"architecture": "torchvision", "name": "mobilenet_v2", "version": 1}
    asked = dataclasses.replace(problem(range(3), network=network, data=larger(32)), base_size=32)
    with pytest.raises(ValueError, match=r"mobilenet_v2 has dropout.*`dropout: false`"):
        recipe("idc", asked)


def test_students_of_imagenets_protocol_train() -> None:
    """On few small colour images, with the published augmentation; twice the same."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(4)
    images = torch.rand(12, 3, 16, 16, generator=generator) * 0.2 + labels[:, None, None, None] * 0.3
    images = images.clamp(0, 1)
    data = Labelled(images, labels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    protocol = {
        **by_images(presets_students.PROTOCOLS["idc_imagenet10"], 10, 1, 4),
        "epochs": 2,
        "batch": 6,
        "repeats": 1,
    }
    students = {"ap": AP, "deep": {"architecture": "resnet", "depth": 50, "width": 4, "norm": "batch", "version": 1}}
    rows = [list(evaluate(data, data, students, protocol, (3, 16, 16), 3, seed=0)) for _ in range(2)]
    assert rows[0] == rows[1]
    assert {row["network"] for row in rows[0]} == set(students)
    assert all(row["steps"] == 4 for row in rows[0])


def test_the_registry_has_what_the_suites_name(plan: Plan) -> None:
    sources = {plan.config["datasets"][entry["dataset"]]["source"] for entry in plan.config["experiments"].values()}
    assert {"imagenet10", "imagenet100", "tiny_imagenet", *presets_imagenet.MTT_SUBSETS} <= sources
    assert sources <= set(registry.SOURCES)
