"""The workflow on a real SLURM cluster (tests/slurm.py): grants of GPUs, time limits, cancelling.

What a job was given is noted by a `sitecustomize` in its checkout, which every Python there imports first.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from slurm import Cluster
from tiny import Tiny

from ddlib.artifacts import sha256_file

pytestmark = pytest.mark.slurm
HOSTILE = "a \"b\" 'c' $(touch d) `e` \\ \n;"
KNOBS = ["--workflow-profile", "workflow/profiles/slurm", "--slurm-init-seconds-before-status-checks", "2"]
SITE = """
import atexit, json, os, sys, time
from pathlib import Path

def note(began, cuda):
    argv = sys.orig_argv
    given = {word: argv[argv.index(word) + 1] for word in ("--machine", "--gpus") if word in argv}
    slurm_id, cpus = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_CPUS_PER_TASK")
    line = {"job": argv[2], "cuda": cuda, "began": began, "ended": time.time(), "id": slurm_id, "cpus": cpus, **given}
    with (Path(__file__).parent / "noted.jsonl").open("a") as file:
        file.write(json.dumps(line) + chr(10))

def slowed():
    import ddlib.checkpoints as checkpoints
    save = checkpoints.Checkpoint.save
    def save_and_wait(*given):
        save(*given)
        if given[0]._generation == 3:  # a job that goes on from there does not wait
            time.sleep(600)
    checkpoints.Checkpoint.save = save_and_wait

