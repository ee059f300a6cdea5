"""Condense the classes of one phase; killed and started again, it goes on."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddlib import registry
from ddlib.artifacts import check_file, load_file, read_manifest, read_table, write_manifest
from ddlib.jobs.job import Job, at_work, guarded, parser, say
from ddlib.paths import part, per

if TYPE_CHECKING:
    from ddlib.sets.synthetic import SyntheticSet


def main() -> None:
    """Entry point."""
    options = parser(__doc__, gpu=True)
    options.add_argument("--train", type=Path, required=True)
    options.add_argument("--selection", type=Path)
    options.add_argument("--masks", type=Path, nargs="*", default=[])
    options.add_argument(
        "--events", type=Path, help="the block of the member whose forgetting counts choose real images"
    )
    options.add_argument("--scores", type=Path, help="manifest of the score table that crops are picked from")
    options.add_argument("--observer", type=Path, help="manifest of the observer whose features images are picked by")
    options.add_argument("--earlier", type=Path, nargs="*", default=[], help="manifests of the stages before")
    given = options.parse_args()
    spec = given.spec
    experiment = given.output.parts[-5] if len(given.output.parts) >= 5 else given.output.stem
    tags = {key: spec[key] for key in ("method", "seed", "stage")}
    tags |= {
        "ipc": per(spec["ipc"]),
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
    checkpoint = job.checkpoint()
    job.go_on_as(checkpoint)
    real = RealData.load(given.train, job.device, job.machine)
    data = real.fit()
    manifest = read_manifest(given.train, "data")
    job.events.dataset(data.name, manifest["files"]["tensors"]["sha256"], given.train)
    chosen = _chosen(given, data)
    whole = chosen is None or spec["discard"]["of"] == "initial"
    problem = Problem(
        data if whole else chosen,
        tuple(spec["ipc"]) if isinstance(spec["ipc"], list) else spec["ipc"],
        spec["classes"],
        spec["seed"],
        spec["dataset"]["base_size"],
        spec["network"],
        _rows(given.selection),
        spec["stage"],
        Execution(job.machine["compile"], job.machine["class_chunk"], job.machine["precision"]),
        _masks(given, data),
        earlier_stages(given.earlier),
        spec.get("condition"),
        chosen if whole else None,
        scores=_scores(given),
        native=_native(given, job, real),
        observe=_observer(given, job, data),
    )
    recipe = registry.lookup(registry.METHODS, spec["method"], "method").load()(spec["settings"], problem)
    if recipe.objective is not None:
        checkpoint.execution = job.computes(recipe.objective.compiler, recipe.objective.chunk)
        say(f"{job.description}, {recipe.objective.compiler.reason}, {recipe.objective.chunk} classes at once")
    made = condense(recipe, problem, spec["snapshots"], checkpoint, job.events)
    _save(given, problem, recipe, made)
    job.facts["seconds_before"] = checkpoint.seconds_before
    if made.seconds_at:
        job.facts["seconds_at"] = {str(outer): round(seconds, 3) for outer, seconds in made.seconds_at.items()}
    job.finished.append(checkpoint)


def _chosen(given: Namespace, data: Any) -> Any:
    """The real images of this stage, by how often they were forgotten (None: all there are)."""
    if "discard" not in given.spec:
        return None
    asked = given.spec["discard"]
    counted = load_file(given.events, read_manifest(given.events, "block"), f"member{asked['member']}/events")[0]
    return data.between(counted["forgotten"], asked["low"], asked["high"])


def _native(given: Namespace, job: Job, real: Any) -> Any:
    """The images in their native size, where crops are cut from them: for others the files need not be there."""
    cuts = registry.METHODS[given.spec["method"]].facts.get("native")
    if not cuts and given.spec["settings"].get("init") not in ("rded", "crops"):
        return None
    from ddlib.data.native import open_native

    return open_native(given.train, real, job.machine)


def _scores(given: Namespace) -> Any:
    """The score table, where crops are picked from one."""
    if given.scores is None:
        return None
    from ddlib.sets.scores import ScoreTable

    entry = read_manifest(given.scores, "scores")["files"]["scores"]
    return ScoreTable.load(given.scores.parent / entry["path"], entry["sha256"])


def _observer(given: Namespace, job: Job, data: Any) -> Any:
    """The observer, where images are picked by its features."""
    if given.observer is None:
        return None
    from ddlib.pool.observer import Observer

    observer = Observer.load(given.observer, job.device, job.machine["precision"])
    observer.fits(data, str(given.observer))
    return observer


def earlier_stages(parts: list[Path]) -> SyntheticSet | None:
    """The images of the stages before, merged from their parts (None: there are none)."""
    from ddlib.sets.synthetic import SyntheticSet, merge

    held = []
    for path in parts:
        manifest = read_manifest(path, "phase")
        entry = manifest["files"]["set"]
        held.append(SyntheticSet.load(path.parent / entry["path"], entry["sha256"]))
    return merge(held) if held else None


def _masks(given: Namespace, data: Any) -> Any:
    """Masks by outer iteration, where the specification asks for sparse networks."""
    if "masks" not in given.spec:
        return None
    from ddlib.masks.chunks import StoredMasks, magnitude_masks

    asked = given.spec["masks"]
    if asked["kind"] == "magnitude":
        return magnitude_masks(given.spec["network"], data, asked["sparsity"])
    return StoredMasks(given.masks)


def _rows(selection: Path | None) -> list[dict[str, Any]] | None:
    """The view's table, checked against the hash its manifest holds."""
    if selection is None:
        return None
    manifest = read_manifest(selection, "selection")
    rows = read_table(check_file(selection, manifest, "table"))
    return [{**row, "member": int(row["member"]), "epoch": int(row["epoch"])} for row in rows]


