"""Devices in real Snakemake: what a job cannot have is refused when it starts, and what is taken is waited for."""

import os
import re
from itertools import pairwise

import pytest
from tiny import Tiny, scored

SNAKEFILE = """
rule all:
    input: expand("{n}.txt", n=range(5))
rule leased:
    output: "{n}.txt"
    resources: gpu=1
    shell: "python job.py {output}"
"""
JOB = """
import sys, time
from ddlib.devices import lease
with lease({}, 1) as held:
    began = time.time()
    time.sleep(0.5)
    open(sys.argv[1], "w").write(f"{held.ids[0]} {began} {time.time()}")
"""


@pytest.fixture
def tiny(tmp_path_factory, tmp_path, monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DDLIB_LOCK_DIR", str(tmp_path / "locks"))
    found = Tiny.finished(tmp_path_factory, tmp_path / "repo")
    fake_gpus(found.folder, monkeypatch, 0)
    return found


def fake_gpus(folder, monkeypatch, count):
    """An nvidia-smi that lists so many."""
    lines = "".join(f"echo 'GPU {n}: NVIDIA H200 (UUID: GPU-{n}{n}{n}{n}-aa)'\n" for n in range(count))
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{lines}")
    program.chmod(0o755)
    if str(program.parent) not in os.environ["PATH"]:
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def contents(tiny):
    kept = (path for path in tiny.results.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in kept if not {"logs", "events"} & {*path.parts}}


def refused(tiny, path, *words):
    """What is said of a run that plans the job and whose job then fails, in one line."""
    assert tiny.plan(path, *words) == {path.removeprefix("results/")}, "a dry run asks for no device"
    failed = tiny.snakemake(path, *words)
    assert failed.returncode == 1
    said = failed.stdout + failed.stderr
    log = next(tiny.results.glob("logs/evaluate/a/**/*.log")).read_text().splitlines()
    assert len(log) == 1
    assert log[0] in said
    assert "Traceback" not in said
    return log[0]


def test_what_cannot_be_had_is_refused_when_a_job_starts_and_nothing_is_lost(tiny, monkeypatch):
    path = f"results/{scored('a')}"
    before = contents(tiny)
    for suffix in (".json", ".csv", ".run.json"):
        (tiny.folder / path).with_suffix(suffix).unlink()
    tiny.config["machine"]["device"] = "cuda"
    said = refused(tiny, path)
    assert said.startswith("error: machine setting device: cuda, but there is no GPU (nvidia-smi lists none).")
    fake_gpus(tiny.folder, monkeypatch, 2)
    said = refused(tiny, path, "--resources", "gpu=8", "--set-resources", "evaluate:gpu=5")
    assert said.startswith("error: the job asks for 5 GPUs, there are 2 (0, 1; nvidia-smi). Start Snakemake with")
    left = contents(tiny)
    assert left == {path: before[path] for path in left}
    tiny.config["machine"]["device"] = "cpu"
    tiny.save()
    assert tiny.snakemake(path).returncode == 0
    again = contents(tiny)
    assert {path.name for path in again if again[path] != before[path]} <= {"group.run.json"}


def test_more_jobs_than_gpus_wait_and_say_so(tiny, monkeypatch):
    """`--resources gpu=5` where a job may choose from two of three GPUs."""
    folder = tiny.folder / "own"
    folder.mkdir()
    (folder / "Snakefile").write_text(SNAKEFILE)
    (folder / "job.py").write_text(JOB)
    fake_gpus(tiny.folder, monkeypatch, 3)
    words = ("-m", "snakemake", "--directory", str(folder), "-s", str(folder / "Snakefile"), "--cores", "5")
    done = tiny.run(*words, "--resources", "gpu=5", CUDA_VISIBLE_DEVICES="2,0")
    assert done.returncode == 0, done.stderr
    turns = [path.read_text().split() for path in folder.glob("*.txt")]
    assert {gpu for gpu, _, _ in turns} == {"0", "2"}
    for own in ("0", "2"):
        ends = sorted((float(began), float(ended)) for gpu, began, ended in turns if gpu == own)
        assert all(former[1] <= later[0] for former, later in pairwise(ends)), "never two at once"
    said = re.findall(r"waiting for a free GPU of 2 for 0 s; held by process \d+", done.stdout + done.stderr)
    assert len(said) >= 1
