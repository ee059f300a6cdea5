"""Condense the classes of one phase; killed and started again, it goes on."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from ddlib import registry
from ddlib.artifacts import read_manifest, sha256_file, write_manifest
from ddlib.jobs.job import Job, at_work, guarded, parser, say


def main() -> None:
    """Entry point."""
    options = parser(__doc__, gpu=True)
    options.add_argument("--train", type=Path, required=True)
    options.add_argument("--selection", type=Path)
    given = options.parse_args()
    spec = given.spec
    experiment = given.output.parts[-5] if len(given.output.parts) >= 5 else given.output.stem
    tags = {key: spec[key] for key in ("method", "ipc", "seed", "stage")}
    tags |= {
        "experiment": experiment,
        "dataset": spec["dataset"]["source"],
        "phase": given.output.stem.removeprefix("phase"),
    }
    with at_work("condense", given, tags) as job:
        _condense(given, job)


def _condense(given: Namespace, job: Job) -> None:
    from ddlib.data.real import RealData
    from ddlib.methods.driver import condense
    from ddlib.methods.recipe import Problem
    from ddlib.objectives.matching import Execution

    spec = given.spec
    data = RealData.load(given.train, job.device).fit()
    manifest = read_manifest(given.train, "data")
    job.events.dataset(data.name, manifest["files"]["tensors"]["sha256"], given.train)
    checkpoint = job.checkpoint()
    job.go_on_as(checkpoint)
    problem = Problem(
        data,
        spec["ipc"],
        spec["classes"],
        spec["seed"],
        spec["dataset"]["base_size"],
        spec["network"],
        _rows(given.selection),
        spec["stage"],
        Execution(job.machine["compile"], job.machine["class_chunk"], job.machine["precision"]),
    )
    recipe = registry.lookup(registry.METHODS, spec["method"], "method").load()(spec["settings"], problem)
    if recipe.objective is not None:
        checkpoint.execution = job.computes(recipe.objective.compiler, recipe.objective.chunk)
        say(f"{job.description}, {recipe.objective.compiler.reason}, {recipe.objective.chunk} classes at once")
    with checkpoint.held():
        made = condense(recipe, problem, spec["snapshots"], checkpoint, job.events)
        _save(given, data, recipe, made)
        job.facts["seconds_before"] = checkpoint.seconds_before
        job.finished.append(checkpoint)


def _rows(selection: Path | None) -> list[dict[str, Any]] | None:
    """The view's table, checked against the hash its manifest holds."""
    if selection is None:
        return None
    import pandas as pd

    manifest = read_manifest(selection, "selection")
    table = selection.parent / manifest["files"]["table"]["path"]
    if sha256_file(table) != manifest["files"]["table"]["sha256"]:
        raise ValueError(f"{table} was edited since it was made. Delete {selection} to have both made anew.")
    found: list[dict[str, Any]] = pd.read_csv(table).to_dict("records")
    return found


def _save(given: Namespace, data: Any, recipe: Any, made: Any) -> None:
    """One set per phase: the result, the initial images, and the snapshots along the way."""
    import torch

    from ddlib.sets.synthetic import SyntheticSet

    spec = given.spec
    labels = torch.tensor(spec["classes"]).repeat_interleave(spec["ipc"])
    files = {}
    kinds = {"set": made.images, "initial": made.initial}
    kinds |= {f"at{outer}": images for outer, images in made.snapshots.items()}
    for name, images in kinds.items():
        part = SyntheticSet(
            images=images.cpu(),
            labels=labels,
            stage=torch.full_like(labels, spec["stage"]),
            factor=recipe.factor,
            mean=data.mean,
            std=data.std,
            class_names=data.class_names,
            name=data.name,
        )
        suffix = ".safetensors" if name == "set" else f".{name}.safetensors"
        files[name] = given.output.with_suffix(suffix)
        part.save(files[name])
    result = {"outer_iterations": recipe.outer_iterations, "losses": [round(loss, 8) for loss in made.losses]}
    write_manifest(given.output, "phase", spec, files, result)


if __name__ == "__main__":
    guarded(main)
