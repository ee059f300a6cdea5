"""An evaluation killed at any moment goes on, in the middle of a student, and its table has the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from small import NETWORK, PROTOCOL, digits

from ddlib import presets
from ddlib.artifacts import read_json
from ddlib.attempts import read_attempts
from ddlib.checkpoints import Checkpoint
from ddlib.train.evaluate import Labelled, Lesson, evaluate
from ddlib.train.standing import Standing

ROOT = Path(__file__).resolve().parents[1]
STUDENTS = {"plain": NETWORK, "batch": {**NETWORK, "norm": "batch"}}


class KilledError(Exception):
    """What a test ends an evaluation with."""


class Fragile(Checkpoint):
    """Saves whenever it can, and dies right after saving for the `left`-th time."""

    def __init__(self, folder: Path, left: int = 10**6) -> None:
        super().__init__(folder, "made", {}, 0.0, say=lambda text: None)
        self.left = left

    def save(self, tensors: Any, facts: Any) -> None:
        super().save(tensors, facts)
        self.left -= 1
        if not self.left:
            raise KilledError


def some(count: int) -> Labelled:
    data = digits()
    return Labelled(data.pixels(torch.arange(count)), data.labels[:count], data.mean, data.std)


def rows(standing: Standing, taught: Any, **over: Any) -> list[dict[str, Any]]:
    """Of all students, those that had finished before included."""
    protocol = {**PROTOCOL, "repeats": 1, **over}
    list(evaluate(taught, digits(test=True), STUDENTS, protocol, (1, 8, 8), 10, 3, standing=standing))
    return standing.rows


STAGES = [Lesson(some(20), 4, 0.02), Lesson(some(40), 5, 0.01, (1,))]


@pytest.mark.parametrize(
    ("taught", "over"),
    [
        (some(40), {"lr": 0.05, "repeats": 2}),
        (some(40), {"steps": 7, "restart_at_decay": True, "lr": 0.05}),
        (STAGES, {"carry_optimiser": False}),
        (STAGES, {"carry_optimiser": True, "optimiser": "adamw"}),
    ],
)
def test_killed_after_any_pass_or_student_and_resumed_is_equal(tmp_path: Path, taught: Any, over: Any) -> None:
    whole, counted = Standing(), Fragile(tmp_path / "counted")
    assert rows(Standing(counted), taught, **over) == rows(whole, taught, **over)
    saves, students = 10**6 - counted.left, len(whole.rows)
    assert saves >= 3 * students, "after each of two passes, and of each student"
    for last in range(1, saves + 1):
        folder = tmp_path / str(last)
        with pytest.raises(KilledError):
            rows(Standing(Fragile(folder, last)), taught, **over)
        before = Standing(Fragile(folder))
        assert len(before.rows) == last * students // saves
        assert rows(before, taught, **over) == whole.rows, f"killed after saving {last} of {saves} times"


def test_what_was_compiled_stays_so(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        rows(Standing(Fragile(tmp_path, 2)), some(40))
    again = Standing(Fragile(tmp_path))
    assert [again.mode(name, "auto") for name in STUDENTS] == ["never", "auto"]


# ---- a real kill of the job ---------------------------------------------------------------------------------------

SPEC: dict[str, Any] = {
    "set": "whole",
    "students": STUDENTS,
    "protocol": {**PROTOCOL, "whole_steps": 160, "repeats": 2},
    "seed": 3,
    "labels": "hard",
    "label": {"kind": "hard"},
    "dataset": {"source": "digits"},
}


STEM = "results/evaluations/digits__whole/ipc0/seed3/hard/quick/group"


def command() -> list[str]:
    machine = {**presets.MACHINE, "device": "cpu", "compile": "never", "threads": 1, "checkpoint_seconds": 0}
    return [
        sys.executable, "-m", "ddlib.jobs.evaluate", "--spec", json.dumps(SPEC), "--gpus", "0",
        "--machine", json.dumps(machine), "--source", "data/train.json", "--test", "data/test.json",
        "--table", f"{STEM}.csv", "--output", f"{STEM}.json", "--run", f"{STEM}.run.json",
    ]  # fmt: skip


def test_the_job_survives_sigkill(tmp_path: Path) -> None:
    for name in ("train", "test"):
        digits(test=name == "test").save(tmp_path / "data", name, {})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    how: dict[str, Any] = {"cwd": tmp_path, "env": environment, "text": True}
    killed = subprocess.Popen(command(), stderr=subprocess.PIPE, **how)
    end = time.monotonic() + 60
    while not _students(tmp_path):
        assert killed.poll() is None, killed.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not list((tmp_path / "results/evaluations").rglob("group.*"))
    done = subprocess.run(command(), capture_output=True, check=False, **how)
    assert done.returncode == 0, done.stderr
    assert "going on from a checkpoint" in done.stderr
    whole = evaluate(digits(), digits(test=True), STUDENTS, SPEC["protocol"], (1, 8, 8), 10, 3, whole=True)
    assert (tmp_path / f"{STEM}.csv").read_text() == pd.DataFrame(list(whole)).to_csv(index=False)
    assert read_json(tmp_path / f"{STEM}.json")["result"] == {"students": 4}
    assert not [path for path in (tmp_path / "results/checkpoints").rglob("*") if path.is_file()]
    attempts = read_attempts(next(tmp_path.glob("results/events/**/*.jsonl")))
    assert len(attempts) == 1, "one attempt in two sessions"
    told = [event for _, event in attempts[0].lines if event["event"] == "progress"]
    starts = [event["time"] for _, event in attempts[0].lines if event["event"] == "start"]
    after = next(event for event in told if event["time"] >= starts[-1])
    assert after["unit"] != "passes of student 1/4", "the first was not trained again"
    run = read_json(tmp_path / f"{STEM}.run.json")
    assert run["seconds"] > run["ended"] - starts[-1], "the seconds before the kill are counted"


def _students(folder: Path) -> bool:
    """Whether the job is at its second student."""
    told = [path.read_text() for path in folder.glob("results/events/**/*.jsonl")]
    return any("passes of student 2/4" in text for text in told)
