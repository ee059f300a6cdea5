"""The importer's rules on a store in memory: every event once, whatever was killed, rerun or resumed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_jobs import DEAD, OUTPUT, SPEC, edit_last_start, job, run_job

from ddlib.attempts import read_attempts
from ddlib.importer import Importer, Run
from ddlib.run_facts import MAX_TEXT, flatten, run_name, run_tags


class Memory:
    """A store in memory that counts what it is told."""

    def __init__(self) -> None:
        self.held: dict[str, Run] = {}
        self.told: list[tuple[str, str, Any]] = []
        self.labels: dict[str, dict[str, str]] = {}

    def runs(self) -> list[Run]:
        return list(self.held.values())

    def create(self, key: str, output: str, shown: str, time_ms: int) -> Run:
        run = Run(f"run{len(self.held)}", output, key)
        self.held[run.id] = run
        self.labels[run.id] = {"name": shown}
        return run

    def add(
        self,
        run: Run,
        params: Mapping[str, str] | None = None,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.told += [("param", run.id, item) for item in (params or {}).items()]
        self.told += [("metric", run.id, value) for value in metrics]
        self.labels[run.id].update(tags or {})

    def artifact(self, run: Run, path: Path, kind: str, time_ms: int) -> None:
        self.told.append(("artifact", run.id, (path.name, kind)))

    def dataset(self, run: Run, event: Mapping[str, Any]) -> None:
        self.told.append(("dataset", run.id, event["name"]))

    def state(self, run: Run, state: str, time_ms: int) -> None:
        self.told.append(("state", run.id, state))

    def of(self, kind: str) -> list[Any]:
        return [value for what, _, value in self.told if what == kind]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def importer(results: Path, store: Memory, said: list[str] | None = None) -> Importer:
    return Importer(results, store, (said if said is not None else []).append)


def test_importing_twice_adds_nothing_and_a_live_file_adds_its_new_lines(results: Path) -> None:
    store = Memory()
    events = run_job(results, status=None)
    live = importer(results, store)
    assert (live.update(), live.update()) == (4, 0)
    events.metric(3, loss=0.1)
    assert live.update() == 1
    before = len(store.told)
    assert importer(results, store).update() == 0  # another process later, from what the store holds
    events.end("finished")
    assert importer(results, store).update() == 1
    assert store.told[before:] == [("state", "run0", "finished")]
    assert [(name, step) for name, _, _, step in store.of("metric")] == [("loss", step) for step in range(4)]
    assert len(store.held) == 1


def test_a_finished_file_is_not_read_again(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Memory()
    run_job(results)
    importer(results, store).update()
    monkeypatch.setattr("ddlib.importer.read_attempts", lambda path: pytest.fail(f"{path} was read"))
    assert importer(results, store).update() == 0


def test_a_job_resumed_after_a_kill_continues_its_run(results: Path) -> None:
    store = Memory()
    events = run_job(results, status=None)
    edit_last_start(events, **DEAD)
    with open(events.path, "ab") as handle:
        handle.write(b'{"torn')
    assert importer(results, store).update() == 4
    assert store.of("state") == ["stopped"]
    again = job(results)
    again.start("condense", OUTPUT, SPEC, {"device": "NVIDIA H200"}, resumed=True)
    again.metric(3, loss=0.2)
    assert importer(results, store).update() == 2
    again.end("finished")
    importer(results, store).update()
    assert store.of("state") == ["stopped", "running", "finished"]
    assert list(store.held) == ["run0"]
    assert (store.labels["run0"]["device"], store.labels["run0"]["sessions"]) == ("NVIDIA H200", "2")
    assert len(store.of("param")) == len(set(store.of("param")))


def test_a_rerun_is_a_new_run_and_the_old_one_superseded(results: Path) -> None:
    store = Memory()
    events = run_job(results, status=None)
    importer(results, store).update()
    run_job(results)
    importer(results, store).update()
    assert [store.labels[run]["superseded"] for run in ("run0", "run1")] == ["true", "false"]
    assert [store.held[run].state for run in ("run0", "run1")] == ["stopped", "finished"]
    events.path.unlink()  # even where the events of the old runs are lost
    run_job(results)
    importer(results, store).update()
    assert [store.labels[run]["superseded"] for run in ("run0", "run1", "run2")] == ["true", "true", "false"]


def test_a_job_of_another_host_is_taken_to_run(results: Path) -> None:
    store = Memory()
    edit_last_start(run_job(results, status=None), host="elsewhere", pid=1)
    importer(results, store).update()
    assert store.of("state") == ["running"]


def test_a_deleted_run_stays_deleted(results: Path) -> None:
    store = Memory()
    run_job(results)
    importer(results, store).update()
    store.held["run0"].deleted = True
    store.held["run0"].done_bytes = 0
    before = len(store.told)
    assert importer(results, store).update() == 0
    assert (len(store.held), len(store.told)) == (1, before)


def test_files_are_attached_and_missing_ones_said(results: Path) -> None:
    store, said = Memory(), []  # type: tuple[Memory, list[str]]
    results.mkdir()
    (results / "preview.png").write_bytes(b"x")
    events = run_job(results, status=None)
    events.artifact("results/preview.png", "preview")
    events.artifact("results/gone.png", "preview")
    events.dataset("digits", "ab" * 32, "results/data/digits/train.json")
    importer(results, store, said).update()
    assert store.of("artifact") == [("preview.png", "preview")]
    assert store.of("dataset") == ["digits"]
    assert len(said) == 1
    assert "gone.png is gone" in said[0]


def test_names_tags_and_parameters(results: Path) -> None:
    (attempt,) = read_attempts(run_job(results).path)
    assert run_name(attempt) == "condense digits_idc ipc10 seed0"
    tags = run_tags(attempt)
    expected = {
        "rule": "condense",
        "output": OUTPUT,
        "experiment": "digits_idc",
        "ipc": "10",
        "seed": "0",
        "phase": "0",
    }
    expected |= {
        "method": "idc",
        "dataset": "digits",
        "commit": "abc1234",
        "dirty": "false",
        "host": os.uname().nodename,
    }
    assert expected.items() <= tags.items()
    assert "slurm_id" not in tags
    flat = dict(flatten({"a": {"b": 1, "c": [1, 2]}, "d(e)": None, "long": "x" * 600, "empty": {}}))
    assert flat == {"a.b": "1", "a.c": "[1,2]", "d_e_": "null", "long": "x" * (MAX_TEXT - 2) + "..", "empty": "{}"}
    other = run_job(results, output="results/condensed/c/per1-10/seed2/stage1/phase3.json")
    assert run_name(read_attempts(other.path)[0]) == "condense c ipc1-10 seed2 stage1 phase3"
    pool = run_job(results, output="results/pool/p/block4.json")
    assert run_name(read_attempts(pool.path)[0]) == "condense p block4"
