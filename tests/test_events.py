"""What jobs report: written line by line, read back as attempts, whatever a kill leaves."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ddlib.attempts import is_alive, read_attempts, read_lines
from ddlib.events import Events, NullEvents

OUTPUT = "results/condensed/digits_idc/per10/seed0/stage0/phase0.json"


def tear(path: Path) -> None:
    """Leave what a kill in the middle of a write leaves."""
    with open(path, "ab") as handle:
        handle.write(b'{"time": 1.0, "event": "met')


def test_events_come_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "events" / "a" / "b.jsonl"
    events = Events(path)
    attempt = events.start("condense", OUTPUT, {"ipc": 10}, {"device": "CPU"})
    events.params({"chunk": 2})
    events.metric(3, loss=0.5, broken=float("nan"))
    events.artifact("results/x.png", "preview")
    events.dataset("digits", "ab" * 32, "results/data/digits/train.json")
    events.progress(1, 4, "networks", 2.34)
    events.end("finished", seconds=1.5)
    (found,) = read_attempts(path)
    assert found.id == attempt
    kinds = [event["event"] for _, event in found.lines]
    assert kinds == ["start", "params", "metric", "artifact", "dataset", "progress", "end"]
    assert found.lines[-1][0] == path.stat().st_size
    start = found.start
    assert (start["host"], start["pid"]) == (os.uname().nodename, os.getpid())
    assert (start["spec"], start["tags"], start["resumed"]) == ({"ipc": 10}, {"device": "CPU"}, False)
    assert found.lines[2][1]["values"] == {"loss": 0.5, "broken": "nan"}
    assert found.end is not None
    assert found.end["summary"] == {"seconds": 1.5}
    assert all(json.loads(line)["time"] > 1e9 for line in path.read_text().splitlines())


def test_a_torn_line_is_skipped_and_closed_by_the_next_attempt(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    first = Events(path)
    one = first.start("condense", OUTPUT, {"ipc": 10})
    first.metric(0, loss=1.0)
    whole = path.stat().st_size
    tear(path)
    assert [place for place, _ in read_lines(path)][-1] == whole
    again = Events(path)
    assert again.start("condense", OUTPUT, {"ipc": 10}, resumed=True) == one
    again.metric(1, loss=0.5)
    (found,) = read_attempts(path)
    assert [event["event"] for _, event in found.lines] == ["start", "metric", "start", "metric"]
    assert found.start["resumed"] is True
    assert found.end is None


def test_a_line_cut_by_a_full_disk_is_closed_when_there_is_room_again(tmp_path: Path) -> None:
    events = Events(tmp_path / "x.jsonl")
    events.start("condense", OUTPUT, {"ipc": 10})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (events.path.stat().st_size + 20, before[1]))
    try:
        events.metric(0, loss=1.0)  # cut after 20 bytes
        events.metric(1, loss=0.5)  # no byte of it fits
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    events.metric(2, loss=0.25)
    (found,) = read_attempts(events.path)
    assert [event.get("step") for _, event in found.lines] == [None, 2]


def test_a_rerun_is_a_new_attempt_and_resuming_continues_that_of_its_spec(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    one = Events(path).start("condense", OUTPUT, {"ipc": 10})
    two = Events(path).start("condense", OUTPUT, {"ipc": 50})
    assert one != two
    assert [a.id for a in read_attempts(path)] == [one, two]
    assert Events(path).start("condense", OUTPUT, {"ipc": 10}, resumed=True) == one
    assert [a.id for a in read_attempts(path)] == [two, one]  # the one at work comes last
    assert Events(path).start("condense", OUTPUT, {"ipc": 99}, resumed=True) not in (one, two)
    assert Events(path).start("condense", OUTPUT, {"ipc": 10}) != one


@pytest.mark.parametrize("status", ["failed", "interrupted", "finished"])
def test_what_failed_is_continued_and_what_finished_is_not(tmp_path: Path, status: str) -> None:
    path = tmp_path / "x.jsonl"
    events = Events(path)
    one = events.start("condense", OUTPUT, {"ipc": 10})
    events.end(status)
    again = Events(path).start("condense", OUTPUT, {"ipc": 10}, resumed=True)
    assert (again == one) is (status != "finished")


@pytest.mark.parametrize("events", [NullEvents(), None], ids=["null", "file"])
def test_wrong_values_are_refused_everywhere(events: NullEvents | None, tmp_path: Path) -> None:
    events = events or Events(tmp_path / "x.jsonl")
    with pytest.raises(TypeError, match="metric 'loss' must be a plain number, not str"):
        events.metric(0, loss="low")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="an attempt ends finished, failed, interrupted, not 'ok'"):
        events.end("ok")
    with pytest.raises(TypeError, match="not JSON serializable"):
        events.params({"path": Path("x")})
    assert not (tmp_path / "x.jsonl").exists()


def test_a_folder_that_cannot_be_written_does_not_end_the_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    events = Events(tmp_path / "file" / "x.jsonl")
    for step in range(3):
        events.metric(step, loss=1.0)
    assert capsys.readouterr().err.count("it goes on without") == 1


def test_processes_append_without_mixing(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    code = (
        "import sys; from ddlib.events import Events; e = Events(sys.argv[1])\n"
        "for i in range(200): e.metric(i, loss=1.0, **{'x' * 3000: 2.0})"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(2)]
    assert [job.wait(60) for job in jobs] == [0, 0]
    assert len(path.read_text().splitlines()) == len(list(read_lines(path))) == 400


def test_is_alive_knows_this_host_only(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = {"host": os.uname().nodename}
    assert is_alive({**here, "pid": os.getpid()}) is True
    assert is_alive({**here, "pid": gone.pid}) is False
    assert is_alive({"host": "elsewhere", "pid": 1}) is None


def test_planning_can_use_events_without_torch_or_mlflow() -> None:
    code = "import sys, ddlib.events, ddlib.progress, ddlib.tracking, ddlib.jobs.status, ddlib.jobs.track\n"
    code += "sys.exit(any(m in sys.modules for m in ('torch', 'mlflow')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
