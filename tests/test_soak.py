"""The long tests (`make soak`): the demo keeps its promise, a condensation survives kills, compiled is as eager."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from ddlib import project
from ddlib.data import digits
from ddlib.methods.driver import condense
from ddlib.methods.idc import recipe
from ddlib.methods.recipe import Problem
from ddlib.objectives.matching import Execution

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.soak


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The tracked parts of the repository, without results."""
    for name in ("ddlib", "workflow", "envs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "config.yaml", tmp_path)
    return tmp_path


def snakemake(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a folder."""
    command = [sys.executable, "-m", "snakemake", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_demo_shows_idc_above_random_images_and_reruns_nothing(checkout: Path) -> None:
    done = snakemake(checkout, "--cores", "all")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    table = pd.read_csv(checkout / "results/tables/digits.csv")
    keys = ["ipc", "protocol", "network"]
    by_name = {name: rows.set_index(keys).accuracy_mean for name, rows in table.groupby("experiment")}
    idc = by_name["digits_idc"]
    assert set(idc.index.get_level_values("ipc")) == {1, 10}
    random_images = by_name["digits__random"]  # with which IDC begins here
    assert (idc > random_images.loc[idc.index]).all(), f"{idc}\n{random_images}"
    again = snakemake(checkout, "--cores", "all")
    assert "Nothing to be done" in again.stdout + again.stderr


KILLED = [("digits_idc", 1, 0), ("digits_acc_dd", 1, 0), ("digits_drop2sparse", 1, 0), ("digits_mtt", 1, 0)]
KILLED += [("digits_pdd_idc", 2, 1), ("digits_pdd_mtt", 2, 1)]


KILLS = 6


def checkpoints(folder: Path) -> set[tuple[str, int]]:
    """The checkpoints there are, told apart by when they were written."""
    found = set()
    for path in folder.rglob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):  # replaced, or done with, meanwhile
            found.add((str(path), path.stat().st_mtime_ns))
    return found


def killed_on_its_way(job: subprocess.Popen[bytes], folder: Path, moments: random.Random) -> bool:
    """Kill a job a random moment after it has written a checkpoint of its own (or, one time in four, while it starts);
    False if it has ended by itself. So each kill finds it further on, however busy the machine is."""
    before, early = checkpoints(folder), moments.random() < 0.25
    while not early and job.poll() is None and checkpoints(folder) <= before:
        time.sleep(0.02)
    time.sleep(moments.uniform(0, 0.5))
    if job.poll() is not None:
        return False
    job.kill()
    job.wait()
    return True


@pytest.mark.parametrize(("experiment", "ipc", "stage"), KILLED)
def test_a_condensation_killed_at_random_moments_ends_with_the_same_bytes(
    checkout: Path, experiment: str, ipc: int, stage: int
) -> None:
    plan = project.load(checkout)
    where = {"experiment": experiment, "per": str(ipc), "seed": 0, "stage": stage}
    spec, inputs = plan.spec("condense", {**where, "phase": 0}), plan.condense_inputs(**where)
    files = {name: [given] if isinstance(given, str) else given for name, given in inputs.items()}
    made = snakemake(checkout, "--cores", "1", *(path for given in files.values() for path in given))
    assert made.returncode == 0, made.stderr[-2000:]
    long = {"outer_iterations": 12} if experiment.endswith("mtt") else {"outer_iterations": 3, "inner_steps": 10}
    spec["settings"] |= long
    machine = {**plan.config["machine"], "checkpoint_seconds": 0, "device": "cpu", "compile": "never"}
    machine["class_chunk"] = 1

    def command(name: str) -> list[str]:
        stem = f"results/condensed/{name}/per{ipc}/seed0/stage{stage}/phase0"
        options = ["--spec", json.dumps(spec), "--machine", json.dumps(machine), "--gpus", "1"]
        options += ["--output", f"{stem}.json", "--run", f"{stem}.run.json"]
        for option, given in files.items():
            options += [f"--{option}", *given] if option != "blocks" else []
        return [sys.executable, "-m", "ddlib.jobs.condense", *options]

    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    subprocess.run(command("whole"), cwd=checkout, env=environment, check=True, capture_output=True)
    moments, kills = random.Random(0), 0
    for attempt in range(KILLS + 1):
        job = subprocess.Popen(command("killed"), cwd=checkout, env=environment, stderr=subprocess.DEVNULL)
        if attempt == KILLS or not killed_on_its_way(job, checkout / "results/checkpoints", moments):
            assert job.wait(timeout=300) == 0
            break
        kills += 1
        # Another machine setting where there is a checkpoint: the job goes on as it was begun.
        machine["class_chunk"] = 10 if checkpoints(checkout / "results/checkpoints") else 1
    assert kills >= 1
    stems = [checkout / f"results/condensed/{name}/per{ipc}/seed0/stage{stage}" for name in ("whole", "killed")]
    for name in ("phase0.json", "phase0.safetensors", "phase0.initial.safetensors"):
        first, second = (hashlib.sha256((stem / name).read_bytes()).hexdigest() for stem in stems)
        assert first == second, name
    assert not list((checkout / "results/checkpoints").rglob("*.safetensors"))
    runs = [json.loads((stem / "phase0.run.json").read_text())["seconds"] for stem in stems]
    assert runs[1] > 0.5 * runs[0], "seconds before a kill are counted"


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no C++ compiler")
def test_a_compiled_condensation_is_the_eager_one_up_to_rounding() -> None:
    spec = project.load(ROOT).spec(
        "condense", {"experiment": "digits_idc", "per": 2, "seed": 0, "stage": 0, "phase": 0}
    )
    settings = {**spec["settings"], "outer_iterations": 1, "inner_steps": 3, "network_samples": 64}
    data, _ = digits.load(spec["dataset"], {})
    found = []
    for mode in ("never", "always"):
        network = {**spec["network"], "width": 8}
        problem = Problem(data, 2, range(10), 0, 8, network, execution=Execution(mode, 1))
        began = time.monotonic()
        found.append(condense(recipe(settings, problem), problem))
        print(mode, f"{time.monotonic() - began:.1f} s")
    eager, compiled = found
    assert not torch.equal(eager.images, eager.initial["images"])
    assert torch.allclose(eager.images, compiled.images, atol=1e-5)
    assert compiled.losses[0] == pytest.approx(eager.losses[0], rel=1e-4)
