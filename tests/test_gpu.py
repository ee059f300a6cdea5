"""On a GPU: it agrees with the CPU, and a killed job resumes exactly with deterministic kernels. Run where there is one
(`pytest -m gpu`).

Tolerances, relative to the largest entry, in float32 without TF32: one forward and one gradient 1e-4, the image
gradient of gradient matching (a difference of gradients, through a second derivative) 1e-2, images after an outer
iteration 2e-2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small import NETWORK, digits, equipped, problem, recipe
from test_methods import LEARNING, Fragile, KilledError
from torch import Tensor

from ddlib import nn as networks
from ddlib.checkpoints import Checkpoint
from ddlib.methods.driver import Condensed, condense
from ddlib.methods.recipe import Problem
from ddlib.nn.functional import functional, split
from ddlib.objectives.matching import Execution
from ddlib.train.evaluate import evaluate
from ddlib.train.losses import cross_entropy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
PROTOCOL = {"epochs": 3, "steps": 0, "whole_steps": 9, "batch": 32, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
PROTOCOL |= {"augment": "color_crop_scale_rotate", "dialect": "idc", "mix_probability": 0.5, "mix_beta": 1.0}
PROTOCOL |= {"decay_at": [0.7], "decay_factor": 0.2, "repeats": 1}


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """As the jobs compute on a GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = was


def error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest entry."""
    return float((ours.cpu() - theirs.cpu()).abs().max() / theirs.abs().max())


def on(device: str, chunk: int = 1, mode: str = "never", **changes: Any) -> Problem:
    return problem(data=digits().to(device), execution=Execution(mode, chunk, "fp32"), **changes)


def asked_of(method: str, device: str, **changes: Any) -> Problem:
    return equipped(method, on(device, **changes))


def test_logits_and_gradients_agree() -> None:
    options = {key: value for key, value in NETWORK.items() if key != "version"}
    found = []
    for device in ("cpu", "cuda"):
        data = digits().to(device)
        net = networks.build(options, channels=1, size=8, classes=10, seed=0).to(device).train()
        params, buffers = split(net)
        x, labels = data.pixels(torch.arange(60)), data.labels[:60]
        apply = functional(net)
        grads = torch.func.grad(lambda p, a=apply, b=buffers, x=x, y=labels: cross_entropy(a(p, b, x), y))(params)
        found.append((apply(params, buffers, x), grads))
    (cpu, slow), (gpu, fast) = found
    assert error(gpu, cpu) < 1e-4
    for name, value in slow.items():
        if not name.startswith("layers.conv") or name.endswith("weight"):  # a bias before a norm has no gradient
            assert error(fast[name], value) < 1e-4, name


@pytest.mark.parametrize("method", LEARNING)
def test_one_image_gradient_agrees(method: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        asked = asked_of(method, device)
        objective = recipe(method, asked).objective
        assert objective is not None
        images = digits().pixels(torch.arange(20)).to(device)
        inner = objective.begin(0, 0)
        found.append(objective.gradient({"images": images}, inner, 0)[1]["images"])
    assert error(found[1], found[0]) < 1e-2


@pytest.mark.parametrize("method", LEARNING)
def test_an_outer_iteration_agrees(method: str) -> None:
    cpu, gpu = (
        condense(recipe(method, asked_of(method, device), outer_iterations=1), asked_of(method, device))
        for device in ("cpu", "cuda")
    )
    assert gpu.images.device.type == "cuda"
    assert error(gpu.images, cpu.images) < 2e-2
    assert not torch.equal(gpu.images.cpu(), cpu.initial["images"])


def test_chunks_and_compiled_code_agree() -> None:
    alone = condense(recipe("idc", on("cuda"), outer_iterations=1), on("cuda")).images
    for changed in (on("cuda", chunk=10), on("cuda", chunk=4), on("cuda", mode="always")):
        assert error(condense(recipe("idc", changed, outer_iterations=1), changed).images, alone) < 2e-2


@pytest.mark.parametrize("method", LEARNING)
def test_kill_and_resume_are_exact(method: str, tmp_path: Path) -> None:
    def run(checkpoint: Checkpoint | None = None) -> Condensed:
        asked = asked_of(method, "cuda", chunk=10)
        return condense(recipe(method, asked), asked, checkpoint=checkpoint)

    whole = run()
    assert torch.equal(whole.images, run().images), "the same again, on the same GPU"
    for step in (1, 4):
        with pytest.raises(KilledError):
            run(Fragile(tmp_path / str(step), step))
        assert torch.equal(run(Fragile(tmp_path / str(step), 10**6)).images, whole.images)


def test_students_repeat_themselves() -> None:
    data, test = digits().to("cuda"), digits(test=True).to("cuda")

    def scores() -> list[float]:
        rows = evaluate(data, test, {"net": NETWORK}, PROTOCOL, (1, 8, 8), 10, 0)
        return [row["accuracy"] for row in rows]

    assert scores() == scores()
