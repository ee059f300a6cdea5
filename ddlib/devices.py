"""Leases a job its devices, so that no two jobs of a user ever compute on one GPU, and hides the others.

Snakemake only counts (`--resources gpu=4`); which GPU is free is known by the kernel: a job holds a `flock` on one file
per GPU, in a folder of the host, and loses it however it dies. Jobs that wait are served in turn, the dead passed over.
Take the lease before CUDA is initialised: it works through CUDA_VISIBLE_DEVICES. The GPUs to choose from: the machine
setting `devices` (nvidia-smi's numbers), else an inherited CUDA_VISIBLE_DEVICES, else all that nvidia-smi lists. Inside
a SLURM job what SLURM granted comes first, and the lease is among the processes of that job step. Leases are per user:
GPUs that users share need `devices` or SLURM.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ddlib.locks import Locks, once

SAY_AGAIN_S = 60.0
POLL_S = 0.2
_NO_GPU = {"", "-1", "NoDevFiles", "none", "void"}  # what CUDA, SLURM and container runtimes write for "none"


@dataclass(frozen=True)
class Gpu:
    """One GPU or MIG instance: its number or UUID for CUDA_VISIBLE_DEVICES, the name of its lock, its model."""

    visible: str
    uuid: str
    name: str


class Lease:
    """Devices held until `close` or the end of a `with` block; `.device`: "cuda" or "cpu", `.ids`: the GPUs held."""

    def __init__(self, device: str, description: str, ids: tuple[str, ...], visible: str | None, locks: Locks | None):
        self.device, self.description, self.ids, self._locks = device, description, ids, locks
        self._before = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")}
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
            os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # nvidia-smi's numbering

    def close(self) -> None:
        """Free the devices; the environment is as before."""
        for name, value in self._before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        self._before = {}
        if self._locks is not None:
            self._locks.close()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lease(
    machine: Mapping[str, Any], gpus: int, lock_dir: Path | None = None, say: Callable[[str], object] = print
) -> Lease:
    """Hold `gpus` GPUs, waiting until so many are free, or the CPU.

    `machine`: `device` ("auto", "cpu", "cuda"), `devices` (numbers, optional), `threads` (optional). With "cpu", or no
    GPU asked, or none there, it is the CPU and all GPUs are hidden; "none there" is said once per run of Snakemake.
    ValueError: "cuda" without a GPU, more GPUs asked than there are, or a device that does not exist.
    """
    wanted = machine.get("device", "auto")
    if wanted not in ("auto", "cpu", "cuda"):
        raise ValueError(f"machine setting device: {wanted!r} is none of auto, cpu, cuda")
    if gpus < 0:
        raise ValueError(f"a job cannot take {gpus} GPUs")
    if wanted == "cpu" or (gpus == 0 and wanted == "auto"):
        return _cpu(machine)
    if gpus == 0:
        raise ValueError("machine setting device: cuda, but the job may take no GPU (--resources gpu=0?): ask for one")
    pool, source = gpu_pool(machine)
    if not pool and wanted == "cuda":
        raise ValueError(f"machine setting device: cuda, but there is no GPU ({source}). Set device: auto or cpu")
    locks = Locks("gpu", lock_dir)
    if not pool:
        if once("cpu", locks.folder):
            say(f"no GPU ({source}): running on the CPU")
        return _cpu(machine)
    if gpus > len(pool):
        there = ", ".join(gpu.visible for gpu in pool)
        raise ValueError(
            f"the job asks for {gpus} GPUs, there are {len(pool)} ({there}; {source}). "
            f"Start Snakemake with --resources gpu={len(pool)}, or name more GPUs (machine setting devices)"
        )
    _refuse_initialised_cuda()
    try:
        held = _wait(locks, pool, gpus, say)
    except BaseException:
        locks.close()  # or an interrupted cell of a notebook would keep its place in the queue
        raise
    names = " + ".join(sorted({gpu.name for gpu in held}))
    ids = tuple(gpu.visible for gpu in held)
    return Lease("cuda", names if gpus == 1 else f"{gpus} x {names}", ids, ",".join(ids), locks)


def gpu_pool(machine: Mapping[str, Any]) -> tuple[list[Gpu], str]:
    """(the GPUs a job may choose from, where that is known from)."""
    installed, how = installed_gpus()
    inherited = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = machine.get("devices")
    in_slurm = "SLURM_JOB_ID" in os.environ
    if chosen is not None and not (in_slurm and inherited is not None):
        source, ids = "machine setting devices", [str(number) for number in chosen]
    elif inherited is not None:
        source, ids = f"CUDA_VISIBLE_DEVICES={inherited!r}", [word.strip() for word in inherited.split(",")]
    elif in_slurm:
        return [], "SLURM granted none: CUDA_VISIBLE_DEVICES is not set"
    else:
        return installed, how
    pool = [_find(word, installed, source) for word in dict.fromkeys(ids) if word not in _NO_GPU]
    return pool, source


def installed_gpus() -> tuple[list[Gpu], str]:
    """(all GPUs that nvidia-smi lists, a split one by its MIG instances; how that is known)."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=120, check=False)
    except FileNotFoundError:
        return [], "nvidia-smi is not installed"
    except subprocess.TimeoutExpired:
        return [], "nvidia-smi does not answer"
    if listed.returncode != 0:
        return [], f"nvidia-smi: {(listed.stdout + listed.stderr).strip()[:200] or 'failed'}"
    found: list[Gpu] = []
    model = ""
    for line in listed.stdout.splitlines():
        if whole := re.match(r"GPU (\d+): (.*) \(UUID: ([^)]+)\)", line):
            model = whole[2]
            found.append(Gpu(whole[1], whole[3], model))
        elif part := re.match(r"\s+(MIG \S+)\s+Device\s+\d+: \(UUID: ([^)]+)\)", line):
            if found and found[-1].visible.isdigit():
                found.pop()  # a split GPU is used through its parts
            found.append(Gpu(part[2], part[2], f"{model} {part[1]}"))
    return found, "nvidia-smi" if found else "nvidia-smi lists none"


