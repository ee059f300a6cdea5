"""Runs related to each other: jobs below their set, what it shows of them, and what the plan says of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml
from fake_jobs import SPEC, job
from test_importer import Memory
from tiny import CONFIG, condensed, scored

from ddlib import project
from ddlib.artifacts import digest
from ddlib.importer import PARENT, Importer
from ddlib.plan_labels import PlanLabels

SET = "results/sets/a/ipc1/seed0/card.json"
PHASE = "results/condensed/a/per1/seed0/stage0/phase0.json"
SCORED = "results/evaluations/a/ipc1/seed0/hard/quick/group.json"


def merged(results: Path, output: str = SET, parts: tuple[str, ...] = (PHASE,)) -> None:
    """A set: its card, and the events of its merging."""
    path = results.parent / output
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {"result": {"parts": dict.fromkeys(parts, "ab")}, "spec": {}, "files": {}}
    path.write_text(json.dumps({"format": 1, "kind": "set", **made}))
    events = job(results, output)
    events.start("merge", output, {"name": "a", "parts": len(parts)})
    events.end("finished")


def done(results: Path, rule: str, output: str, *scores: float, spec: dict[str, Any] = SPEC) -> None:
    events = job(results, output)
    tags = {"labels": "hard", "protocol": "quick"} if rule == "evaluate" else {}
    events.start(rule, output, spec, tags)
    for repeat, score in enumerate(scores):
        events.metric(repeat, **{"accuracy/net": score})
    events.end("finished")


def parents(store: Memory) -> dict[str, str | None]:
    """The parent of each run, by their outputs' rules and numbers."""
    return {run: labels.get(PARENT) for run, labels in store.labels.items()}


def imported(results: Path, store: Memory, **options: Any) -> None:
    Importer(results, store, print, **options).update()


def test_jobs_stand_below_their_set_which_shows_settings_and_accuracies(tmp_path: Path) -> None:
    store, results = Memory(), tmp_path / "results"
    done(results, "condense", PHASE)
    imported(results, store)
    assert parents(store) == {"run0": None}, "there is no set yet"
    done(results, "evaluate", SCORED, 0.5, 0.7)
    merged(results)
    done(results, "merge", "results/sets/a/ipc1/seed0/at5/card.json")
    done(results, "relabel", "results/sets/a/ipc1/seed0/labels/soft/decoded.json")
    done(results, "train_block", "results/pool/p/block0.json")
    imported(results, store)
    found = {run.output: run.id for run in store.held.values()}
    below = {output for output, run in found.items() if store.labels[run].get(PARENT) == found[SET]}
    assert below == set(found) - {SET, "results/pool/p/block0.json"}
    own = [value for kind, run, value in store.told if run == found[SET] and kind != "state"]
    assert ("settings.factor", "2") in own
    assert [(name, value) for name, value, *_ in own if name.startswith("acc")] == [("accuracy/hard/quick/net", 0.6)]
    before = len(store.told)
    imported(results, store)
    assert len(store.told) == before, "importing again adds nothing"


def test_a_set_made_anew_takes_its_jobs_along_but_not_those_of_old(tmp_path: Path) -> None:
    store, results = Memory(), tmp_path / "results"
    done(results, "condense", PHASE)
    merged(results)
    imported(results, store)
    done(results, "condense", PHASE, spec={**SPEC, "seed": 1})
    merged(results)
    imported(results, store)
    old, new = (
        {run.output: run.id for run in store.held.values() if run.superseded == mark} for mark in ("true", "false")
    )
    assert store.labels[old[PHASE]][PARENT] == old[SET]
    assert store.labels[new[PHASE]][PARENT] == new[SET]


def test_what_is_condensed_for_several_sets_stands_below_the_smallest(tmp_path: Path) -> None:
    store, results, shared = Memory(), tmp_path / "results", "results/condensed/a/per2-10/seed0/stage0/phase0.json"
    for ipc in (10, 2):
        merged(results, f"results/sets/a/ipc{ipc}/seed0/card.json", (shared,))
    done(results, "condense", shared)
    imported(results, store)
    found = {run.output: run.id for run in store.held.values()}
    assert store.labels[found[shared]][PARENT] == found["results/sets/a/ipc2/seed0/card.json"]


def test_a_damaged_card_is_said_and_stops_nothing(tmp_path: Path) -> None:
    store, results, said = Memory(), tmp_path / "results", []  # type: tuple[Memory, Path, list[str]]
    merged(results)
    (tmp_path / SET).write_text("{")
    done(results, "condense", PHASE)
    Importer(results, store, said.append).update()
    assert len(store.held) == 2
    assert [PARENT in labels for labels in store.labels.values()] == [False, False]
    assert "card.json" in said[0]


def test_the_plan_labels_what_it_asks_for_and_nothing_else(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    suites = {"of_a": {"experiments": ["a"]}, "tiny": {"experiments": ["a", "b"]}}
    config.write_text(yaml.safe_dump({**CONFIG, "suites": suites}))
    plan = project.load(tmp_path)
    spec = plan.spec("condense", {"experiment": "a", "per": 1, "seed": 0, "stage": 0, "phase": 0})
    known = digest(json.loads(json.dumps(spec)))
    store, results, output = Memory(), tmp_path / "results", f"results/{condensed('a')}"
    labels = PlanLabels(tmp_path)
    own = {"method": "idc", "dataset": "digits", "network": "small"}
    assert labels(output, known) == {"suite": "of_a tiny", "suite.tiny": "yes", "suite.of_a": "yes", **own}
    assert labels(output, "another specification") == {}
    assert labels("results/condensed/elsewhere.json", known) == {}
    scoring = plan.spec("evaluate", dict(plan.cells("of_a")[0].__dict__))
    assert plan.cells("of_a")[0].experiment == "a"
    assert labels(f"results/{scored('a')}", digest(json.loads(json.dumps(scoring))))["method"] == "idc"
    done(results, "condense", output, spec=spec)
    imported(results, store, labels=labels)
    assert store.labels["run0"]["suite"] == "of_a tiny"
    config.write_text(yaml.safe_dump(CONFIG))  # a suite less
    os.utime(config, (1, 1))
    imported(results, store, labels=labels)
    assert [store.labels["run0"][key] for key in ("suite", "suite.tiny", "suite.of_a")] == ["tiny", "yes", "no"]


def test_without_a_configuration_nothing_is_labelled_and_a_wrong_one_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    labels = PlanLabels(tmp_path, said.append)
    assert (labels(PHASE, "x"), said) == ({}, [])
    (tmp_path / "config.yaml").write_text("nonsense: 1\n")
    assert labels(PHASE, "x") == {}
    assert labels(SET, "x") == {}
    assert len(said) == 1
    assert "configuration is wrong" in said[0]
