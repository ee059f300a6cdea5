"""Delete the results that only one suite needs (`make clean-suite SUITE=x`, and YES=1 to do it without a question).

What another suite uses stays, and so do events and logs. Without --yes they are listed, and on a terminal asked about.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path

from ddlib import disk, project
from ddlib.jobs.job import guarded
from ddlib.paths import DATA, FIGURE, TABLE, VIEW
from ddlib.plan import Plan

OF_EXPERIMENTS = ("evaluations", "sets", "condensed", "views")


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(prog="python -m ddlib.jobs.clean", description=__doc__)
    options.add_argument("suite", help="a suite, or an experiment, of config.yaml")
    options.add_argument("--yes", action="store_true", help="delete without asking")
    given = options.parse_args()
    plan = project.load()
    suite = project.suite(plan, given.suite)
    found = files_of(plan, suite)
    print(listed(suite, found))
    if not found:
        return
    nobody_at_work()
    if given.yes or (sys.stdin.isatty() and input("Delete them? [y/N] ").strip().lower() in ("y", "yes")):
        delete(found)
        print("deleted.")
    else:
        print(f"Nothing was deleted. To delete them: make clean-suite SUITE={suite} YES=1")


def files_of(plan: Plan, suite: str) -> list[Path]:
    """Every file in results/ that this suite needs, or has needed, and no other.

    Other suites are those of the configuration; an experiment cleaned away takes the suite of its own name along.
    """
    others = [name for name in plan.config["suites"] if name != suite]
    kept = {name for other in others for name in _experiments(plan, other)}
    own = _experiments(plan, suite) - kept
    patterns = {pattern for name in _experiments(plan, suite) for pattern in _whole(plan, name, name in own)}
    patterns |= _cells(plan, suite) | _shown(suite) | {pattern for name in own for pattern in _shown(name)}
    needed = {path for other in others for path in _needed(plan, other)}
    found = {path for pattern in patterns for path in _matching(pattern)}
    return sorted(found - needed)


def _experiments(plan: Plan, suite: str) -> set[str]:
    """Configured experiments of a suite."""
    return set(plan.suites[suite]["experiments"])


def _whole(plan: Plan, name: str, own: bool) -> set[str]:
    """What belongs to an experiment whatever its settings were, its pool and its data."""
    entry = plan.experiments[name]
    judges = {job["observer"] for rule, job in plan.jobs(name) if rule == "observe"}
    pools = {job["pool"] for rule, job in plan.jobs(name) if rule == "train_block"} | {entry["pool"]}
    pool = {f"results/pool/{each}" for each in pools if each}
    pool |= {f"results/observers/{each}" for each in judges}
    pool |= {f"results/scores/{entry['dataset']}/{each}" for each in judges}
    shared = {str(Path(DATA.format(dataset=entry["dataset"]))), *pool}
    if not own:
        return shared
    all_own = (name, *(f"{name}__{kind}" for kind in ("initial", "crops")))
    folders = {f"results/{kind}/{each}" for kind in OF_EXPERIMENTS for each in all_own}
    return shared | folders | {folder.replace("results/", "results/checkpoints/", 1) for folder in folders | pool}


def _shown(suite: str) -> set[str]:
    return {*(f"{TABLE.format(suite=suite)}.{end}" for end in ("csv", "json", "html")), FIGURE.format(suite=suite)}


def _cells(plan: Plan, suite: str) -> set[str]:
    """The files of every cell: its evaluation, set, condensed tensors and view."""
    found = set()
    for cell in plan.cells(suite):
        names = {"experiment": cell.experiment, "ipc": cell.ipc, "seed": cell.seed}
        found |= {f"{cell.stem}.*", f"{VIEW.format(**names)}.*"}
        if plan.experiments[cell.experiment]["method"] != "whole":
            found |= {f"{cell.set}{name}" for name in ("card.json", "set.safetensors", "preview.png")}
            found.add(f"{cell.set}labels/{cell.labels}")
            found |= {f"{stem}.*" for stem in plan.phases(cell.experiment, cell.ipc, cell.seed)}
    return found


def _needed(plan: Plan, suite: str) -> set[Path]:
    """Every file another suite needs: those of its cells, and of the pools and data sets behind them."""
    patterns = _cells(plan, suite) | _shown(suite)
    for name in _experiments(plan, suite):
        patterns |= _whole(plan, name, own=False)
    return {path for pattern in patterns for path in _matching(pattern)}


def _matching(pattern: str) -> list[Path]:
    """Files at a path, in a folder, or whose name begins with a stem (`stem.*`)."""
    if not pattern.endswith(".*"):
        return disk.files(pattern)
    stem = Path(pattern[:-2])
    return [path for path in stem.parent.glob(f"{stem.name}.*") if path.is_file()]


def listed(suite: str, found: Iterable[Path]) -> str:
    """What would be deleted, by folder below results/, with bytes."""
    groups: dict[str, list[Path]] = {}
    for path in found:
        groups.setdefault("/".join(path.parts[:3]), []).append(path)
    if not groups:
        return f"suite {suite} has no results that no other suite uses: there is nothing to delete"
    rows = [(name, f"{len(paths)} files", disk.readable(disk.total(paths))) for name, paths in groups.items()]
    paths = [path for group in groups.values() for path in group]
    rows.append(("all", f"{len(paths)} files", disk.readable(disk.total(paths))))
    return f"only suite {suite} uses these results:\n{disk.columns(rows)}"


def nobody_at_work() -> None:
    """ValueError while a Snakemake is at work in this folder."""
    if any(Path(".snakemake/locks").glob("*")):
        raise ValueError(
            "a Snakemake is at work in this folder (.snakemake/locks). Wait for it; "
            "if none is running: snakemake --unlock"
        )


def delete(found: Iterable[Path]) -> None:
    """Delete files, and the folders that are then empty."""
    for path in found:
        path.unlink(missing_ok=True)
        for folder in path.parents[:-2]:
            with contextlib.suppress(OSError):
                folder.rmdir()


if __name__ == "__main__":
    guarded(main)
