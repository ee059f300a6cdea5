"""Events of jobs that never ran, for the tests of the importer and of MLflow."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ddlib.events import Events

OUTPUT = "results/condensed/digits_idc/per10/seed0/stage0/phase0.json"
SPEC = {"method": "idc", "dataset": {"source": "digits"}, "settings": {"factor": 2, "decay_at": [0.5, 0.75]}, "ipc": 10}
DEAD = {"host": os.uname().nodename, "pid": 2**22 + 1}


def job(results: Path, output: str = OUTPUT) -> Events:
    return Events(results / "events" / Path(output).relative_to("results").with_suffix(".jsonl"))


def run_job(results: Path, steps: int = 3, status: str | None = "finished", output: str = OUTPUT) -> Events:
    events = job(results, output)
    events.start("condense", output, SPEC, {"commit": "abc1234", "dirty": False, "device": "CPU (2 threads)"})
    for step in range(steps):
        events.metric(step, loss=1.0 / (step + 1))
    if status:
        events.end(status, seconds=12.5, note="well")
    return events


def edit_last_start(events: Events, **values: Any) -> None:
    """Rewrite the last start event (to let another host or a dead process have written it)."""
    lines = [json.loads(line) for line in events.path.read_text().splitlines()]
    [line for line in lines if line["event"] == "start"][-1].update(values)
    events.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
