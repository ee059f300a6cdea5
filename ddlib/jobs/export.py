"""Write a synthetic set for other programs: a folder of PNGs by class, or a NumPy file."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddlib.jobs.job import guarded, say


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("set", type=Path, metavar="SET", help="a set's folder, card.json or set.safetensors")
    options.add_argument(
        "--to", choices=("imagefolder", "npz"), required=True, help="PNGs in a folder per class, or set.npz"
    )
    options.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    options.add_argument("--stored", action="store_true", help="the images as stored, not decoded")
    given = options.parse_args()
    from ddlib.sets.dataset import open_set
    from ddlib.sets.export import export

    many = export(open_set(given.set), given.to, given.output, given.stored)
    say(f"{many} images in {given.output}")


if __name__ == "__main__":
    guarded(main)
