"""Draw the figure of a table."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from ddlib.jobs.job import guarded
from ddlib.tables import figure


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--table", type=Path, required=True)
    options.add_argument("--output", type=Path, required=True)
    given = options.parse_args()
    found = pd.read_csv(given.table)
    found["ipc"] = found["ipc"].astype("Int64")
    figure(found, given.output)


if __name__ == "__main__":
    guarded(main)
