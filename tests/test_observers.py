"""Observers and labels of config.yaml, the jobs they bring, and the check that comes before they judge."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddlib import observers, project, todo
from ddlib.config import ConfigError, read, resolve
from ddlib.paths import MANIFESTS, made_by
from ddlib.plan import Plan
from ddlib.pool.observer import check

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = read(ROOT / "workflow/schemas/config.schema.yaml")
NAMES = ("cat", "dog", "horse")


def raw(**changed: Any) -> dict[str, Any]:
    """config.yaml with an observer, labels and an experiment that picks crops by it."""
    config = copy.deepcopy(read(ROOT / "config.yaml"))
    config["observers"] |= {"judge": {"pool": "digits", "member": 1}}
    config["labels"] |= {
        "one_each": {"kind": "static", "teacher": "judge"},
        "by_view": {"kind": "per_view", "teacher": "judge", "epochs": 3},
        "asked": {"kind": "online", "teacher": "judge"},
    }
    base = {"dataset": "digits", "seeds": [0], "protocols": ["idc_digits"], "students": "convnet2_w32", "ipc": [1, 10]}
    picked = {**base, "method": "rded", "observer": "judge", "settings": {"mipc": 60, "crops": 3}}
    config["experiments"]["picked"] = {**picked, "labels": ["hard", "one_each", "by_view", "asked"]} | changed
    return config


def plan(**changed: Any) -> Plan:
    return Plan(resolve(raw(**changed), SCHEMA))


def refused(config: dict[str, Any], *said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(config, SCHEMA)
    for part in said:
        assert part in str(caught.value)


def jobs_of(found: Plan, suite: str, rule: str) -> list[dict[str, Any]]:
    return [names for each, names in found.jobs(suite) if each == rule]


def test_one_score_table_serves_every_ipc() -> None:
    found = plan()
    assert jobs_of(found, "picked", "score") == [
        {"mipc": 60, "crops": 3, "factor": 1, "dataset": "digits", "observer": "judge", "seed": 0}
    ]
    inputs = [found.condense_inputs("picked", str(ipc), 0, 0)["scores"] for ipc in (1, 10)]
    assert inputs[0] == inputs[1] == MANIFESTS["score"][0].format(**jobs_of(found, "picked", "score")[0])


def test_the_observer_is_trained_and_checked_first() -> None:
    found = plan()
    assert jobs_of(found, "picked", "train_block") == [{"pool": "digits", "block": 1}]
    assert jobs_of(found, "picked", "observe") == [{"observer": "judge"}]
    spec = found.spec("observe", {"observer": "judge"})
    assert spec["member"] == 1
    assert spec["epoch"] == found.config["pools"]["digits"]["training"].get("epochs", 10)


def test_labels_are_made_once_for_all_protocols_or_for_each() -> None:
    found = plan(protocols=["idc_digits", "common_digits"])
    made = {(names["labels"], names["views"]) for names in jobs_of(found, "picked", "relabel")}
    assert made == {("one_each", "decoded"), ("by_view", "idc_digits"), ("by_view", "common_digits")}
    sets = {names["experiment"] for names in jobs_of(found, "picked", "relabel")}
    assert sets == {"picked", "picked__crops", "digits__random"}


def test_students_get_stored_labels_or_their_teacher() -> None:
    found = plan()
    place = {
        "experiment": "picked",
        "ipc": 1,
        "seed": 0,
        "at": "",
        "protocol": "idc_digits",
        "students": "convnet2_w32",
    }
    given = {name: found.evaluate_inputs(**place, labels=name) for name in ("hard", "one_each", "by_view", "asked")}
    assert given["hard"].keys() == {"source", "test"}
    assert given["one_each"]["labels"].endswith("picked/ipc1/seed0/labels/one_each/decoded.json")
    assert given["by_view"]["labels"].endswith("picked/ipc1/seed0/labels/by_view/idc_digits.json")
    assert given["asked"]["teacher"] == "results/observers/judge/observer.json"


def test_every_manifest_is_found_back() -> None:
    found = plan()
    for rule, names in found.jobs("picked"):
        made, back = made_by(MANIFESTS[rule][0].format(**names))
        assert made == rule
        assert back == {key: str(value) for key, value in names.items()}
        found.spec(made, back)
        todo.causes(found, rule, names)


def test_the_table_reads_the_bytes_of_labels_and_the_seconds_of_scoring() -> None:
    files = plan().table_inputs("picked")
    assert "results/sets/digits__random/ipc1/seed0/labels/by_view/idc_digits.json" in files
    assert "results/sets/picked/ipc10/seed0/labels/one_each/decoded.run.json" in files
    assert "results/scores/digits/judge/mipc60_crops3_factor1/seed0/scores.run.json" in files
    assert "results/pool/digits/block1.run.json" in files


def test_a_suite_chooses_labels_and_images() -> None:
    config = raw()
    config["suites"]["ablation"] = {
        "experiments": ["picked"], "labels": ["hard", "one_each"], "images": ["method", "random"],
    }  # fmt: skip
    cells = Plan(resolve(config, SCHEMA)).cells("ablation")
    assert {(cell.experiment, cell.labels) for cell in cells} == {
        (name, labels) for name in ("picked", "digits__random") for labels in ("hard", "one_each")
    }


@pytest.mark.parametrize(
    ("observer", "said"),
    [
        ({}, "neither of `pool`"),
        ({"pool": "digits", "weights": "x.pth"}, "both of `pool`"),
        ({"pool": "digitz"}, "did you mean 'digits'"),
        ({"pool": "digits", "epoch": 99}, "99 is no epoch that pool digits keeps"),
        ({"pool": "digits", "network": "convnet3"}, "it is the pool's"),
        ({"weights": "x.pth", "dataset": "digits", "network": "convnet2_w32"}, "'accuracy' is missing"),
        ({"pool": "digits", "outputs": [1, 2]}, "it is the pool's"),
        (
            {"weights": "x", "dataset": "digits", "network": "convnet2_w32", "accuracy": 0.9, "outputs": [4, 2]},
            "2 of the file's outputs for 10 classes",
        ),
        ({"weights": "x.pth", "dataset": "digit", "network": "convnet2_w32", "accuracy": 0.9}, "did you mean 'digits'"),
    ],
)
def test_an_observer_that_cannot_be_is_refused(observer: dict[str, Any], said: str) -> None:
    config = raw()
    config["observers"]["judge"] = observer
    refused(config, "observers.judge", said)


def test_labels_that_cannot_be_are_refused() -> None:
    config = raw()
    config["labels"]["hard"] = {"kind": "static", "teacher": "judge"}
    config["labels"]["other"] = {"kind": "online", "teacher": "juge", "top_k": 3}
    refused(config, "labels.hard: labels of this name", "did you mean 'judge'", "online labels have no such setting")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"observer": "juge"}, "did you mean 'judge'"),
        ({"labels": ["soft"]}, "no kind of labels is called 'soft'"),
        ({"ipc": [61]}, "ipc 61 at factor 1 takes 61 images per class"),
        ({"scoring": {"mipc": 9}}, "rded has settings of its own"),
        ({"dataset": "cifar10", "students": "convnet3"}, "was trained on digits, not on cifar10"),
    ],
)
def test_an_experiment_whose_observer_does_not_fit_is_refused(changed: dict[str, Any], said: str) -> None:
    refused(raw(**changed), said)


def test_an_observer_is_asked_for_where_it_is_needed_and_nowhere_else() -> None:
    without = raw()
    del without["experiments"]["picked"]["observer"]
    refused(without, "key 'observer' is missing")
    idle = raw()
    idle["experiments"]["digits_idc"]["observer"] = "judge"
    refused(idle, "experiments.digits_idc: idc has no use for an observer")


def test_two_exchanged_classes_are_named() -> None:
    found = np.array([[1, 9, 0], [8, 1, 1], [0, 0, 10]])
    with pytest.raises(ValueError, match="'cat' is taken for 'dog', 'dog' is taken for 'cat'"):
        check(found, NAMES, 0.9, 0.05, "observer judge", "animals")


def test_an_accuracy_far_from_what_is_known_is_refused() -> None:
    found = np.diag([60, 60, 60]) + 20
    with pytest.raises(ValueError, match=r"accuracy of 66.7% on 360 images .* known to have 90.0%"):
        check(found, NAMES, 0.9, 0.05, "observer judge", "animals")
    assert check(found, NAMES, 0.66, 0.05, "observer judge", "animals")["accuracy"] == pytest.approx(2 / 3, abs=1e-6)


def test_an_observer_that_knows_nothing_is_no_exchange() -> None:
    assert check(np.full((3, 3), 5), NAMES, None, 0.05, "observer judge", "animals")["images"] == 45


def test_existing_experiments_are_asked_for_as_before() -> None:
    found = project.load(ROOT)
    for rule, names in found.jobs("digits_idc"):
        spec = found.spec(rule, names)
        assert "label" not in spec
        assert "observer" not in spec
    assert observers.scored(found.experiments["digits_idc"]) is None
