"""Device leases: which GPUs a job may take, what is refused, and waiting. test_device_races.py has many processes."""

import os
import signal
import threading
from pathlib import Path

import pytest

from ddlib import devices, locks

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host of its own: `host(4)` has four GPUs as nvidia-smi tells, `host(None)` no nvidia-smi."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "SLURM_JOB_ID", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DDLIB_LOCK_DIR", str(tmp_path / "locks"))
    programs = tmp_path / "bin"
    programs.mkdir()

    def make(gpus, listing=None, status=0):
        monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
        if gpus is None:
            monkeypatch.setenv("PATH", str(programs))
            return tmp_path
        lines = listing or "".join(f"GPU {n}: NVIDIA H200 (UUID: GPU-{n}{n}{n}{n}-aa)\n" for n in range(gpus))
        (tmp_path / "listing").write_text(lines)
        (programs / "nvidia-smi").write_text(f"#!/bin/sh\ncat {tmp_path}/listing\nexit {status}\n")
        (programs / "nvidia-smi").chmod(0o755)
        return tmp_path

    return make


def test_pool_comes_from_the_setting_then_the_environment_then_nvidia_smi(host, monkeypatch):
    host(4)
    assert [gpu.visible for gpu in devices.gpu_pool({})[0]] == ["0", "1", "2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert [gpu.visible for gpu in devices.gpu_pool({})[0]] == ["3", "1"]
    assert [gpu.visible for gpu in devices.gpu_pool({"devices": [2, 0]})[0]] == ["2", "0"]


@pytest.mark.parametrize("none", ["", "-1", "NoDevFiles"])
def test_hidden_gpus_are_no_gpus(host, monkeypatch, none):
    host(4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
    assert devices.lease({}, 1, say=lambda text: None).device == "cpu"


def test_number_and_uuid_of_one_gpu_are_one_lock(host, monkeypatch):
    host(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1111-aa")
    with devices.lease({}, 1) as held:
        assert held.ids == ("GPU-1111-aa",)
        taken = locks.Locks("gpu").take([devices._lock_name(devices.gpu_pool({"devices": [1]})[0][0])], 1)
        assert taken is None


def test_split_gpu_is_used_through_its_instances(host):
    host(
        2,
        "GPU 0: NVIDIA A100 (UUID: GPU-aaaa)\n"
        "  MIG 1g.5gb     Device  0: (UUID: MIG-1)\n  MIG 1g.5gb     Device  1: (UUID: MIG-2)\n"
        "GPU 1: NVIDIA A100 (UUID: GPU-bbbb)\n",
    )
    pool, _ = devices.gpu_pool({})
    assert [(gpu.visible, gpu.name) for gpu in pool] == [
        ("MIG-1", "NVIDIA A100 MIG 1g.5gb"),
        ("MIG-2", "NVIDIA A100 MIG 1g.5gb"),
        ("1", "NVIDIA A100"),
    ]


def test_two_leases_get_different_gpus_and_the_environment_comes_back(host, monkeypatch):
    host(2)
    with devices.lease({}, 1) as first:
        assert (first.device, first.description) == ("cuda", "NVIDIA H200")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")  # as in another process
        with devices.lease({}, 1) as second:
            assert {*first.ids, *second.ids} == {"0", "1"}
            assert os.environ["CUDA_VISIBLE_DEVICES"] == second.ids[0]
            assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert "CUDA_DEVICE_ORDER" not in os.environ


def test_several_gpus_at_once(host):
    host(3)
    with devices.lease({}, 2) as held:
        assert held.description == "2 x NVIDIA H200"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.parametrize(
    ("machine", "gpus", "there", "message"),
    [
        ({"device": "cuda"}, 1, None, "device: cuda, but there is no GPU .nvidia-smi is not installed.*auto or cpu"),
        ({"device": "cuda"}, 0, 2, "no GPU .--resources gpu=0"),
        ({}, 3, 2, "asks for 3 GPUs, there are 2 .0, 1; nvidia-smi.*gpu=2"),
        ({"devices": [0, 7]}, 1, 2, "machine setting devices: there is no GPU 7; nvidia-smi lists 0, 1"),
        ({"device": "gpu"}, 1, 2, "'gpu' is none of auto, cpu, cuda"),
        ({}, -1, 2, "cannot take -1"),
    ],
)
def test_what_cannot_be_is_refused(host, machine, gpus, there, message):
    host(there)
    with pytest.raises(ValueError, match=message):
        devices.lease(machine, gpus)


@pytest.mark.parametrize(("machine", "gpus"), [({"device": "cpu", "threads": 3}, 1), ({"threads": 3}, 0)])
def test_the_cpu_hides_the_gpus_and_takes_no_lock(host, machine, gpus):
    folder = host(1)
    with devices.lease(machine, gpus, say=pytest.fail) as held:
        assert (held.device, held.description, held.ids) == ("cpu", "CPU (3 threads)", ())
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not (folder / "locks").exists()


def test_no_gpu_says_why_and_computes_on_the_cpu(host):
    host(1, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", status=9)
    said = []
    assert devices.lease({"device": "auto"}, 1, say=said.append).device == "cpu"
    assert len(said) == 1
    assert "couldn't communicate" in said[0]
    assert "running on the CPU" in said[0]


def test_slurm_grants_come_first_and_are_leased_within_the_job_step(host, monkeypatch):
    host(4)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert devices.gpu_pool({})[0] == []  # nothing granted, whatever nvidia-smi lists
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    with devices.lease({"devices": [0]}, 1) as held:
        assert held.ids == ("2",)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
        monkeypatch.setenv("SLURM_JOB_ID", "18")  # numbered from its own 0, or shared on purpose
        with devices.lease({}, 1, say=pytest.fail) as other:
            assert other.ids == ("2",)


def test_waiting_is_said_at_once_and_then_now_and_again(host, monkeypatch):
    host(2)
    monkeypatch.setattr(devices, "SAY_AGAIN_S", 0.5)
    first = devices.lease({}, 1)
    del os.environ["CUDA_VISIBLE_DEVICES"]
    said: list[str] = []
    threading.Timer(1.6, first._locks.close).start()
    with devices.lease({}, 2, say=said.append) as held:
        assert held.ids == ("0", "1")
    assert 2 <= len(said) <= 4
    assert said[0] == f"waiting for 2 free GPUs of 2 for 0 s; held by process {os.getpid()}"


def test_all_or_nothing(host):
    host(2)
    with devices.lease({}, 1):
        waiting = locks.Locks("gpu")
        names = [devices._lock_name(gpu) for gpu in devices.installed_gpus()[0]]
        assert waiting.take(names, 2) is None
        assert locks.Locks("gpu").take(names, 1) == [names[1]]  # the free one was not kept by the one that waits


def test_who_waits_longer_comes_first_and_the_message_names_it(host):
    host(3)
    names = [devices._lock_name(gpu) for gpu in devices.installed_gpus()[0]]
    holder, two, late = (locks.Locks("gpu") for _ in range(3))
    assert holder.take(names, 2) == names[:2]
    assert two.take(names[:2], 2, queue=True) is None
    assert two.ahead(names) == []
    assert late.take(names[:2], 1) is None
    assert late.ahead(names) == late.holders(names) == [str(os.getpid())]
    assert late.take(names, 1) == names[2:], "the other does not wait for this one"
    holder.close()
    assert holder.holders(names[:2]) == [], "and not who held them once"
    assert locks.Locks("gpu").take(names[:2], 1) is None, "free, and kept for who waits"
    assert two.take(names[:2], 2, queue=True) == names[:2]
    assert not list(late.folder.glob("*.waits"))


def test_who_gives_up_waiting_leaves_the_queue(host):
    host(1)

    def interrupt(text):
        raise KeyboardInterrupt

    with devices.lease({}, 1):
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        with pytest.raises(KeyboardInterrupt):
            devices.lease({}, 1, say=interrupt)
    with devices.lease({}, 1, say=pytest.fail) as held:
        assert held.ids == ("0",)


def test_closing_frees_the_gpu_under_forked_workers(host):
    host(1)
    held = devices.lease({}, 1)
    worker = os.fork()
    if worker == 0:
        signal.pause()
    try:
        held.close()
        with devices.lease({}, 1, say=pytest.fail) as again:
            assert again.ids == ("0",)
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_a_folder_of_somebody_else_is_refused(host, monkeypatch):
    host(1)
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    with pytest.raises(ValueError, match="belongs to another user; set DDLIB_LOCK_DIR"):
        devices.lease({}, 1)
