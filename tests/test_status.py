"""`make status`: what runs, how far, how long, and what only seems to run."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ddlib.events import Events
from ddlib.jobs import status as module
from ddlib.jobs.status import main, read_jobs, status


def job(results: Path, name: str, *, ended: str | None = None, ago: float = 0.0, **start: Any) -> Path:
    """The events of one job, all of them `ago` seconds old; `start`: changes to its start event."""
    path = results / "events" / "condensed" / f"{name}.jsonl"
    events = Events(path)
    events.start("condense", f"results/condensed/{name}.json", {"ipc": 10}, {"device": "CPU (2 threads)"})
    events.progress(5, 20, "networks", 3725.0)
    if ended:
        events.end(ended)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0].update(start)
    for line in lines:
        line["time"] -= ago
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_running_stopped_and_counts(tmp_path: Path) -> None:
    noon = time.mktime((*time.localtime()[:3], 12, 0, 0, 0, 0, -1))
    shift = time.time() - noon  # events are written now; seen as if it were noon
    job(tmp_path, "a", ago=shift + 65)
    job(tmp_path, "b", ago=shift + 5, pid=2**22 + 1)
    job(tmp_path, "c", ago=shift + 1000)
    job(tmp_path, "d", ago=shift + 10, host="node7", pid=12, slurm_id="99")
    job(tmp_path, "e", ended="finished", ago=shift)
    job(tmp_path, "f", ended="failed", ago=shift)
    job(tmp_path, "g", ended="finished", ago=shift + 86400)
    text = status(tmp_path, noon)
    rows = {line.split()[2]: line for line in text.splitlines() if ".json" in line}
    assert list(rows) == [f"results/condensed/{name}.json" for name in "adbc"]
    host = os.uname().nodename
    a = rows["results/condensed/a.json"]
    assert a.split(maxsplit=3)[:2] == ["running", "condense"]
    assert "5/20 networks  1:01 h  1:05 min ago" in a
    assert a.endswith(f"{host} pid {os.getpid()} CPU (2 threads)")
    assert rows["results/condensed/b.json"].startswith("stopped?")
    assert rows["results/condensed/c.json"].startswith("stopped?")
    assert "5/20 networks  -" in rows["results/condensed/b.json"]
    assert rows["results/condensed/d.json"].startswith("running ")
    assert "node7 pid 12 slurm 99" in rows["results/condensed/d.json"]
    assert "2 running, 2 stopped?; today 1 finished, 1 failed, 0 interrupted" in text
    starts = {line.index("results/condensed") for line in rows.values()}
    assert starts == {text.splitlines()[0].index("output")}


def test_the_last_attempt_counts(tmp_path: Path) -> None:
    path = job(tmp_path, "a", ended="failed")
    events = Events(path)
    events.start("condense", "results/condensed/a.json", {"ipc": 10})
    (found,) = read_jobs(tmp_path, time.time())
    assert (found.state, found.progress) == ("running", "")
    events.end("finished")
    assert [found.state for found in read_jobs(tmp_path, time.time())] == ["finished"]
    with open(path, "ab") as handle:
        handle.write(b'{"torn')
    assert [found.state for found in read_jobs(tmp_path, time.time())] == ["finished"]


def test_an_ended_file_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job(tmp_path, "a", ended="finished")
    monkeypatch.setattr(module, "read_attempts", lambda path: pytest.fail(f"{path} was read"))
    assert [found.state for found in read_jobs(tmp_path, time.time())] == ["finished"]


def test_nothing_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(tmp_path)]) == 0
    assert "no job has reported under" in capsys.readouterr().out
