"""Which snapshots of a pool an experiment starts from, as a table."""

from __future__ import annotations

from pathlib import Path

from ddlib.artifacts import atomic_write, write_manifest
from ddlib.jobs.job import guarded, parser, say


def main() -> None:
    """Entry point."""
    options = parser(__doc__)
    options.add_argument("--blocks", type=Path, nargs="+", required=True)
    options.add_argument("--table", type=Path, required=True)
    given = options.parse_args()
    from ddlib.pool.view import select

    chosen = select(given.blocks, given.spec["view"], given.spec["pool"])
    with atomic_write(given.table) as temporary:
        chosen.to_csv(temporary, index=False)
    result = {"snapshots": len(chosen), "members": int(chosen.member.nunique())}
    write_manifest(given.output, "selection", given.spec, {"table": given.table}, result)
    say(f"{len(chosen)} snapshots of {result['members']} members")


if __name__ == "__main__":
    guarded(main)