def _save(given: Namespace, problem: Any, recipe: Any, made: Any) -> None:
    """A set per budget and phase: the result, the initial images, and the snapshots along the way."""
    kinds = {"set": made.learned, "initial": made.initial}
    kinds |= {f"at{outer}": learned for outer, learned in made.snapshots.items()}
    files = {}
    for kind, learned in kinds.items():
        origins = [None] * len(problem.budgets) if made.origin is None else problem.parts(made.origin)
        for ipc, own, origin in zip(problem.budgets, problem.parts(learned["images"]), origins, strict=True):
            name = part(given.spec["ipc"], ipc, kind)
            suffix = ".safetensors" if name == "set" else f".{name.replace('/', '.')}.safetensors"
            files[name] = given.output.with_suffix(suffix)
            _set(given.spec, problem.data, recipe, ipc, {**learned, "images": own}, origin).save(files[name])
    losses = [[round(loss, 8) for loss in own] for own in made.losses]
    result: dict[str, Any] = {"outer_iterations": recipe.outer_iterations}
    if isinstance(given.spec["ipc"], list):
        result["losses"] = {str(ipc): own for ipc, own in zip(problem.budgets, losses, strict=True)}
    else:
        result["losses"] = losses[0] if losses else []
    if given.spec.get("masks", {}).get("kind") == "magnitude":
        from ddlib.masks.chunks import magnitude_digests

        result["masks"] = magnitude_digests(problem.masks, problem.rows)
    write_manifest(given.output, "phase", given.spec, files, result)


def _set(spec: Any, data: Any, recipe: Any, ipc: int, learned: Any, origin: Any) -> SyntheticSet:
    """What was learned of the phase's classes (images [classes x ipc, C, H, W], ...) as a set. `origin`: the real
    images that stitched ones show (None: they are not stitched)."""
    import torch

    from ddlib.sets.synthetic import SyntheticSet

    labels = torch.tensor(spec["classes"]).repeat_interleave(ipc)
    return SyntheticSet(
        images=learned["images"].cpu(),
        labels=labels,
        stage=torch.full_like(labels, spec["stage"]),
        factor=recipe.factor,
        mean=data.mean,
        std=data.std,
        class_names=data.class_names,
        name=data.name,
        space=data.space,
        whitening=data.whitening,
        soft=learned["soft"].cpu() if "soft" in learned else None,
        step_size=learned["step_size"].cpu().reshape(1) if "step_size" in learned else None,
        grid=max(recipe.grid, 1),
        origin=None if origin is None else origin.cpu(),
    )


if __name__ == "__main__":
    guarded(main)
