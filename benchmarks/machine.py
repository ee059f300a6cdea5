"""Facts of the machine, its matrix-product rate, and the switches of PyTorch and the C library a variant runs under."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.problem import Variant
from ddlib import presets
from ddlib.jobs.job import keep_memory

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


def device_name(device: str) -> str:
    """Such as "NVIDIA H200", or the processor's name."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    found = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), flags=re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def has_amx() -> bool:
    """Whether the processor multiplies matrices in bfloat16 by itself (AMX tiles; known on Linux)."""
    return " amx_bf16" in _cpuinfo()


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.is_file() else ""


def slug(device: str, threads: int) -> str:
    """The name of the device as the name of a file; for a processor with the number of threads."""
    name = re.sub(r"\((R|TM|C)\)", "", device_name(device), flags=re.IGNORECASE)
    words = name if device == "cuda" else f"{name} {threads} threads"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


@contextmanager
def switches(variant: Variant, device: str) -> Iterator[None]:
    """TF32 where the variant says so; memory kept as ddlib's jobs do, or handed back as a process does by itself; on a
    GPU the official code's autotuned kernels, or those our jobs take."""
    cudnn, before = torch.backends.cudnn, torch.get_float32_matmul_precision()
    kept = cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    if variant.code == "ddlib":
        keep_memory()
    else:
        _hand_back_memory()
    try:
        torch.set_float32_matmul_precision("high" if variant.precision == "tf32" else "highest")
        cudnn.allow_tf32 = variant.precision == "tf32"
        cudnn.deterministic = device == "cuda" and variant.code == "ddlib" and presets.MACHINE["deterministic"]
        cudnn.benchmark = device == "cuda" and variant.code == "plain"
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = kept


def _hand_back_memory() -> None:
    """The C library's own ways, undoing `keep_memory`: maps blocks above 32 MB (as once warm), trims above 64."""
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if libc is not None and hasattr(libc, "mallopt"):
        trim, pad, threshold, mappings = -1, -2, -3, -4
        for option, value in ((mappings, 65536), (threshold, 2**25), (trim, 2**26), (pad, 2**17)):
            libc.mallopt(option, value)


def seconds(call: Callable[[], object], device: str) -> float:
    """Wall-clock seconds of a call, up to the device having done it."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def matrix_rate(precision: str, device: str, side: int) -> float:
    """Operations per second of a product of two matrices of `side` x `side`: 2 side^3 over the best of eight times."""
    with switches(Variant("ddlib", precision), device):
        a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
        return 2.0 * side**3 / min(seconds(lambda: a @ b, device) for _ in range(8))
