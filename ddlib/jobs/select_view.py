"""Which snapshots of a pool an experiment starts from, as a table."""

from __future__ import annotations

from pathlib import Path

from ddlib.artifacts import write_manifest, write_table
from ddlib.jobs.job import guarded, parser, say


def main() -> None:
    """Entry point."""
    options = parser(__doc__)
    options.add_argument("--blocks", type=Path, nargs="+", required=True)
    options.add_argument("--table", type=Path, required=True)
    given = options.parse_args()
    from ddlib.pool.view import select

    chosen = select(given.blocks, given.spec["view"], given.spec["pool"])
    write_table(given.table, list(chosen[0]), (list(row.values()) for row in chosen))
    result = {"snapshots": len(chosen), "members": len({row["member"] for row in chosen})}
    write_manifest(given.output, "selection", given.spec, {"table": given.table}, result)
    say(f"{len(chosen)} snapshots of {result['members']} members")


if __name__ == "__main__":
    guarded(main)
