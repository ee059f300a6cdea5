"""Draw the figure of a table."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddlib.jobs.job import guarded
from ddlib.tables import figure, read


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--table", type=Path, required=True)
    options.add_argument("--output", type=Path, required=True)
    given = options.parse_args()
    figure(read(given.table), given.output)


if __name__ == "__main__":
    guarded(main)
