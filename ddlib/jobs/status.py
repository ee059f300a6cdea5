"""What runs, how far it is and how long it will take (`make status`), read from the events of jobs alone."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddlib.attempts import Attempt, is_alive, read_attempts
from ddlib.importer import event_files
from ddlib.progress import duration

SILENT_SECONDS = 900.0
"""A job that has said nothing for so long is shown as stopped?; every loop of over a few seconds reports its
progress.
"""
_TAIL = 4096


@dataclass(frozen=True)
class Job:
    """The last attempt of one output."""

    rule: str
    output: str
    state: str  # running, stopped?, finished, failed, interrupted
    time: float
    progress: str = ""
    eta: str = ""
    where: str = ""


def read_jobs(results: str | Path, now: float) -> list[Job]:
    """The last attempt in every event file below `results`; `now`: unix seconds."""
    found = (_job(path, now) for path in event_files(results))
    return [job for job in found if job is not None]


def _job(path: Path, now: float) -> Job | None:
    """A file that ends with an end event is not read further: a finished suite has thousands of them."""
    with open(path, "rb") as handle:
        handle.seek(max(0, path.stat().st_size - _TAIL))
        last = handle.read().rstrip(b"\n").rpartition(b"\n")[2]
    try:
        end = json.loads(last)
    except ValueError:
        end = {}
    if isinstance(end, dict) and end.get("event") == "end":
        return Job("", path.stem, end["status"], end["time"])
    attempts = read_attempts(path)
    return _open_job(attempts[-1], now) if attempts else None


def _open_job(attempt: Attempt, now: float) -> Job:
    start, last = attempt.start, attempt.last
    if attempt.end:  # behind a torn line
        return Job(start["rule"], start["output"], attempt.end["status"], last["time"])
    stopped = is_alive(start) is False or now - last["time"] > SILENT_SECONDS
    told: list[dict[str, Any]] = [event for _, event in attempt.lines if event["event"] == "progress"]
    far, eta = "", ""
    if told:
        far = f"{told[-1]['done']}/{told[-1]['total']} {told[-1]['unit']}"
        if told[-1]["eta_s"] is not None and not stopped:
            eta = duration(told[-1]["eta_s"] - (now - told[-1]["time"]))
    device = str(start["tags"].get("device", ""))
    where = f"{start['host']} pid {start['pid']}" + (f" slurm {start['slurm_id']}" if start["slurm_id"] else "")
    state = "stopped?" if stopped else "running"
    return Job(start["rule"], start["output"], state, last["time"], far, eta, f"{where} {device}".strip())


def status(results: str | Path, now: float) -> str:
    """The text `make status` prints; `now`: unix seconds, whose day (local time) is today."""
    jobs = read_jobs(results, now)
    if not jobs:
        return f"no job has reported under {Path(results, 'events')} yet. Run the workflow first."
    active = sorted(
        (job for job in jobs if job.state in ("running", "stopped?")), key=lambda job: (job.state, job.output)
    )
    rows = [("state", "rule", "output", "done", "to go", "last seen", "where")]
    rows += [
        (
            job.state,
            job.rule,
            job.output,
            job.progress or "-",
            job.eta or "-",
            f"{duration(now - job.time)} ago",
            job.where,
        )
        for job in active
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    today = time.localtime(now)[:3]
    count = dict.fromkeys(("running", "stopped?", "finished", "failed", "interrupted"), 0)
    for job in jobs:
        count[job.state] += job in active or time.localtime(job.time)[:3] == today
    summary = (
        f"{count['running']} running, {count['stopped?']} stopped?; "
        f"today {count['finished']} finished, {count['failed']} failed, {count['interrupted']} interrupted"
    )
    if count["stopped?"]:
        summary += (
            "\nstopped?: the process is gone or silent; snakemake runs it again, from its checkpoint where it has one."
        )
    return "\n".join([*lines, "", summary] if active else [summary])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m ddlib.jobs.status", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of results (default: results)")
    print(status(parser.parse_args(argv).results, time.time()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
