"""Take results that were made with other settings as what the configuration asks for (`make adopt FILE=...`).

The manifest's specification becomes the one asked for; what it was made with stays under "adopted", and the time of the
file stays too, so that nothing made from it runs again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ddlib import project
from ddlib.artifacts import ArtifactError, check_file, read_manifest, write_sealed
from ddlib.guard import differences
from ddlib.jobs.job import guarded
from ddlib.paths import made_by
from ddlib.plan import Plan
from ddlib.registry import nearest


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(prog="python -m ddlib.jobs.adopt", description=__doc__)
    options.add_argument("manifest", type=Path, nargs="+", help="results/.../NAME.json")
    plan = project.load()
    for path in options.parse_args().manifest:
        print(adopt(plan, Path(os.path.relpath(path))))


def adopt(plan: Plan, path: Path) -> str:
    """Rewrite one manifest, if its files are what it says they are; say what it differed in.

    `path` is relative to the folder of results/. ValueError if it is none of ours, or belongs to nothing configured.
    """
    rule, wildcards = made_by(path)
    wanted = _asked(plan, rule, wildcards, path)
    manifest = read_manifest(path)
    _check_files(path, manifest)
    found = list(differences(manifest["spec"], wanted))
    if not found:
        return f"{path} was made with the settings the configuration asks for: there is nothing to adopt."
    made_with = manifest.pop("adopted", {"from": manifest["spec"]})["from"]
    manifest["spec"] = wanted
    if made_with != wanted:
        manifest["adopted"] = {"from": made_with}
    before = path.stat()
    write_sealed(path, manifest)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    lines = "\n".join(f"  {line}" for line in found)
    return (
        f"{path} is now taken as what the configuration asks for, though:\n{lines}\n"
        f"If a run still wants to make it anew, Snakemake has a record of it: snakemake --cleanup-metadata {path}"
    )


def _asked(plan: Plan, rule: str, wildcards: dict[str, str], path: Path) -> dict[str, Any]:
    """The specification the configuration asks of this manifest."""
    known = {
        "dataset": plan.config["datasets"],
        "pool": plan.config["pools"],
        "experiment": plan.experiments,
        "protocol": plan.config["protocols"],
        "students": plan.students,
        "suite": plan.suites,
    }
    for kind, name in wildcards.items():
        if kind in known and name not in known[kind]:
            raise ValueError(f"{path}: the configuration has no {kind} {name!r}; {nearest(name, known[kind])}")
    return plan.spec(rule, wildcards)


def _check_files(path: Path, manifest: dict[str, Any]) -> None:
    """ArtifactError unless every file the manifest names is there, unchanged."""
    for name in manifest["files"]:
        try:
            check_file(path, manifest, name)
        except ArtifactError as error:
            raise ArtifactError(f"{path} cannot be adopted: {error}") from None


if __name__ == "__main__":
    guarded(main)
