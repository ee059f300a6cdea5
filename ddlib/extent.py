"""How many jobs an experiment would take, before any is planned. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .paths import MASKS_A_CHUNK

MOST_JOBS = 1_000_000


def jobs_of(entry: Mapping[str, Any], settings: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """An upper bound on the jobs of a sound experiment and of the networks behind it. `settings`: its own over the
    method's."""
    pool, staged = config["pools"].get(entry.get("pool"), {}), entry.get("progressive", {})
    members = (entry.get("view") or {}).get("members", staged.get("members", 0))
    classes, stages = config["datasets"][entry["dataset"]]["classes"], staged.get("stages", 1)
    blocks = -(-members // pool.get("members_per_block", 1))
    condensed = stages * (classes // entry.get("classes_per_phase", classes) + blocks)
    masks = settings.get("outer_iterations", 0) // MASKS_A_CHUNK + 1 if entry.get("masks") else 0
    evaluated = (1 + len(entry.get("evaluate_at", []))) * len(entry.get("labels", [""])) * len(entry["protocols"])
    return int(blocks + len(entry["ipc"]) * len(entry["seeds"]) * (condensed + masks + 2 * evaluated))


def problems(where: str, entry: Mapping[str, Any], settings: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """What is wrong with an experiment of more jobs than can be planned."""
    if (jobs := jobs_of(entry, settings, config)) <= MOST_JOBS:
        return []
    return [
        f"{where}: it would take about {jobs:,} jobs, and {MOST_JOBS:,} can be planned: fewer ipc, seeds, stages or "
        "members of the view, more classes_per_phase or members_per_block"
    ]
