"""Gather the evaluations of a suite into its table."""

from __future__ import annotations

from pathlib import Path

from ddlib.artifacts import atomic_write, write_manifest
from ddlib.jobs.job import guarded, parser, say
from ddlib.plan import rows
from ddlib.tables import table, text


def main() -> None:
    """Entry point."""
    options = parser(__doc__)
    options.add_argument("--table", type=Path, required=True)
    given = options.parse_args()
    found = table(given.spec["suite"], rows(given.spec["groups"]))
    with atomic_write(given.table) as temporary:
        found.to_csv(temporary, index=False)
    write_manifest(given.output, "table", given.spec, {"table": given.table}, {"rows": len(found)})
    say(text(found))


if __name__ == "__main__":
    guarded(main)
