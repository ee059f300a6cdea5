"""The whole way into a real MLflow database, and what is said where there is none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_jobs import SPEC, job, run_job

from ddlib import tracking
from ddlib.attempts import read_attempts
from ddlib.jobs import track
from ddlib.writing import locked


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def test_where_to(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(results.parent)
    assert tracking.tracking_uri("results") == f"sqlite:///{results}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@there:1")
    assert tracking.tracking_uri("results") == "http://me:secret@there:1"
    assert tracking.shown("http://me:secret@there:1") == "http://there:1"
    assert tracking.tracking_uri("results", "none") is None
    assert tracking.import_events(results, None) == 0
    with pytest.raises(ValueError, match="tracking must be local or none, not 'off'"):
        tracking.tracking_uri("results", "off")


def test_a_dead_server_is_one_clear_line_and_costs_nothing(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events = run_job(results)
    before = events.path.read_bytes()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    began = time.monotonic()
    assert track.main(["--once", "--results", str(results)]) == 1
    assert time.monotonic() - began < 20
    said = capsys.readouterr().err
    assert re.fullmatch(r"tracking: no MLflow server answers at http://127\.0\.0\.1:9 \(.*refused.*\).*\n", said)
    assert events.path.read_bytes() == before


def test_nothing_to_import_is_said(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert track.main(["--once", "--results", str(results)]) == 0
    assert "no events under" in capsys.readouterr().out
    assert track.main(["--once", "--results", str(results), "--tracking", "none"]) == 0
    assert "tracking is none" in capsys.readouterr().out
    assert not results.exists()


def test_a_second_importer_leaves(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_job(results)
    with locked(results / ".mlflow.lock"):
        assert tracking.import_events(results, f"sqlite:///{results}/mlflow.db") == 0
    assert "another importer is at work" in capsys.readouterr().out
    assert not (results / "mlflow.db").exists()


def test_following_waits_for_a_dead_server_and_says_so_once(results: Path) -> None:
    run_job(results)
    said: list[str] = []
    turns = iter([False] * 5 + [True])
    options: dict[str, Any] = {"every_s": 0.01, "say": said.append, "stop": lambda: next(turns)}
    assert tracking.import_events(results, "http://127.0.0.1:9", follow=True, **options) == 0
    assert len(said) == 1
    assert "no MLflow server answers" in said[0]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A results folder with one finished job, imported by the command line in a process of its own."""
    results = tmp_path_factory.mktemp("work") / "results"
    results.mkdir()
    (results / "preview.png").write_bytes(b"picture")
    events = run_job(results, steps=2100, status=None)
    events.params({"many": {str(i): i for i in range(150)}})
    events.metric(2100, loss=float("nan"))
    events.artifact("results/preview.png", "preview")
    events.dataset("digits", "ab" * 32, "results/data/digits/train.json")
    events.end("finished", seconds=12.5)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    command = [sys.executable, "-m", "ddlib.jobs.track", "--once", "--results", str(results)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "2106 new events" in done.stdout
    assert done.stderr == ""
    return results, f"sqlite:///{results}/mlflow.db"


def test_mlflow_holds_the_whole_run(database: tuple[Path, str]) -> None:
    results, uri = database
    assert tracking.import_events(results, uri) == 0
    client, experiment = tracking.prepare(results, uri)
    (run,) = client.search_runs([experiment])
    assert run.info.run_name == "condense digits_idc ipc10 seed0"
    assert run.info.status == "FINISHED"
    tags = run.data.tags
    assert (tags["method"], tags["seed"], tags["status"], tags["superseded"]) == ("idc", "0", "finished", "false")
    assert tags["mlflow.source.git.commit"] == "abc1234"
    assert run.data.params["settings.decay_at"] == "[0.5,0.75]"
    assert run.data.params["many.149"] == "149"
    curve = client.get_metric_history(run.info.run_id, "loss")
    assert len(curve) == 2101
    assert (curve[3].step, curve[3].value) == (3, 0.25)
    written = [event for event in read_attempts(job(results).path)[0].lines if event[1]["event"] == "metric"]
    assert curve[3].timestamp == round(written[3][1]["time"] * 1000)
    assert run.data.metrics["seconds"] == 12.5
    (entry,) = client.list_artifacts(run.info.run_id, "preview")
    assert entry.path == "preview/preview.png"
    assert (results / "mlruns" / run.info.run_id / "artifacts" / "preview" / "preview.png").read_bytes() == b"picture"
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest, used.tags[0].value) == ("digits", "ab" * 16, "train")


def test_mlflow_follows_continues_and_supersedes(database: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    results, uri = database
    output = "results/condensed/digits_idc/per1/seed0/stage0/phase0.json"
    events = run_job(results, status=None, output=output)
    client, experiment = tracking.prepare(results, uri)

    def state() -> list[tuple[str, str, int]]:
        runs = client.search_runs([experiment], f"tags.output = '{output}'", order_by=["attributes.start_time ASC"])
        history = [len(client.get_metric_history(run.info.run_id, "loss")) for run in runs]
        return [(r.info.status, r.data.tags["superseded"], n) for r, n in zip(runs, history, strict=True)]

    seen: list[list[tuple[str, str, int]]] = []

    def stop() -> bool:
        if len(seen) == 4:
            return True
        seen.append(state())
        if len(seen) == 1:
            events.metric(3, loss=0.1)
            monkeypatch.setattr("ddlib.importer.is_alive", lambda start: False)
        elif len(seen) == 2:
            monkeypatch.undo()
            again = job(results, output)
            again.start("condense", output, SPEC, resumed=True)
            again.metric(4, loss=0.1)
        elif len(seen) == 3:
            run_job(results, output=output)
        return len(seen) >= 4

    assert tracking.import_events(results, uri, follow=True, every_s=0.01, stop=stop) == 4 + 1 + 2 + 5
    assert seen == [
        [("RUNNING", "false", 3)],
        [("KILLED", "false", 4)],
        [("RUNNING", "false", 5)],
        [("KILLED", "true", 5), ("FINISHED", "false", 3)],
    ]
    assert state() == seen[-1]


def test_a_lost_database_is_made_again(database: tuple[Path, str], tmp_path: Path) -> None:
    results, _ = database
    uri = f"sqlite:///{tmp_path}/other.db"
    assert tracking.import_events(results, uri) >= 2106
    client, experiment = tracking.prepare(results, uri)
    assert len(client.search_runs([experiment], "tags.ipc = '10'")) == 1


def test_a_database_that_is_none_is_explained(database: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_text("this is not a database, and long enough to be seen as such" * 20)
    with pytest.raises(tracking.TrackingError, match=r"MLflow at sqlite.*bad\.db can't be used: .*not a database"):
        tracking.import_events(database[0], f"sqlite:///{tmp_path}/bad.db")
