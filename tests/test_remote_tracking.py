"""Import into a real MLflow server: runs, curves and files arrive; a server that dies ends nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_jobs import OUTPUT, job, run_job
from PIL import Image

from ddlib import tracking
from ddlib.jobs import track


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """(address, process) of `mlflow server` with a database and artifacts of its own, on 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri, home = f"http://127.0.0.1:{port}", tmp_path / "server"
    home.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{home}/all.db"]
    command += ["--artifacts-destination", str(home / "artifacts"), "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(home / "log", "wb") as log:
        running = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{uri}/health", timeout=5).close()
                    break
                except OSError:
                    assert running.poll() is None, (home / "log").read_text()
                    time.sleep(0.5)
            yield uri, running
        finally:
            _end(running)


def _end(running: subprocess.Popen[bytes]) -> None:
    if running.poll() is None:
        os.killpg(running.pid, 9)
        running.wait(timeout=30)


def test_a_server_gets_everything_and_its_death_ends_nothing(
    server: tuple[str, subprocess.Popen[bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri, running = server
    results = tmp_path / "work" / "results"
    results.mkdir(parents=True)
    Image.new("RGB", (120, 80), "teal").save(results / "preview.png")
    events = run_job(results, status=None)
    events.artifact("results/preview.png", "preview")
    events.end("finished")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert track.main(["--once", "--results", str(results)]) == 0
    assert f"6 new events brought into {uri}" in capsys.readouterr().out
    assert track.main(["--once", "--results", str(results)]) == 0
    assert "0 new events" in capsys.readouterr().out
    client, experiment = tracking.prepare(results, uri)
    (run,) = client.search_runs([experiment], "tags.method = 'idc' and tags.superseded = 'false'")
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 3
    assert [entry.path for entry in client.list_artifacts(run.info.run_id)] == ["images", "preview"]
    (tmp_path / "back").mkdir()
    back = client.download_artifacts(run.info.run_id, "preview/preview.png", str(tmp_path / "back"))
    assert Path(back).read_bytes() == (results / "preview.png").read_bytes()
    assert list((tmp_path / "server" / "artifacts").rglob("preview.png")), "the server holds it"
    assert not (results / "mlruns").exists()
    turns: list[int] = []
    said: list[str] = []

    def stop() -> bool:
        turns.append(1)
        if len(turns) == 1:
            _end(running)
            run_job(results, output=OUTPUT.replace("per10", "per1"))
        return len(turns) > 3

    assert tracking.import_events(results, uri, follow=True, every_s=0.01, stop=stop, say=said.append) == 0
    assert len(turns) > 3
    capsys.readouterr()
    assert said
    assert all(uri in words and "as they were" in words for words in said)
    assert track.main(["--once", "--results", str(results)]) == 1
    assert capsys.readouterr().err.startswith("tracking: no MLflow server answers")
    assert tracking.import_events(results, f"sqlite:///{tmp_path}/other.db") == 11, "nothing is lost"
    assert job(results).path.is_file()
