"""What every registered method refuses, with the numbers, and a loss that is no number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import equipped, problem, recipe, settings

from ddlib import presets, registry
from ddlib.checkpoints import Checkpoint
from ddlib.methods.driver import Condensed, condense
from ddlib.methods.recipe import Problem

METHODS = sorted(registry.METHODS)
STARTING = [name for name in METHODS if "init" in presets.METHOD_SETTINGS[name]["default"]]
LEARNING = [name for name in METHODS if presets.METHOD_SETTINGS[name]["default"]["outer_iterations"]]


def run(method: str, asked: Problem | None = None, snapshots: Any = (), **over: Any) -> Condensed:
    asked = equipped(method, asked or problem(), settings(method, **over))
    return condense(recipe(method, asked, **over), asked, snapshots)


@pytest.mark.parametrize("method", METHODS)
def test_snapshots_that_never_come_are_refused(method: str) -> None:
    total = recipe(method).outer_iterations
    for outer in (0, total + 1):
        with pytest.raises(ValueError, match=f"no outer iteration {outer} .* runs {total}"):
            run(method, snapshots=(outer,))


@pytest.mark.parametrize("method", LEARNING)
def test_a_loss_that_is_not_finite_stops_naming_the_place(tmp_path: Path, method: str) -> None:
    checkpoint = Checkpoint(tmp_path, "made", {}, 0.0, say=lambda text: None)
    with pytest.raises(FloatingPointError, match=r"in outer iteration [12] of 2 .*with image_lr 1e\+30"):
        condense(recipe(method, image_lr=1e30, match_augment="none"), problem(), (), checkpoint)
    found = checkpoint.load()
    if found is not None:
        assert torch.isfinite(found[0]["learned/images"]).all()
        assert torch.isfinite(found[0]["loss"])


@pytest.mark.parametrize("method", STARTING)
def test_bad_starts_are_refused_with_numbers(method: str) -> None:
    ipc, factor = (4, 2) if "factor" in settings(method) else (16, 1)
    with pytest.raises(
        ValueError,
        match=rf"class 0 \(0\) of digits has 12 images; ipc {ipc} with factor {factor} needs {ipc} x {factor}\^2 = 16",
    ):
        run(method, problem(ipc=ipc), init="mix", factor=factor)
    with pytest.raises(ValueError, match=r"no initialisation is called 'mixed': did you mean 'mix'"):
        run(method, init="mixed")


BAD = {
    "real_batch": (13, r"class 0 \(0\) has 12 training images, fewer than real_batch 13"),
    "inner_steps": (0, "inner_steps is at least 1, not 0"),
    "synthetic_batch": (0, "synthetic_batch is at least 1, not 0"),
    "network_batch": (0, "network_batch is at least 1, not 0"),
    "match": ("gradients", "match is gradient or feature, not 'gradients'"),
    "metric": ("l2", "no metric is called 'l2'"),
    "matched": ("convs", "cannot match the parameters 'convs'"),
    "match_augment": ("colour", "no augmentation is called 'colour'"),
    "network_mix_probability": (1.5, "probability in 0-1 .* not 1.5"),
    "image_momentum": (1.0, "0 <= momentum < 1, not 1.0"),
    "decode": ("twice", "no decode is called 'twice'"),
    "factor": (0, "factor is at least 1, not 0"),
}


@pytest.mark.parametrize("setting", BAD)
@pytest.mark.parametrize("method", LEARNING)
def test_bad_settings_are_refused_with_numbers(method: str, setting: str) -> None:
    if setting not in settings(method):
        pytest.skip(f"{method} has no {setting}")
    value, message = BAD[setting]
    with pytest.raises(ValueError, match=message):
        run(method, **{setting: value})
    with pytest.raises(ValueError, match="needs a network"):
        run(method, problem(network=None))
