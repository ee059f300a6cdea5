"""Small real problems for tests: some of the digits, networks of a few channels, settings of a few steps."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ddlib import presets, registry
from ddlib.artifacts import save_tensors
from ddlib.data.native import Stored
from ddlib.data.real import RealData
from ddlib.methods.recipe import Problem, Recipe
from ddlib.objectives.matching import Execution
from ddlib.pool.draw import Fresh
from ddlib.sets.realism import score_crops
from ddlib.sets.scores import ScoreTable
from ddlib.sets.synthetic import SyntheticSet
from ddlib.streams import Streams
from ddlib.transforms.sparsify import RandomMasks

SPEC = {"source": "digits", "order": "official", "heldout": 0.0, "classes": 10, "size": 8, "channels": 1} | {
    "mean": [0.3039],
    "std": [0.3753],
    "flip": False,
    "base_size": 8,
}
NETWORK = {"architecture": "convnet", "depth": 2, "width": 4, "norm": "instance", "version": 1}
# Overrides that make any method take a second; only those a method has are given to it.
QUICK = {"outer_iterations": 2, "inner_steps": 3, "real_batch": 8, "network_batch": 16, "network_samples": 32}
QUICK |= {"student_steps": 3, "mipc": 10, "crops": 2}
# Written out, not presets: golden values stand on them.
LEARNING = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch": 16, "augment": "color_crop", "dialect": "idc"}
LEARNING |= {"mix_probability": 0.5, "mix_beta": 1.0}
TRAINING = {**LEARNING, "epochs": 3, "decay_at": [0.5], "decay_factor": 0.2, "record_events": False}
PROTOCOL = {**LEARNING, "epochs": 2, "steps": 0, "whole_steps": 30, "repeats": 2}
PROTOCOL |= {"decay_at": [2 / 3, 5 / 6], "decay_factor": 0.2}
MATCHING = {"factor": 2, "decode": "single", "decode_limit": 128, "init": "mix", "match": "gradient", "metric": "mse"}
MATCHING |= {"matched": "conv", "outer_iterations": 2, "inner_steps": 2, "real_batch": 8, "synthetic_batch": 6}
MATCHING |= {"image_lr": 0.05, "image_momentum": 0.5, "match_augment": "color_crop_scale_cutout", "pretrain_epochs": 1}
MATCHING |= {
    "network_samples": 32,
    **{f"network_{name}": value for name, value in LEARNING.items() if name != "dialect"},
}


@functools.cache
def digits(per_class: int = 12, test: bool = False, heldout: float = 0.0) -> RealData:
    """The first images of each class of the digits."""
    load = registry.SOURCES["digits"].load()
    data = load({**SPEC, "heldout": heldout}, {})[int(test)]
    chosen = torch.cat([data.of_class(label)[:per_class] for label in range(data.classes)]).sort().values
    return data._take(chosen)


def settings(method: str, **over: Any) -> dict[str, Any]:
    """The preset of `method` on the digits, made quick."""
    known = presets.METHOD_SETTINGS[method]
    full = {**known["default"], **known.get("digits", {})}
    full.pop("speedup", None)
    quick = {key: value for key, value in QUICK.items() if full.get(key)}
    return {**full, **quick, **over}


def problem(
    classes: Any = range(10),
    seed: int = 0,
    ipc: int = 2,
    network: Mapping[str, Any] | None = NETWORK,
    rows: Any = None,
    data: RealData | None = None,
    stage: int = 0,
    execution: Execution | None = None,
) -> Problem:
    """What is asked of a method: two images of each digit, by default."""
    used = execution or Execution(class_chunk=1)
    return Problem(data or digits(), ipc, list(classes), seed, 8, network, rows, stage, used)


@functools.cache
def snapshots_of(network: str, shape: tuple[int, int, int], classes: int) -> list[dict[str, Any]]:
    """Rows of two snapshots of a network (JSON), as a view has them."""
    folder, rows = Path(tempfile.mkdtemp()), []
    for member in range(2):
        fresh = Fresh(json.loads(network), shape, classes, Streams(member, "view"))
        path = folder / f"member{member}.safetensors"
        tensors = {name: value for name, value in fresh.draw(0).tensors().items() if not name.startswith("velocity")}
        rows.append({"member": member, "epoch": 1, "file": str(path), "sha256": save_tensors(path, tensors)})
    return with_targets(rows)


def some(method: str, classes: Sequence[int]) -> Sequence[int]:
    """`classes`, or all where a method learns all of them together."""
    return classes if registry.METHODS[method].facts.get("partitionable", True) else range(10)


def with_targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the next one's snapshot as target, for methods that need a horizon."""
    pairs = zip(rows, [*rows[1:], *rows[:1]], strict=True)
    return [{**row, "target_file": other["file"], "target_sha256": other["sha256"]} for row, other in pairs]


def observe(x: torch.Tensor) -> torch.Tensor:
    """An observer of small images: what a fixed linear map says of them."""
    generator = torch.Generator().manual_seed(0)
    return x.flatten(1) @ torch.randn(x[0].numel(), 10, generator=generator)


@functools.cache
def table(mipc: int, crops: int, factor: int, seed: int) -> ScoreTable:
    """The scores of the digits."""
    how: dict[str, Any] = {"mipc": mipc, "crops": crops, "factor": factor, "seed": seed, "size": 8}
    return score_crops(Stored(digits()), digits(), observe, classes=range(10), **how)


def equipped(method: str, asked: Problem, made: Mapping[str, Any] | None = None) -> Problem:
    """`asked` with the view, the masks, and the scores that `method` (with settings `made`) cannot do without, where it
    has none."""
    if registry.METHODS[method].facts.get("native") and asked.native is None:
        asked = dataclasses.replace(asked, native=Stored(digits()))
        if method == "rded" and asked.scores is None:
            of = made or settings(method)
            asked = dataclasses.replace(asked, scores=table(of["mipc"], of["crops"], of["factor"], asked.seed))
    facts, data = registry.METHODS[method].facts, asked.data
    rows, masks = asked.rows, asked.masks
    if facts.get("pool") == "required" and rows is None:
        shape = (data.channels, data.height, data.width)
        rows = snapshots_of(json.dumps(asked.network), shape, data.classes) if asked.network else []
    if facts.get("masks") and masks is None:
        masks = RandomMasks.on(asked.start().net, "uniform", 0.5, asked.seed)
    return dataclasses.replace(asked, rows=rows, masks=masks)


def recipe(method: str, asked: Problem | None = None, **over: Any) -> Recipe:
    """The recipe of `method`, quick, with settings replaced by `over`."""
    of = settings(method, **over)
    made: Recipe = registry.METHODS[method].load()(of, equipped(method, asked or problem(), of))
    return made


def synthetic(factor: int = 1, ipc: int = 2, classes: int = 3, channels: int = 1, **over: Any) -> SyntheticSet:
    """A set of random 6 x 6 images, some of whose values are on the ends of 0-1."""
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(classes * ipc, channels, 6, 6, generator=generator) * 1.2 - 0.1).clamp(0, 1)
    labels = torch.arange(classes).repeat_interleave(ipc)
    facts: dict[str, Any] = {"mean": (0.3,) * channels, "std": (0.4,) * channels, "name": "made_up"}
    facts |= {"class_names": ("cat", "dog", "emu", "fox", "gnu")[:classes], "stage": torch.zeros_like(labels)}
    named: dict[str, Any] = {"images": images, "labels": labels, "factor": factor, **facts}
    return SyntheticSet(**{**named, **over})
