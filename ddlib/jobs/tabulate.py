"""Gather the evaluations of a suite into its table, and a page to read with where every number comes from."""

from __future__ import annotations

from pathlib import Path

from ddlib.artifacts import write_manifest
from ddlib.jobs.job import guarded, parser, say
from ddlib.plan import rows
from ddlib.provenance import page
from ddlib.tables import table, text
from ddlib.writing import atomic_write


def main() -> None:
    """Entry point."""
    options = parser(__doc__)
    options.add_argument("--table", type=Path, required=True)
    options.add_argument("--page", type=Path, required=True, help="the page (HTML) to write")
    given = options.parse_args()
    cells = rows(given.spec["groups"])
    found = table(given.spec["suite"], cells)
    with atomic_write(given.table) as temporary:
        found.to_csv(temporary, index=False)
    with atomic_write(given.page) as temporary:
        temporary.write_text(page(given.spec["suite"], found, cells), encoding="utf-8")
    write_manifest(given.output, "table", given.spec, {"table": given.table, "page": given.page}, {"rows": len(found)})
    say(text(found))


if __name__ == "__main__":
    guarded(main)