def _find(word: str, installed: list[Gpu], source: str) -> Gpu:
    """The installed GPU of a number or (the beginning of) a UUID; taken on trust where nvidia-smi lists none."""
    if not installed:
        return Gpu(word, word, f"CUDA device {word}")
    for gpu in installed:
        if word == gpu.visible or (len(word) > 4 and gpu.uuid.startswith(word)):
            return Gpu(word, gpu.uuid, gpu.name)
    there = ", ".join(gpu.visible for gpu in installed)
    raise ValueError(f"{source}: there is no GPU {word}; nvidia-smi lists {there}")


def _wait(locks: Locks, pool: list[Gpu], gpus: int, say: Callable[[str], object]) -> list[Gpu]:
    """All GPUs at once or none: hold the first free ones as soon as there are enough, and it is this job's turn."""
    by_name = {_lock_name(gpu): gpu for gpu in pool}
    started = said = time.monotonic()
    while (names := locks.take(list(by_name), gpus, queue=True)) is None:
        now = time.monotonic()
        if said == started or now - said >= SAY_AGAIN_S:
            holders = ", ".join(locks.holders(list(by_name))) or "others"
            need = "a free GPU" if gpus == 1 else f"{gpus} free GPUs"
            first = f"; before it waits process {', '.join(ahead)}" if (ahead := locks.ahead(list(by_name))) else ""
            say(f"waiting for {need} of {len(pool)} for {now - started:.0f} s; held by process {holders}{first}")
            said = now
        time.sleep(POLL_S)
    return [by_name[name] for name in names]


def _lock_name(gpu: Gpu) -> str:
    """SLURM may number the GPUs of each job step from 0, and may share one on purpose: its grants are kept apart."""
    slurm = [os.environ[name] for name in ("SLURM_JOB_ID", "SLURM_STEP_ID") if name in os.environ]
    return "-".join([*(["slurm", *slurm] if "SLURM_JOB_ID" in os.environ else []), gpu.uuid])


def _refuse_initialised_cuda() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RuntimeError("CUDA is initialised already: take the lease before anything computes on a GPU")


def _cpu(machine: Mapping[str, Any]) -> Lease:
    affinity = getattr(os, "sched_getaffinity", None)
    threads = machine.get("threads") or (len(affinity(0)) if affinity else os.cpu_count() or 1)
    return Lease("cpu", f"CPU ({threads} threads)", (), "", None)
