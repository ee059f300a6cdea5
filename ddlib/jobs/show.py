"""Print the table of a suite, and where its pictures are (`make table`: of what exists so far)."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddlib import project
from ddlib.jobs.job import guarded
from ddlib.paths import FIGURE, TABLE
from ddlib.plan import Plan, rows
from ddlib.tables import read, table, text


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(prog="python -m ddlib.jobs.show", description=__doc__)
    options.add_argument("suite", help="a suite, or an experiment, of config.yaml")
    options.add_argument("--partial", action="store_true", help="of the evaluations that exist, not the finished table")
    given = options.parse_args()
    plan = project.load()
    suite = project.suite(plan, given.suite)
    print(partial(plan, suite) if given.partial else finished(suite))
    print(pictures(plan, suite))
    if assumed := plan.assumed(suite):
        print("\n" + "\n".join(assumed))


def finished(suite: str) -> str:
    """The table the workflow has made. ValueError if it has not yet."""
    path = Path(f"{TABLE.format(suite=suite)}.csv")
    if not path.exists():
        raise ValueError(
            f"{path} does not exist yet. To make it: snakemake --cores all {path} ; "
            f"to see what there is so far: make table SUITE={suite}"
        )
    return text(read(path))


def partial(plan: Plan, suite: str) -> str:
    """The table of what exists so far; nothing is written."""
    cells = rows(plan.groups(suite))
    there = [row for row in cells if all(Path(path).exists() for path in row["files"])]
    head = f"PARTIAL: {len(there)} of {len(cells)} evaluations of suite {suite} exist."
    if len(there) == len(cells):
        head = f"All {len(cells)} evaluations of suite {suite} exist."
    return f"{head}\n\n{text(table(suite, there))}"


def pictures(plan: Plan, suite: str) -> str:
    """Where the figure and the pictures of the synthetic sets are, and how to see the rest."""
    figure = Path(FIGURE.format(suite=suite))
    previews = sorted({f"{cell.set}preview.png" for cell in plan.cells(suite)})
    there = [path for path in previews if Path(path).exists()]
    lines = [f"figure: {figure}"] if figure.exists() else []
    if there:
        lines.append("synthetic sets, at first and at last:")
        lines += [f"  {path}" for path in there]
    return "\n".join(["", *lines, "runs, curves and pictures in MLflow: make ui"])


if __name__ == "__main__":
    guarded(main)
