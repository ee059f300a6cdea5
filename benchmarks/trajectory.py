"""MTT's gradient by each engine, on one problem: time of a step, and the bytes of tensors alive at once.

The unrolled gradient is what the official code computes. Memory is counted for all the steps and for half of them
(eager: what is compiled cannot be looked into), so that what a step more costs can be told from what one step needs.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.live import peak_bytes
from benchmarks.machine import seconds
from benchmarks.problem import MEAN, STD, Size
from ddlib import nn
from ddlib.augment.showing import to_device
from ddlib.augment.siamese import Augmentation
from ddlib.nn.functional import functional, split
from ddlib.objectives.trajectory import ENGINES, Batch, Found, Student, Trajectory
from ddlib.streams import Streams
from ddlib.train.compiler import Compiler

AT_MOST = 1.25
"""Time of the adjoint over that of the unroll."""
AUGMENT = Augmentation("color_crop_cutout_flip_scale_rotate", "mtt")
Call = Callable[[], Found]


def network(size: Size, seed: int) -> torch.nn.Module:
    """ConvNet as MTT has it."""
    options = {"architecture": "convnet", "depth": size.depth, "width": size.width, "norm": "instance"}
    return nn.build(options, channels=3, size=size.side, classes=size.classes, seed=seed)


def given(size: Size, device: str) -> Trajectory:
    """Random images and two random networks, half as far apart as they are: only what it costs is asked."""
    rng, steps, batch = Streams(0, "benchmark").at("trajectory"), size.student_steps, size.student_batch
    drawn = AUGMENT.draw(rng, (steps,), height=size.side, width=size.side, images=batch)
    chosen = drawn.pop("choice")
    draws = to_device(drawn, device)
    count = 2 * batch
    rows = [torch.from_numpy(rng.permutation(count)[:batch]).to(device) for _ in range(steps)]
    batches = [
        Batch(rows[step], {name: values[step] for name, values in draws.items()}, AUGMENT.choices[int(chosen[step])])
        for step in range(steps)
    ]
    (start, buffers), (other, _) = (split(network(size, seed).to(device)) for seed in (0, 1))
    target = {name: value + 0.5 * (other[name] - value) for name, value in start.items()}
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (MEAN, STD))
    shares = torch.rand(count, 3, size.side, size.side, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(count, device=device) % size.classes
    images, step_size = ((shares - mean) / std).to(device), torch.tensor(0.01, device=device)
    return Trajectory(start, target, buffers, images, labels, step_size, batches)


def calls(size: Size, device: str, compile: str) -> dict[str, Call]:
    """code -> a call that computes the gradient; compiled ones only where asked."""
    asked, call = given(size, device), functional(network(size, 0).to(device).train())
    student = Student(call, AUGMENT.apply)
    found: dict[str, Call] = {
        name: _bound(ENGINES[name], student, asked) for name in ("unroll", "adjoint", "truncated")
    }
    if compile == "always":
        fast = Student(call, AUGMENT.apply, Compiler(True, "asked for"))
        found |= {f"{name}_compiled": _bound(ENGINES[name], fast, asked) for name in ("adjoint", "truncated")}
    return found


def _bound(engine: Callable[[Student, Trajectory], Found], student: Student, asked: Trajectory) -> Call:
    return lambda: engine(student, asked)


def measured(
    size: Size, device: str, compile: str, repeats: int, memory: bool, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """A row an engine: seconds of a step, how many times as fast as the unroll, bytes alive at once and per step."""
    made = calls(size, device, compile)
    first = {code: seconds(call, device) for code, call in made.items()}
    times: dict[str, list[float]] = {code: [] for code in made}
    for turn in range(repeats):
        for code, call in made.items():
            times[code].append(seconds(call, device))
        say(f"trajectory: turn {turn + 1} of {repeats}")
    rows = []
    for code, taken in times.items():
        ratio = min(times["unroll"]) / min(taken)
        goal = {"target": 1 / AT_MOST, "met": ratio >= 1 / AT_MOST} if code == "adjoint" else {}
        rows.append(
            {
                "part": "trajectory",
                "code": code,
                "precision": "fp32",
                "seconds": min(taken) / size.student_steps,
                "median_seconds": statistics.median(taken) / size.student_steps,
                "times_plain_fp32": ratio,
                "warm_up_seconds": max(0.0, first[code] - min(taken)),
                **goal,
                **(bytes_of(size, device, code) if memory and code in ENGINES else {}),
            }
        )
    return rows


def bytes_of(size: Size, device: str, code: str) -> dict[str, float]:
    """`live_mb`: alive at once at most; `live_mb_a_step`: what a step more adds to it; and a network's parameters."""
    steps, half = size.student_steps, size.student_steps // 2
    most = {
        many: peak_bytes(calls(dataclasses.replace(size, student_steps=many), device, "never")[code])
        for many in (half, steps)
    }
    parameters = sum(value.numel() * value.element_size() for value in network(size, 0).parameters())
    grown = (most[steps] - most[half]) / (steps - half)
    return {"live_mb": most[steps] / 1e6, "live_mb_a_step": grown / 1e6, "parameters_mb": parameters / 1e6}
