"""Check every result against the hashes it was written with (`make verify`): what is damaged or missing is named.

A manifest and a record of cost are checked against their own seal, the files a manifest names against their hashes,
figures by the checksums of the PNG format. With `--delete` what is damaged is removed together with its manifest, and
the workflow makes it anew when something needs it; not while it is at work.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ddlib.artifacts import ArtifactError, check_file, read_manifest, read_sealed
from ddlib.jobs.clean import nobody_at_work
from ddlib.jobs.job import RESULTS, guarded
from ddlib.paths import FIGURE, MANIFESTS
from ddlib.progress import progress


@dataclass(frozen=True)
class Damage:
    """One damaged or missing file: what is wrong with it, and what must go to have it made anew."""

    reason: str
    files: tuple[Path, ...]


def main() -> None:
    """Entry point; exit code 1 if anything is damaged."""
    options = argparse.ArgumentParser(prog="python -m ddlib.jobs.verify", description=__doc__)
    options.add_argument("--results", type=Path, default=RESULTS, help="folder of results (default: results)")
    options.add_argument("--delete", action="store_true", help="delete what is damaged, with its manifest")
    given = options.parse_args()
    if given.delete:
        nobody_at_work()  # what a job has just replaced does not fit its manifest until that is written too
    found, count = verify(given.results)
    for damage in found:
        print(damage.reason)
    if given.delete:
        for path in sorted({path for damage in found for path in damage.files}):
            path.unlink(missing_ok=True)
            print(f"deleted {path}")
    if found:
        raise SystemExit(f"{len(found)} of {count} files of results are damaged or missing")
    print(f"{count} files of results are as they were written")


def verify(results: Path) -> tuple[list[Damage], int]:
    """(everything damaged or missing below `results`, how many files were looked at)."""
    found, count = [], 0
    for path in progress(_ours(results), "verifying"):
        for damage in _check(path):
            count += 1
            if damage is not None:
                found.append(damage)
    return found, count


def _ours(results: Path) -> list[Path]:
    """Manifests, records of cost and figures below `results`, sorted."""
    if not results.is_dir():
        raise ValueError(f"{results} is not a folder: there are no results to verify here")
    templates = [template for made in MANIFESTS.values() for template in made]
    kinds = {Path(template).parts[1] for template in [*templates, FIGURE]}
    found = [path for kind in kinds for path in (results / kind).rglob("*")]
    return sorted(path for path in found if path.suffix == ".json" or path.match("figures/*.png"))


def _check(path: Path) -> Iterator[Damage | None]:
    """None for every file that is as it was written: `path`, and those it names."""
    try:
        if path.suffix == ".png":
            _check_picture(path)
        manifest = read_manifest(path) if path.suffix == ".json" and not path.name.endswith(".run.json") else {}
        if path.name.endswith(".run.json"):
            read_sealed(path)
    except ArtifactError as error:
        yield Damage(str(error), (path,))
        return
    yield None
    for name in manifest.get("files", {}):
        try:
            check_file(path, manifest, name)
            yield None
        except ArtifactError as error:
            yield Damage(str(error), (path.parent / manifest["files"][name]["path"], path))


def _check_picture(path: Path) -> None:
    try:
        with Image.open(path) as picture:
            picture.verify()
    except Exception as error:  # Pillow raises many kinds
        raise ArtifactError(f"{path} is damaged ({error}). Delete it and run the workflow again.") from None


if __name__ == "__main__":
    guarded(main)
