"""Peak memory of one variant, in a process of its own: `python -m benchmarks.memory '{...}'` prints it in MB.

On a GPU it is what PyTorch had allocated at most; on the CPU the most the process held (Linux: while the steps ran, not
while they were compiled; elsewhere: ever).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.machine import switches
from benchmarks.problem import Size, Variant, calls

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mb(size: Size, variant: Variant, part: str, device: str, compile: str, threads: int) -> float:
    """Start a process that computes `part` three times; its peak in MB. RuntimeError with its words if it fails."""
    asked = {"size": asdict(size), "variant": asdict(variant), "part": part, "device": device, "compile": compile}
    command = [sys.executable, "-m", "benchmarks.memory", json.dumps({**asked, "threads": threads})]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"the memory of {variant.name}, {part}, could not be measured: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def main() -> None:
    """Entry point."""
    asked = json.loads(sys.argv[1])
    size, variant, device = Size(**asked["size"]), Variant(**asked["variant"]), asked["device"]
    torch.set_num_threads(asked["threads"])
    with switches(variant, device):
        call = calls(size, variant, device, asked["compile"])[asked["part"]]
        call()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif _RESET.exists():
            _RESET.write_text("5")  # the high-water mark starts anew
        for _ in range(2):
            call()
    print(round(_peak(device), 1))


def _peak(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    if _RESET.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


if __name__ == "__main__":
    main()
