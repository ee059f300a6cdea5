"""Disk used by results, by kind and by what they belong to (`make du`)."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from ddlib import disk
from ddlib.jobs.job import guarded

NAMED = ("data", "pool", "observers", "scores", "views", "condensed", "sets", "evaluations")
"""Kinds whose first folder is the name of a data set, a pool or an experiment."""


def used(results: Path) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """Bytes by kind (the first folder), and by kind and name where results have one."""
    kinds: Counter[str] = Counter()
    names: Counter[tuple[str, str]] = Counter()
    for path in disk.files(results):
        kind, *rest = path.relative_to(results).parts
        size = path.lstat().st_size
        kinds[kind] += size
        if kind in NAMED and len(rest) > 1:
            names[kind, rest[0]] += size
    return kinds, names


def text(results: Path) -> str:
    """The table `make du` prints: kinds, the biggest first, with the names in them."""
    kinds, names = used(results)
    if not kinds:
        return f"nothing is in {results} yet"
    rows = [("all", disk.readable(sum(kinds.values())))]
    for kind, size in kinds.most_common():
        rows.append((kind, disk.readable(size)))
        inside = [(name, count) for (of, name), count in names.most_common() if of == kind]
        rows += [(f"  {name}", disk.readable(count)) for name, count in inside]
    return disk.columns(rows)


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(prog="python -m ddlib.jobs.du", description=__doc__)
    options.add_argument("--results", type=Path, default=Path("results"), help="folder of results (default: results)")
    print(text(options.parse_args().results))


if __name__ == "__main__":
    guarded(main)
