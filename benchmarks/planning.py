"""How long Snakemake plans a large suite: `python -m benchmarks.planning` prints CPU seconds, memory and jobs.

A suite as of CIFAR-10 at paper scale: five methods, each in several settings, at up to three numbers of images per
class and many seeds, over pools of up to 100 members, under two protocols. Three dry runs: of this workflow where
nothing is made; where everything is made and Snakemake has no record of it, so that each manifest is read and
compared; and, as the baseline, of a bare Snakefile of the same jobs, files and dependencies without a configuration or
specifications.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ddlib import project
from ddlib.artifacts import write_manifest, write_table
from ddlib.paths import MANIFESTS
from ddlib.plan import Plan

ROOT = Path(__file__).parents[1]
SUITE, JOBS = "planned", 10_000
# Beside the manifest: what else a rule declares (a suffix in the place of .json, or the name of a file).
BESIDE = {
    "train_block": (".run.json",),
    "select_view": (".csv",),
    "condense": (".run.json",),
    "merge": ("set.safetensors", "preview.png"),
    "evaluate": (".csv", ".run.json"),
}
BARE = """import json
with open("inputs.json") as handle:
    INPUTS = json.load(handle)
wildcard_constraints:
    at=r"(at\\d+/)?",
    experiment="[^/]+",
    labels="[^/]+",
rule all:
    default_target: True
    input: INPUTS["all"]
"""
BARE_RULE = """rule {rule}:
    output: {output}
    input: lambda w: INPUTS[{output}.format(**w)]
    log: {log}
    shell: "touch {{output}}"
"""
COLUMNS = ["case", "jobs", "cpu_seconds", "wall_seconds", "peak_mb", "times_bare", "ms_a_job"]


@dataclass(frozen=True)
class Taken:
    """What a command took: CPU seconds of user and system, wall seconds, and peak memory in MB."""

    cpu: float
    wall: float
    peak_mb: float


def configuration(settings: int, seeds: int) -> dict[str, Any]:
    """config.yaml with one suite of `settings` experiments a method, each with so many seeds."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    same = {"dataset": "cifar10", "network": "convnet3", "ipc": [1, 10, 50], "seeds": list(range(seeds))}
    same |= {"protocols": ["idc", "common"], "students": "cifar"}
    well = {"members": 50, "metric": "train_augmented", "windows": [[0.6, 0.8]]}
    made: dict[str, Any] = {}
    for n in range(settings):
        made[f"idc_{n}"] = {**same, "method": "idc", "settings": {"inner_steps": 100 + n}}
        early = {"pool": "cifar10_early", "view": {"members": 10 + n, "epochs": [2]}}
        made[f"acc_dd_{n}"] = {**same, "method": "acc_dd", **early}
        sparse = {"pool": "cifar10_long", "masks": "half", "view": well, "classes_per_phase": 5}
        made[f"drop2sparse_{n}"] = {**same, "method": "drop2sparse", **sparse}
        ahead = {"pool": "experts", "view": {"members": 100, "start_below": 10 + n, "horizon": 2}}
        made[f"mtt_{n}"] = {**same, "method": "mtt", **ahead}
        staged = {"base": "idc", "stages": 5, "condition": {"epochs": 20 + n}}
        made[f"pdd_{n}"] = {**same, "progressive": staged, "ipc": [10, 50]}
    long = {"recipe": "mtt", "epochs": 41}
    found["pools"]["experts"] = {"dataset": "cifar10", "network": "convnet3", "training": long, "snapshots": "all"}
    found["masksets"]["half"] = {"dataset": "cifar10", "network": "convnet3", "kind": "uniform", "sparsity": 0.5}
    return {**found, "experiments": made, "suites": {SUITE: {"experiments": list(made)}}, "default_suite": SUITE}


