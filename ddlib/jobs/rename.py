"""Give the results of an experiment that was renamed in the configuration their new name (`make rename OLD=a NEW=b`).

Paths hold the name of their experiment, so without this a renamed one is made anew. Its folders move, with those of
its initial sets, and its manifests say the new name; times stay, so that only tables are made again. Logs and events
stay under the name that they were written under.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ddlib import project
from ddlib.artifacts import describe_file, read_sealed, write_sealed
from ddlib.jobs.clean import OF_EXPERIMENTS, nobody_at_work
from ddlib.jobs.job import RESULTS, guarded
from ddlib.paths import made_by
from ddlib.plan import Plan
from ddlib.registry import nearest
from ddlib.writing import write_text

BESIDE = ("", "__initial", "__crops")
# Where a specification holds the name of its experiment.
NAMED = {"merge": "name", "select_conditioned": "pool"}


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(prog="python -m ddlib.jobs.rename", description=__doc__)
    options.add_argument("old", help="the name that the results have")
    options.add_argument("new", help="the name in the configuration")
    given = options.parse_args()
    print(rename(project.load(), given.old, given.new))


def rename(plan: Plan, old: str, new: str) -> str:
    """Move what there is of `old`; say what was moved.

    ValueError, before anything is moved, if the configuration has no `new`, or still has `old`, if there is nothing of
    `old` or something of `new`, or while a Snakemake is at work.
    """
    if new not in plan.experiments:
        raise ValueError(f"the configuration has no experiment {new!r}; {nearest(new, plan.experiments)}")
    if old in plan.experiments:
        raise ValueError(f"the configuration still has the experiment {old!r}: rename it to {new} there first")
    moves = {
        RESULTS / kind / f"{old}{beside}": RESULTS / kind / f"{new}{beside}"
        for kind in OF_EXPERIMENTS
        for beside in BESIDE
        if (RESULTS / kind / f"{old}{beside}").is_dir()
    }
    if not moves:
        raise ValueError(f"there are no results of {old!r} in {RESULTS}/{{{','.join(OF_EXPERIMENTS)}}}")
    if taken := [str(path) for path in moves.values() if path.exists()]:
        raise ValueError(f"{', '.join(taken)}: there are results of that name already. Delete or move them first")
    nobody_at_work()
    for source, target in moves.items():
        source.rename(target)
        for path in sorted(target.rglob("*.json")):
            _renamed(plan, path, {f"{source}/": f"{target}/" for source, target in moves.items()})
    return "\n".join(f"{source} is now {target}" for source, target in moves.items())


def _renamed(plan: Plan, path: Path, names: dict[str, str]) -> None:
    """Let a manifest say the new name, if it is one; its time stays."""
    try:
        rule, wildcards = made_by(path)
    except ValueError:
        return
    manifest, table = read_sealed(path), path.with_suffix(".csv")
    times = {file: file.stat() for file in (path, table) if file.exists()}
    if rule in NAMED:
        manifest["spec"][NAMED[rule]] = plan.spec(rule, wildcards)[NAMED[rule]]
    if "parts" in manifest["result"]:
        manifest["result"]["parts"] = {_moved(part, names): sha for part, sha in manifest["result"]["parts"].items()}
    if rule == "select_conditioned":  # its table names the files of networks that moved along
        lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(table, "".join(",".join(_moved(cell, names) for cell in line.split(",")) for line in lines))
        manifest["files"] = {name: describe_file(table, path.parent) for name in manifest["files"]}
    write_sealed(path, manifest)
    for file, state in times.items():
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def _moved(path: str, names: dict[str, str]) -> str:
    return next((new + path.removeprefix(old) for old, new in names.items() if path.startswith(old)), path)


if __name__ == "__main__":
    guarded(main)
