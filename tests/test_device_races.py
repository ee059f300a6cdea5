"""Device leases among many processes, some of them killed: never two on one GPU."""

import os
import random
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from ddlib.devices import installed_gpus
from ddlib.locks import Locks

ROOT = Path(__file__).resolve().parent.parent

WORKER = """
import os, sys, time
from pathlib import Path
from ddlib.devices import lease
folder, gpus, rounds, hold = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
for _ in range(rounds):
    with lease({"device": "auto"}, gpus) as held:
        assert os.environ["CUDA_VISIBLE_DEVICES"].split(",") == list(held.ids) and len(held.ids) == gpus
        for gpu in held.ids:
            mark = folder / f"mark-{gpu}"
            other = mark.read_text() if mark.exists() else ""
            if other and not (folder / f"killed-{other}").exists():
                (folder / f"overlap-{gpu}-{os.getpid()}-{other}").touch()
            mark.write_text(str(os.getpid()))
        (folder / f"holds-{os.getpid()}").touch()
        with open(folder / "turns", "a") as turns:
            turns.write(f"{os.getpid()}\\n")
        time.sleep(hold)
        for gpu in held.ids:
            (folder / f"mark-{gpu}").unlink(missing_ok=True)
"""


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host of its own: `host(3)` has three GPUs as nvidia-smi tells, `host(0)` no nvidia-smi."""
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DDLIB_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(gpus):
        lines = "".join(f"echo 'GPU {n}: NVIDIA H200 (UUID: GPU-{n}{n}{n}{n}-aa)'\n" for n in range(gpus))
        if gpus:
            (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{lines}")
            (tmp_path / "nvidia-smi").chmod(0o755)
        return tmp_path

    return make


def _python(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *words], env=environment, stdout=subprocess.PIPE, text=True)


def test_no_gpu_is_said_once_per_run_of_snakemake(host):
    folder = host(0)
    (folder / "job.py").write_text("from ddlib.devices import lease\nlease({}, 1)\n")
    (folder / "snakemake").write_text(
        "import subprocess, sys\nfor _ in range(3):\n    subprocess.run([sys.executable, sys.argv[1]], check=True)\n"
    )
    for _ in range(2):
        run = _python(str(folder / "snakemake"), str(folder / "job.py"))
        out, _ = run.communicate(timeout=60)
        assert out.count("no GPU") == (1 if Path("/proc/self/stat").exists() else 3)


def test_many_processes_some_killed_never_share_a_gpu(host):
    folder = host(3)
    (folder / "worker.py").write_text(WORKER)
    start = [str(folder / "worker.py"), str(folder)]
    steady = [_python(*start, str(1 + n % 2), "3", "0.05") for n in range(6)]
    doomed = [_python(*start, "1", "1", "60") for _ in range(3)]
    deadline = time.monotonic() + 60
    while doomed:  # each is killed while it holds a GPU
        assert time.monotonic() < deadline, "a worker never got a GPU"
        time.sleep(0.02)
        for process in [each for each in doomed if (folder / f"holds-{each.pid}").exists()]:
            _kill(folder, process)
            doomed.remove(process)
    for process in steady:
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert not list(folder.glob("overlap-*"))
    assert len(list(folder.glob("holds-*"))) == 9


def test_a_job_of_two_gpus_is_served_in_turn(host):
    """While others take each GPU that becomes free, one after the other, for as long as it waits."""
    folder = host(2)
    (folder / "worker.py").write_text(WORKER)
    start = [str(folder / "worker.py"), str(folder)]
    many = [_python(*start, "1", "1000000", "0.1") for _ in range(4)]
    try:
        _until(lambda: len(list(folder.glob("holds-*"))) == 4, "the others are at it")
        two = _python(*start, "2", "6", "0")
        two.communicate(timeout=120)
        assert two.returncode == 0
    finally:
        for process in many:
            process.kill()
            process.wait()
    turns = (folder / "turns").read_text().split()
    own = [place for place, pid in enumerate(turns) if pid == str(two.pid)]
    assert max(later - former for former, later in pairwise(own)) <= 16, "each of the others has one turn, or few"
    assert not list(folder.glob("overlap-*"))


def _storm(folder, processes, kills, seed):
    """Workers of one and of two GPUs, some killed at random as they hold and as they wait; the others finish."""
    (folder / "worker.py").write_text(WORKER)
    start, pick = [str(folder / "worker.py"), str(folder)], random.Random(seed)
    alive = [_python(*start, str(1 + n % 2), "4", "0.04") for n in range(processes)]
    table, names = Locks("gpu", folder / "locks"), [gpu.uuid for gpu in installed_gpus()[0]]
    began, killed = time.monotonic(), {"holding": 0, "waiting": 0}
    while sum(killed.values()) < kills and (running := [each for each in alive if each.poll() is None]):
        time.sleep(pick.uniform(0, 0.15))
        wanted = min(killed, key=killed.__getitem__)
        pids = table.holders(names) if wanted == "holding" else table.ahead(names)
        if victims := [each for each in running if str(each.pid) in pids]:
            victim = pick.choice(victims)
            _kill(folder, victim)
            alive.remove(victim)
            killed[wanted] += 1
    for process in alive:
        process.communicate(timeout=max(1, began + 120 - time.monotonic()))
        assert process.returncode == 0
    assert min(killed.values()) >= kills // 2, killed
    assert not list(folder.glob("overlap-*"))
    assert table.take(names, len(names)) == names
    assert not list(table.folder.glob("*.waits")), "the places of the dead are removed"


def test_killed_as_they_hold_and_as_they_wait_the_others_finish(host):
    _storm(host(3), processes=12, kills=4, seed=0)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_killed_as_they_hold_and_as_they_wait_the_others_finish_always(host, seed):
    _storm(host(4), processes=30, kills=16, seed=seed)


def _kill(folder, process):
    (folder / f"killed-{process.pid}").touch()
    process.kill()
    process.wait()


def _until(holds, what):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_without_locks_the_overlap_is_seen(host, monkeypatch):
    """The check of the test above can fail: two hosts' worth of locks over the same GPUs collide."""
    folder = host(1)
    (folder / "worker.py").write_text(WORKER)
    first = _python(str(folder / "worker.py"), str(folder), "1", "1", "2")
    while not (folder / f"holds-{first.pid}").exists():
        time.sleep(0.02)
    monkeypatch.setenv("DDLIB_LOCK_DIR", str(folder / "elsewhere"))
    second = _python(str(folder / "worker.py"), str(folder), "1", "1", "0")
    second.communicate(timeout=60)
    first.communicate(timeout=60)
    assert list(folder.glob("overlap-*"))
