"""Take results as what the configuration asks for (`make adopt FILE=...`).

A manifest that was made with other settings: its specification becomes the one asked for; what it was made with stays
under "adopted", and the time of the file stays too, so that nothing made from it runs again.

`FILE=results`: results that were copied without their times. Where a result is older than what it is made from, it gets
that one's time. Nothing else of them changes, and those made with other settings are left alone.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ddlib import project, todo
from ddlib.artifacts import ArtifactError, check_file, read_manifest, write_sealed
from ddlib.guard import differences, disagreement, outdated
from ddlib.jobs.job import RESULTS, guarded
from ddlib.paths import FIGURE, MANIFESTS, made_by
from ddlib.plan import Plan
from ddlib.registry import nearest


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(prog="python -m ddlib.jobs.adopt", description=__doc__)
    options.add_argument("manifest", type=Path, nargs="+", help="results/.../NAME.json, or results")
    plan = project.load()
    for path in options.parse_args().manifest:
        own = Path(os.path.relpath(path))
        print(in_order(plan) if own == RESULTS else adopt(plan, own))


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


def in_order(plan: Plan) -> str:
    """Make no result of the configured suites older than what it is made from; say how many were, and which are of
    other settings than asked for and so were left as they are."""
    jobs = {todo.manifest(job): job for suite in plan.suites for job in [*plan.jobs(suite), _table(suite)]}
    there = {path: job for path, job in jobs.items() if Path(path).exists()}
    wrong = [reason for path, job in there.items() if (reason := disagreement(path, plan.spec(*job)))]
    agreed = {path: job for path, job in there.items() if not disagreement(path, plan.spec(*job))}
    files = {path: outputs(*job) for path, job in agreed.items()}
    causes = {path: _causes(plan, *job) for path, job in agreed.items()}
    moved: set[str] = set()
    while late := [path for path in agreed if outdated(files[path], causes[path])]:
        for path in late:
            newest = max(os.stat(cause).st_mtime_ns for cause in causes[path] if Path(cause).exists())
            for file in files[path]:
                state = os.stat(file)
                os.utime(file, ns=(state.st_atime_ns, max(newest, state.st_mtime_ns)))
        moved.update(late)
    said = f"{len(moved)} of {len(there)} results were older than what they are made from; they have its time now."
    if not wrong:
        return said
    left = "".join(f"\n  {reason}" for reason in wrong)
    return f"{said}\n{len(wrong)} are of other settings than asked for, and were left as they are:{left}"


def _table(suite: str) -> todo.Job:
    return "tabulate", {"suite": suite}


def _causes(plan: Plan, rule: str, names: dict[str, Any]) -> list[str]:
    return plan.table_inputs(names["suite"]) if rule == "tabulate" else todo.causes(plan, rule, names)


def outputs(rule: str, names: dict[str, Any]) -> list[str]:
    """The files of a job that exist: its manifests, the table and the record of the same name, what they describe."""
    found: list[str] = []
    for path in (Path(template.format(**names)) for template in MANIFESTS[rule]):
        found += [str(path), *(str(path.with_suffix(suffix)) for suffix in (".csv", ".run.json"))]
        if path.exists():
            found += [str(path.parent / entry["path"]) for entry in read_manifest(path)["files"].values()]
    if rule == "tabulate":
        found.append(FIGURE.format(**names))
    return [path for path in dict.fromkeys(found) if Path(path).exists()]


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
    for name, entry in manifest["files"].items():
        if not (file := path.parent / entry["path"]).is_file():
            raise ArtifactError(f"{path} names {file}, which does not exist: it cannot be adopted. Copy it too.")
        try:
            check_file(path, manifest, name)
        except ArtifactError as error:
            raise ArtifactError(f"{path} cannot be adopted: {error}") from None


if __name__ == "__main__":
    guarded(main)