def seeds_for(settings: int, jobs: int) -> int:
    """Seeds of every experiment for at least so many jobs."""
    one, two = (len(_plan(configuration(settings, seeds)).jobs(SUITE)) for seeds in (1, 2))
    return max(1, 1 + -(-(jobs - one) // (two - one)))


def _plan(given: dict[str, Any]) -> Plan:
    from ddlib import config

    return Plan(config.resolve(given, config.read(project.SCHEMA)))


def checkout(folder: Path, given: dict[str, Any]) -> Plan:
    """The workflow in a folder, with a configuration."""
    for name in ("workflow", "envs", "ddlib"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "config.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    return project.load(folder)


def inputs(plan: Plan) -> dict[str, list[str]]:
    """The files each manifest of the suite's jobs is made from."""
    found: dict[str, list[str]] = {}
    for rule, names in plan.jobs(SUITE):
        held = _inputs(plan, rule, names).values()
        files = [path for value in held for path in ([value] if isinstance(value, str) else value)]
        found |= {template.format(**names): files for template in MANIFESTS[rule]}
    return found


def _inputs(plan: Plan, rule: str, names: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a job by name, as in workflow/rules."""
    if rule == "train_block":
        return {"train": f"results/data/{plan.config['pools'][names['pool']]['dataset']}/train.json"}
    if rule == "select_view":
        return {"blocks": plan.members(names["experiment"])}
    if rule == "condense":
        return plan.condense_inputs(**{key: value for key, value in names.items() if key != "phase"})
    if rule == "merge":
        return {"parts": [f"{stem}.json" for stem in plan.phases(names["experiment"], names["ipc"], names["seed"])]}
    return plan.evaluate_inputs(**names) if rule == "evaluate" else {}


def bare(folder: Path, plan: Plan) -> None:
    """A Snakefile of the same jobs."""
    known = inputs(plan)
    last = [path for path in known if path.startswith(("results/evaluations/", "results/sets/", "results/condensed/"))]
    rules = {rule for rule, _ in plan.jobs(SUITE)}
    text = [BARE]
    for rule in sorted(rules):
        for n, template in enumerate(MANIFESTS[rule]):
            log = template.replace("results/", "results/logs/", 1)
            text.append(BARE_RULE.format(rule=f"{rule}_{n}", output=repr(template), log=repr(log)))
    (folder / "Snakefile").write_text("\n".join(text), encoding="utf-8")
    (folder / "inputs.json").write_text(json.dumps({**known, "all": last}), encoding="utf-8")


def finish(folder: Path, plan: Plan) -> None:
    """Every file of the suite's jobs, with the specification that is asked for and nothing else in it."""
    for rule, names in plan.jobs(SUITE):
        for template in MANIFESTS[rule]:
            path = folder / template.format(**names)
            write_manifest(path, "planned", json.loads(json.dumps(plan.spec(rule, names))), {}, {})
            for beside in BESIDE.get(rule, ()):
                (path.with_suffix(beside) if beside.startswith(".") else path.with_name(beside)).touch()
    write_manifest(folder / f"results/tables/{SUITE}.json", "table", plan.spec("tabulate", {"suite": SUITE}), {}, {})
    for name in (f"tables/{SUITE}.csv", f"tables/{SUITE}.html", f"figures/{SUITE}.png"):
        (folder / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "results" / name).touch()


def dry_run(folder: Path, cores: int, *targets: str) -> tuple[Taken, str]:
    """(what `snakemake -n` took, what it said). RuntimeError with its words if it fails."""
    paths = [str(folder), str(ROOT / "workflow" / "plugins"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "--cores", str(cores), *targets]
    began = time.monotonic()
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said) as process,
    ):
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - began
        said.seek(0)
        words = said.read().decode()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {words[-2000:]}")
    peak = used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return Taken(used.ru_utime + used.ru_stime, wall, peak), words


def measure(settings: int, jobs: int, cores: int) -> list[list[Any]]:
    """Rows of COLUMNS: bare, nothing made, everything made."""
    given = configuration(settings, seeds_for(settings, jobs))
    found: list[tuple[str, Taken]] = []
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        own, other = Path(first), Path(second)
        plan = checkout(own, given)
        bare(other, plan)
        count = len(plan.jobs(SUITE))
        found.append(("bare Snakefile", dry_run(other, cores)[0]))
        found.append(("nothing made", dry_run(own, cores)[0]))
        finish(own, plan)
        taken, said = dry_run(own, cores)
        if "Nothing to be done" not in said:
            raise RuntimeError(f"all was made, and yet there is something to do: {said[-2000:]}")
        found.append(("everything made, no record", taken))
    base = found[0][1].cpu
    return [
        [
            case,
            count,
            round(t.cpu, 2),
            round(t.wall, 2),
            round(t.peak_mb),
            round(t.cpu / base, 2),
            round(1e3 * t.cpu / count, 2),
        ]
        for case, t in found
    ]


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__)
    options.add_argument("--jobs", type=int, default=JOBS, help="at least so many")
    options.add_argument("--settings", type=int, default=5, help="experiments a method")
    options.add_argument("--cores", type=int, default=2)
    options.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "planning.csv")
    given = options.parse_args()
    rows = measure(given.settings, given.jobs, given.cores)
    write_table(given.output, COLUMNS, rows)
    for row in [COLUMNS, *rows]:
        print("  ".join(f"{value!s:>{26 if n == 0 else 12}}" for n, value in enumerate(row)))


if __name__ == "__main__":
    main()
