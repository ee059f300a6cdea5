"""How much observing, scoring, labelling and being taught by a teacher is, as `make plan` counts it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import CONFIG

from ddlib import project
from ddlib.config import merged, read, resolve
from ddlib.jobs import amounts
from ddlib.jobs.plan import Clock
from ddlib.methods import cost
from ddlib.methods.cost import evaluating, judging, seconds
from ddlib.plan import Plan
from ddlib.presets import MACHINE

PICKED = {
    "method": "rded",
    "dataset": "digits",
    "ipc": [1, 10],
    "seeds": [0],
    "observer": "judge",
    "settings": {"mipc": 60, "crops": 3},
    "protocols": ["quick"],
    "students": "group",
    "labels": ["hard", "one_each", "by_view", "asked"],
}
JUDGED = {
    "observers": {"judge": {"pool": "early"}},
    "labels": {
        "one_each": {"kind": "static", "teacher": "judge"},
        "by_view": {"kind": "per_view", "teacher": "judge", "epochs": 3},
        "asked": {"kind": "online", "teacher": "judge"},
    },
    "experiments": {"picked": PICKED},
}
SET = {"experiment": "picked", "ipc": 10, "seed": 0, "at": ""}
PHASE = {"experiment": "picked", "per": 10, "seed": 0, "stage": 0, "phase": 0}
STUDENTS = {**SET, "protocol": "quick", "students": "group"}
SCORE = {"dataset": "digits", "observer": "judge", "mipc": 60, "crops": 3, "factor": 1, "seed": 0}


def plan(**changes: Any) -> Plan:
    """The plan of the tiny configuration with an experiment that picks crops, merged with `changes`."""
    return Plan(resolve(merged(merged(CONFIG, JUDGED), changes), read(project.SCHEMA)))


def counted(found: Plan, rule: str, names: dict[str, Any]) -> list[tuple[str, int]]:
    """(kind of step, images that pass in all such steps)."""
    return [(step.kind, round(step.images * many)) for step, many in amounts.work(found, rule, names)]


def test_what_an_observer_looks_at() -> None:
    found = plan()
    assert counted(found, "observe", {"observer": "judge"}) == [("judge", 1000)], "a hundred of each class are enough"
    assert counted(found, "score", SCORE) == [("judge", 10 * 60 * 3)]
    assert counted(found, "condense", PHASE) == [], "the table has the scores"
    ((step, _),) = amounts.work(found, "score", SCORE)
    assert step.key == "judge small on digits: 256 images"
    held = plan(datasets={"digits": {"heldout": 0.1}})
    assert counted(held, "observe", {"observer": "judge"}) == [("judge", 144)], "those held out, where there are any"


def test_a_teacher_looks_at_each_image_or_each_view() -> None:
    found = plan(protocols={"quick": {"epochs": 7}})
    assert counted(found, "relabel", {**SET, "labels": "one_each", "views": "decoded"}) == [("judge", 100)]
    by_view = {**SET, "labels": "by_view", "views": "quick"}
    assert counted(found, "relabel", by_view) == [("judge", 300)]
    every = plan(protocols={"quick": {"epochs": 7}}, labels={"by_view": {"epochs": 0}})
    assert counted(every, "relabel", by_view) == [("judge", 700)], "as many as students train"


def test_a_teacher_beside_the_students_is_a_forward_more() -> None:
    found = plan()
    (train,) = counted(found, "evaluate", {**STUDENTS, "labels": "hard"})
    assert counted(found, "evaluate", {**STUDENTS, "labels": "by_view"}) == [train]
    assert counted(found, "evaluate", {**STUDENTS, "labels": "asked"}) == [train, ("judge", train[1])]


def test_students_have_batches_of_their_own() -> None:
    dataset = {"source": "digits", "classes": 10, "channels": 1, "size": 8}
    protocol = {"batch": 50, "epochs": 2, "steps": 0, "repeats": 1, "by_student": {"slow": {"batch": 20}}}
    spec = {"set": "set", "dataset": dataset, "protocol": protocol, "students": {"slow": {}, "quick": {}}}
    found = [(step.kind, step.images, many) for step, many in evaluating(spec, 100, 1, ("teacher", {}))]
    assert found == [("train", 20, 10), ("judge", 20, 10), ("train", 50, 4), ("judge", 50, 4)]
    recorded = evaluating({**spec, "label": {"kind": "per_view"}}, 100)
    assert [step.images for step, _ in recorded] == [50, 50], "views that are kept have their batches"


@pytest.mark.parametrize("factor", [1, 2])
def test_stitched_images_are_seen_whole_and_kept_as_bytes(factor: int) -> None:
    found = plan(experiments={"picked": {"settings": {"factor": factor}}})
    each = 64 + 8 * factor**2  # pixels, and which real image a cell shows
    assert amounts.bytes_of(found, "merge", SET) == 100 * each
    assert amounts.bytes_of(found, "condense", PHASE) == 2 * 100 * each
    assert amounts.decoded(found, "picked", 10) == amounts.decoded(found, "picked__crops", 10) == 100
    assert counted(found, "evaluate", {**STUDENTS, "labels": "hard"}) == [("train", 2 * 64)], "an epoch of two batches"
    ours = plan(experiments={"a": {"settings": {"factor": factor}}})
    assert amounts.decoded(ours, "a", 10) == 100 * factor**2


def test_stages_of_rded_score_in_the_condensation() -> None:
    staged = {**{key: value for key, value in PICKED.items() if key not in ("method", "observer")}, "ipc": [10]}
    staged |= {"progressive": {"base": "rded", "stages": 2}, "network": "small", "pool": "early", "labels": ["hard"]}
    found = plan(experiments={"staged": {**staged, "view": {"members": 1, "epochs": [1]}}})
    names = {"experiment": "staged", "per": 5, "seed": 0, "stage": 1, "phase": 0}
    assert counted(found, "condense", names) == [("judge", 10 * 60 * 3)]
    jobs = [rule for rule, names in found.jobs("staged")]
    assert "score" not in jobs
    assert jobs.count("condition") == 1


def test_features_of_an_observer_are_of_every_image() -> None:
    herded = {**PICKED, "method": "herding", "settings": {"features": "observer"}, "labels": ["hard"]}
    found = plan(experiments={"herded": herded})
    assert counted(found, "condense", {**PHASE, "experiment": "herded"}) == [("judge", 1438)]


def test_bytes_of_what_observers_say() -> None:
    found = plan()
    assert amounts.bytes_of(found, "observe", {"observer": "judge"}) == 4 * (40 + 8 + 650)
    assert amounts.bytes_of(found, "score", SCORE) == 10 * 60 * (8 + 16 + 4)
    assert amounts.bytes_of(found, "relabel", {**SET, "labels": "one_each", "views": "decoded"}) == 100 * 10 * 4
    assert amounts.bytes_of(found, "evaluate", {**STUDENTS, "labels": "asked"}) == 0


@pytest.mark.parametrize("recipe", ["idc", "rded"])
def test_steps_of_every_optimiser_are_timed(recipe: str) -> None:
    found = plan(protocols={"quick": {"recipe": recipe, "lr": 0.01}})
    ((step, _),) = amounts.work(found, "evaluate", {**STUDENTS, "labels": "hard"})
    assert seconds(step, "cpu", "fp32")[0] > 0
    assert step.key.startswith("train on crops small" if recipe == "rded" else "train small")


def test_what_is_timed_with_as_many_images_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found, asked = plan(), []
    monkeypatch.setattr(cost, "AFFORDABLE_FLOPS", 1.0)
    monkeypatch.setattr(cost, "seconds", lambda step, device, precision: asked.append(step.images) or (0.8, 8))
    clock = Clock({**MACHINE, "device": "cpu"})
    work = [step for n in (100, 8, 40) for step in judging("small", found.network("small"), found.dataset("digits"), n)]
    assert clock.hours(work) == pytest.approx((12.5 + 1 + 5) * 0.8 / 3600)
    assert asked == [8]
    sizes = [{**found.dataset("digits"), "source": "imagenette", "size": size} for size in (128, 224)]
    one, other = (judging("small", {}, dataset, 8)[0][0].key for dataset in sizes)
    assert one.replace("128", "224") == other != one


def test_what_learns_all_images_together_is_not_condensed_with_others() -> None:
    """Nor asked what it would save."""
    mtt = {**PICKED, "method": "mtt", "network": "small", "pool": "early", "settings": {}, "labels": ["hard"]}
    mtt |= {"view": {"members": 1, "start_below": 1, "horizon": 1}}
    del mtt["observer"]
    found = plan(experiments={"a": {"ipc": [1, 2]}, "m": mtt})
    assert found.sharable("a")
    assert not found.sharable("m")


def test_a_look_is_timed() -> None:
    found = plan()
    ((step, many),) = judging("small", found.network("small"), found.dataset("digits"), 1000)
    taken, images = seconds(step, "cpu", "fp32")
    assert (step.images, images, many) == (256, 256, 1000 / 256)
    assert 0 < taken < 1
    assert judging("small", {}, found.dataset("digits"), 0) == []
    assert torch.is_grad_enabled()
