"""Device leases among many processes, some of them killed: never two on one GPU."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
    pick = random.Random(0)
    for process in pick.sample(doomed, len(doomed)):  # each is killed while it holds a GPU
        deadline = time.monotonic() + 60
        while not (folder / f"holds-{process.pid}").exists():
            assert time.monotonic() < deadline, "a worker never got a GPU"
            time.sleep(0.02)
        (folder / f"killed-{process.pid}").touch()
        process.kill()
        process.wait()
    for process in steady:
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert not list(folder.glob("overlap-*"))
    assert len(list(folder.glob("holds-*"))) == 9


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
