"""Which jobs of a suite are still to be done, judged by the manifests that exist (Snakemake's word is the last)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .guard import disagreement
from .paths import MANIFESTS
from .plan import Plan

Job = tuple[str, dict[str, Any]]


def manifest(job: Job) -> str:
    """The (first) manifest of a job."""
    return MANIFESTS[job[0]][0].format(**job[1])


def causes(plan: Plan, rule: str, names: Mapping[str, Any]) -> list[str]:
    """Manifests a job is made from."""
    if rule in ("prepare_data", "draw_masks"):
        return []
    if rule == "train_block":
        return [_data(plan.config["pools"][names["pool"]]["dataset"])]
    if rule == "observe":
        return _listed(plan.observe_inputs(**names))
    if rule == "score":
        return [_data(names["dataset"]), MANIFESTS["observe"][0].format(observer=names["observer"])]
    if rule == "select_view":
        return plan.members(names["experiment"])
    if rule in ("condense", "condition"):
        inputs = plan.condense_inputs if rule == "condense" else plan.condition_inputs
        return _listed(inputs(**{key: value for key, value in names.items() if key != "phase"}))
    if rule == "select_conditioned":
        return plan.conditioned(**names)
    if rule == "merge":
        return [f"{stem}.json" for stem in plan.phases(names["experiment"], names["ipc"], names["seed"])]
    if rule == "relabel":
        return _listed(plan.relabel_inputs(**{key: value for key, value in names.items() if key != "views"}))
    found = _listed(plan.evaluate_inputs(**names))
    return [_data(plan.experiments[names["experiment"]]["dataset"]), *found]


def _listed(inputs: Mapping[str, Any]) -> list[str]:
    """The files of named inputs."""
    return [path for each in inputs.values() for path in ([each] if isinstance(each, str) else each)]


def _data(dataset: str) -> str:
    return MANIFESTS["prepare_data"][0].format(dataset=dataset)


def to_do(plan: Plan, suite: str) -> list[Job]:
    """Jobs that are missing or out of date, and those made from them; no missing cause that nobody needs."""
    jobs = {manifest(job): job for job in plan.jobs(suite)}
    made_from = {path: [cause for cause in causes(plan, *job) if cause in jobs] for path, job in jobs.items()}
    missing = {path for path in jobs if not Path(path).exists()}
    found = {path for path in jobs if path not in missing and disagreement(path, plan.spec(*jobs[path]))}
    found |= {path for path in missing if jobs[path][0] == "evaluate"}
    table = ("tabulate", {"suite": suite})
    if found or not Path(manifest(table)).exists() or disagreement(manifest(table), plan.spec(*table)):
        found |= {path for path in missing if jobs[path][0] in ("merge", "relabel")}  # the table reads these
    before = -1
    while len(found) != before:
        before = len(found)
        found |= {cause for path in found for cause in made_from[path] if cause in missing}
        found |= {path for path, own in made_from.items() if found.intersection(own)}
    return [job for path, job in jobs.items() if path in found]