if any(word.startswith("ddlib.jobs.") for word in sys.orig_argv) and "SLURM_JOB_ID" in os.environ:
    atexit.register(note, time.time(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    if "TEST_WAITS" in os.environ:
        slowed()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def tiny(tmp_path):
    """A checkout in a folder that needs quotes, with hostile machine settings."""
    tiny = Tiny.new(tmp_path / "a 'checkout' of mine")
    tiny.config["machine"]["data_dir"] = HOSTILE
    tiny.save()
    (tiny.folder / "sitecustomize.py").write_text(SITE)
    return tiny


def blocks(*numbers):
    return [f"results/pool/early/block{number}.json" for number in numbers]


def noted(tiny):
    """What the jobs were given, in the order in which they ended."""
    return [json.loads(line) for line in (tiny.folder / "noted.jsonl").read_text().splitlines()]


def succeeded(done):
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


def files(tiny):
    """The files of the pool but for what is volatile, with their hashes."""
    found = [path for path in (tiny.results / "pool").rglob("*") if path.is_file() and ".run." not in path.name]
    return {str(path.relative_to(tiny.results)): sha256_file(path) for path in found}


def test_data_and_pool_are_made_by_slurm_each_job_with_a_gpu_of_its_own(tiny, cluster):
    done = tiny.run(
        "-m", "snakemake", *KNOBS, "--set-resources", "train_block:gpu=1", "--", *blocks(0, 1), **cluster.environment
    )
    succeeded(done)
    jobs = noted(tiny)
    assert [job["job"] for job in jobs] == ["ddlib.jobs.prepare_data", *["ddlib.jobs.train_block"] * 2]
    assert all(json.loads(job["--machine"])["data_dir"] == HOSTILE for job in jobs)
    assert jobs[0]["cuda"] is None  # asks for none, gets none
    assert (
        cluster.say("squeue", "-h", "--states=all", "-o", "%T %m %l", "-j", jobs[0]["id"])
        == "COMPLETED 4000M 1:00:00\n"
    )
    for job in jobs[1:]:
        assert job["cuda"] in "0123"
        assert (job["--gpus"], job["cpus"]) == ("1", "1")
        others = [one for one in jobs[1:] if one["cuda"] == job["cuda"] and one is not job]
        assert all(one["ended"] <= job["began"] or job["ended"] <= one["began"] for one in others)
        assert (
            cluster.say("squeue", "-h", "--states=all", "-o", "%T %m %l", "-j", job["id"])
            == "COMPLETED 8000M 1-00:00:00\n"
        )
    records = [json.loads(path.read_text()) for path in tiny.results.glob("pool/early/*.run.json")]
    assert {record["slurm_id"] for record in records} == {job["id"] for job in jobs[1:]}
    starts = [json.loads(path.read_text().splitlines()[0]) for path in tiny.results.glob("events/pool/**/*.jsonl")]
    assert {start["slurm_id"] for start in starts} == {job["id"] for job in jobs[1:]}
    again = tiny.run("-m", "snakemake", "-n", "--cores", "1", *blocks(0, 1))  # without SLURM
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.mark.soak
def test_a_suite_without_gpus_made_to_the_settings_it_was_started_with(tiny, cluster):
    """Every rule that is not local is submitted; none asks for a GPU; config.yaml is changed on the way."""
    tiny.config["machine"]["device"] = "auto"
    tiny.save()
    with started(tiny, cluster, "--resources", "gpu=0") as running:
        wait_until(lambda: (tiny.results / "data/digits/train.json").exists())
        tiny.config["pools"]["early"]["training"]["epochs"] = 2
        tiny.config["experiments"]["a"]["settings"]["inner_steps"] = 2
        tiny.save()
        assert running.wait(timeout=900) == 0, (tiny.folder / "said").read_text()[-6000:]
    jobs = noted(tiny)
    submitted = {"prepare_data", "train_block", "condense", "evaluate"}
    assert {job["job"].removeprefix("ddlib.jobs.") for job in jobs} == submitted
    assert {job["cuda"] for job in jobs} == {None}
    assert {job.get("--gpus", "0") for job in jobs} == {"0"}
    tiny.config["pools"]["early"]["training"]["epochs"] = 1
    tiny.config["experiments"]["a"]["settings"]["inner_steps"] = 1
    assert tiny.plan() == set()


@contextlib.contextmanager
def started(tiny, cluster, *words, **environment):
    """Snakemake at work, killed at the end if it still is. It heeds Ctrl-C, also of a pytest in the background."""
    command = [sys.executable, "-m", "snakemake", *KNOBS, *words]
    given = os.environ | cluster.environment | {"PYTHONPATH": str(tiny.folder)} | environment
    heeds = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with (tiny.folder / "said").open("w") as said:
        running = subprocess.Popen(command, cwd=tiny.folder, env=given, stdout=said, stderr=said, **heeds)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def wait_until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def slow(tiny):
    """Its pool trains for five epochs, with a checkpoint after each, and is prepared here."""
    tiny.config["pools"]["early"]["training"]["epochs"] = 5
    tiny.config["machine"]["checkpoint_seconds"] = 0
    tiny.save()
    succeeded(tiny.snakemake("results/data/digits/train.json"))


@pytest.mark.soak
def test_a_job_over_its_time_limit_is_submitted_again_and_goes_on(tiny, cluster):
    """After its third epoch it waits for the limit: a minute, SLURM's shortest."""
    slow(tiny)
    tiny.patience = 900
    straight = Tiny.new(tiny.folder.parent / "straight")
    straight.config = tiny.config
    straight.save()
    succeeded(straight.snakemake(*blocks(0)))
    before = len(cluster.states())
    limit = ["--set-resources", "train_block:runtime=1", "--"]
    done = tiny.run("-m", "snakemake", *KNOBS, *limit, *blocks(0), TEST_WAITS="1", **cluster.environment)
    succeeded(done)
    states = cluster.states()[before:]
    assert states[-1] == "COMPLETED"
    assert states[:-1] == ["TIMEOUT"]
    assert "going on from a checkpoint" in (tiny.results / "logs/train_block/early/block0.log").read_text()
    assert files(tiny) == files(straight)
    assert not list((tiny.results / "checkpoints").rglob("*.safetensors"))


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_cancelling_snakemake_cancels_its_jobs(tiny, cluster, number):
    slow(tiny)
    before = len(cluster.states())
    checkpoints = tiny.results / "checkpoints/pool/early"
    with started(tiny, cluster, "--", *blocks(0, 1), TEST_WAITS="1") as running:
        wait_until(lambda: len(list(checkpoints.glob("*.safetensors"))) == 4)  # two generations of each job
        running.send_signal(number)
        assert running.wait(timeout=60) != 0
    wait_until(lambda: not cluster.queue())
    assert cluster.states()[before:] == ["CANCELLED"] * 2
    assert len(list(checkpoints.glob("*.safetensors"))) == 4
    assert tiny.plan(*blocks(0, 1)) == {f"pool/early/block{number}.json" for number in (0, 1)}  # it is unlocked, too
