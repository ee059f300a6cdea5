"""One run: every variant is warmed up, then all take turns, so that a busy moment of the machine hits all alike."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from benchmarks import trajectory
from benchmarks.machine import device_name, has_amx, matrix_rate, seconds, slug, switches
from benchmarks.memory import peak_mb
from benchmarks.problem import PARTS, Size, Variant, calls, flops, image_gradient, network_steps

TARGETS = {
    ("cpu", "matching", "fp32"): 1.7,
    ("cpu", "matching", "bf16"): 3.0,
    ("cpu", "network", "fp32"): 1.8,
    ("cpu", "network", "bf16"): 4.0,
    ("cuda", "matching", "bf16"): 5.0,
    ("cuda", "network", "bf16"): 5.0,
}
"""How many times as fast as the plain code in fp32; bf16 on a CPU: where it has AMX."""


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


@dataclass
class Suite:
    """`device` cpu or cuda; `compile`: ddlib's functions, always or never; `precisions`: None for all there are."""

    size: Size
    device: str
    threads: int
    compile: str
    repeats: int
    parts: Sequence[str] = PARTS
    precisions: Sequence[str] | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.set_num_threads(self.threads)
        there = ("fp32", "tf32", "bf16") if self.device == "cuda" else ("fp32", "bf16")
        if missing := [name for name in self.precisions or () if name not in there]:
            raise ValueError(f"{device_name(self.device)} has no {missing[0]}: choose among {', '.join(there)}.")
        self.precisions = tuple(name for name in there if name in (self.precisions or there))

    def variants(self) -> list[Variant]:
        """The baseline first; where there is TF32, the plain code with it too."""
        assert self.precisions is not None
        plain = [Variant("plain", name) for name in ("fp32", "tf32") if name == "fp32" or name in self.precisions]
        return plain + [Variant("ddlib", name) for name in self.precisions]

    def run(self, memory: bool = True) -> pd.DataFrame:
        """Measure; one row per part and variant (README of the columns: docs/performance.md)."""
        timed = [part for part in self.parts if part in ("matching", "network", "inner")]
        if timed:
            self._time(timed)
            self._rates()
        for row in self.rows if memory else ():
            say(f"memory: {row['part']}, {row['code']} {row['precision']}")
            variant = Variant(row["code"], row["precision"])
            row["peak_mb"] = peak_mb(self.size, variant, row["part"], self.device, self.compile, self.threads)
        if "precision" in self.parts:
            self._precision()
        if "trajectory" in self.parts:
            with switches(Variant("ddlib", "fp32"), self.device):
                self.rows += trajectory.measured(self.size, self.device, self.compile, self.repeats, memory, say)
        return pd.DataFrame(self.rows).assign(**self.facts())

    def facts(self) -> dict[str, Any]:
        """The machine and the size of the problem, the same in every row."""
        size = f"{self.size.classes} classes, ipc {self.size.ipc}, {self.size.side} px, width {self.size.width}, "
        size += f"{network_steps(self.size)} network steps"
        return {
            "device": device_name(self.device),
            "threads": self.threads,
            "amx": has_amx(),
            "compiled": self.compile == "always",
            "torch": torch.__version__,
            "size": size,
            "file": slug(self.device, self.threads),
        }

    def _time(self, timed: Sequence[str]) -> None:
        made: dict[Variant, dict[str, Callable[[], object]]] = {}
        first: dict[tuple[Variant, str], float] = {}
        for variant in self.variants():
            with switches(variant, self.device):
                made[variant] = calls(self.size, variant, self.device, self.compile)
                for part in timed:
                    first[variant, part] = seconds(made[variant][part], self.device)
                    say(f"{variant.name}: first {part} in {first[variant, part]:.1f} s")
                    made[variant][part]()
        times: dict[tuple[Variant, str], list[float]] = {key: [] for key in first}
        for turn in range(self.repeats):
            for variant, part in times:
                with switches(variant, self.device):
                    times[variant, part].append(seconds(made[variant][part], self.device))
            say(f"turn {turn + 1} of {self.repeats}")
        each = {"matching": self.size.classes, "network": network_steps(self.size), "inner": 1}
        for part in timed:
            base = min(times[Variant("plain", "fp32"), part])
            for variant in self.variants():
                taken = times[variant, part]
                self.rows.append(
                    {
                        "part": part,
                        "code": variant.code,
                        "precision": variant.precision,
                        "seconds": min(taken) / each[part],
                        "median_seconds": statistics.median(taken) / each[part],
                        "times_plain_fp32": base / min(taken),
                        "warm_up_seconds": max(0.0, first[variant, part] - min(taken)),
                        **self._target(part, variant, base / min(taken)),
                    }
                )

    def _target(self, part: str, variant: Variant, ratio: float) -> dict[str, Any]:
        goal = TARGETS.get((self.device, part, variant.precision)) if variant.code == "ddlib" else None
        if goal is None or (variant.precision == "bf16" and self.device == "cpu" and not has_amx()):
            return {"target": None, "met": None}
        return {"target": goal, "met": ratio >= goal}

    def _rates(self) -> None:
        side = 8192 if self.device == "cuda" else min(2048, 16 * self.size.width)
        rates = {name: matrix_rate(name, self.device, side) for name in {row["precision"] for row in self.rows}}
        for row in self.rows:
            rate = rates[row["precision"]]
            row["gflop_per_second"] = flops(self.size, row["part"]) / row["seconds"] / 1e9
            row["matrix_gflop_per_second"] = rate / 1e9
            row["share_of_matrix_rate"] = row["gflop_per_second"] / row["matrix_gflop_per_second"]

    def _precision(self) -> None:
        """Gradient of the images at one network, against that in fp32: norm of the difference over the norm."""
        assert self.precisions is not None
        reference: Tensor | None = None
        for name in ("fp32", *[name for name in self.precisions if name != "fp32"]):
            say(f"precision: {name}")
            with switches(Variant("ddlib", name), self.device):
                gradient = image_gradient(self.size, self.device, self.compile, name)
            if reference is None:
                reference = gradient
                continue
            error = float((gradient - reference).norm() / reference.norm())
            self.rows.append({"part": "precision", "code": "ddlib", "precision": name, "relative_error": error})
