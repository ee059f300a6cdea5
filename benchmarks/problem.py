"""What is measured: IDC's preset for CIFAR-10 on random images, as the plain formulation and as ddlib run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.plain import Plain, PlainConvNet
from ddlib import presets, registry
from ddlib.data.real import RealData
from ddlib.methods.recipe import Problem, Recipe
from ddlib.objectives.matching import Execution
from ddlib.sets.optim import tuned_lr
from ddlib.train.compiler import forward_flops

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PARTS = ("matching", "network", "inner", "precision", "trajectory")


@dataclass(frozen=True)
class Size:
    """How large the problem is; the defaults are IDC's on CIFAR-10, and a short trajectory of MTT's (student_*)."""

    classes: int = 10
    ipc: int = 10
    side: int = 32
    width: int = 128
    depth: int = 3
    real_batch: int = 64
    network_batch: int = 64
    network_samples: int = 2000
    per_class: int = 200  # random "real" images
    student_steps: int = 6
    student_batch: int = 20


@dataclass(frozen=True)
class Variant:
    """One way to compute it: `code` plain or ddlib, `precision` fp32, tf32 or bf16 (the plain code knows no bf16)."""

    code: str
    precision: str

    @property
    def name(self) -> str:
        """Such as "ddlib bf16"."""
        return f"{self.code} {self.precision}"


def settings(size: Size) -> dict[str, Any]:
    """IDC's preset with the batches of `size`."""
    known = presets.METHOD_SETTINGS["idc"]
    batches = {key: value for key, value in asdict(size).items() if key.startswith(("real_", "network_"))}
    return {**known["default"], **known["cifar10"], **batches}


def random_data(size: Size, device: str) -> RealData:
    """Random bytes in the shape of CIFAR."""
    labels = torch.arange(size.classes).repeat_interleave(size.per_class)
    shape = (len(labels), 3, size.side, size.side)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    names = tuple(f"class {label}" for label in range(size.classes))
    none = torch.zeros(len(labels), dtype=torch.bool)
    return RealData(torch.from_numpy(pixels), labels, names, 255.0, MEAN, STD, False, "random", none).to(device)


def random_images(size: Size, device: str) -> Tensor:
    """Synthetic images to start from, the same for every variant."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(size.classes * size.ipc, 3, size.side, size.side, generator=generator).to(device)


def recipe(size: Size, data: RealData, compile: str = "always", precision: str = "fp32", chunk: int = 0) -> Recipe:
    """ddlib's IDC on `data`; `chunk`: classes matched at once, 0 as it decides itself."""
    network = {"architecture": "convnet", "depth": size.depth, "width": size.width, "norm": "instance", "version": 1}
    execution = Execution(compile, chunk, precision)
    problem = Problem(data, size.ipc, list(range(size.classes)), 0, size.side, network, execution=execution)
    made: Recipe = registry.METHODS["idc"].load()(settings(size), problem)
    return made


def plain(size: Size, data: RealData, params: Mapping[str, Tensor], start: Tensor) -> Plain:
    """The plain formulation on the same data, from the weights `params` and the synthetic images `start`."""
    net = PlainConvNet(3, size.side, size.classes, size.depth, size.width).to(start)
    net.load_state_dict(dict(params))
    mean, std = (torch.tensor(v, device=data.images.device).reshape(1, -1, 1, 1) for v in (MEAN, STD))
    images = list(data.pixels(slice(None)))
    used = settings(size)
    lr = tuned_lr(used["image_lr"], size.ipc, size.side, size.side)
    return Plain(used, images, data.labels.tolist(), mean, std, net, start, lr)


def flops(size: Size, part: str) -> float:
    """Floating-point operations of a class matched, a network step, or an inner iteration.

    With F those of the convolutions and linear layers in one forward of an image: a gradient costs 3 F an image, the
    gradient of the distance of a gradient 9 F (three times a gradient). The same count for both formulations.
    """
    one: float = forward_flops(
        PlainConvNet(3, size.side, size.classes, size.depth, size.width), (3, size.side, size.side)
    )
    used = settings(size)
    synthetic = min(size.ipc * used["factor"] ** 2, used["synthetic_batch"])
    matched, step = one * (3 * size.real_batch + 9 * synthetic), one * 3 * size.network_batch
    if part == "inner":
        return float(size.classes * matched + network_steps(size) * step)
    return float(matched if part == "matching" else step)


def network_steps(size: Size) -> int:
    """Steps of the network between two rounds of matching."""
    return -(-size.network_samples // size.network_batch)


def image_gradient(size: Size, device: str, compile: str, precision: str) -> Tensor:
    """ddlib's gradient of the synthetic images in the first step, float64 [N, C, H, W]."""
    objective = recipe(size, random_data(size, device), compile, precision, int(compile == "never")).objective
    assert objective is not None
    learned = {"images": random_images(size, device)}
    return objective.gradient(learned, objective.begin(0, 0), 0)[1]["images"].double()


def calls(size: Size, variant: Variant, device: str, compile: str = "always") -> dict[str, Callable[[], object]]:
    """part -> a call that computes it once: a round of matching (all classes), the network's steps, or both."""
    data = random_data(size, device)
    ours = recipe(size, data, compile if variant.code == "ddlib" else "never", variant.precision)
    assert ours.objective is not None
    objective, optimiser, begun = ours.objective, ours.optimisers["images"], ours.objective.begin(0, 0)
    if variant.code == "plain":
        theirs = plain(size, data, begun.network.params, random_images(size, device))
        return {
            "matching": theirs.matching,
            "network": theirs.training,
            "inner": lambda: (theirs.matching(), theirs.training()),
        }
    images = random_images(size, device)
    still = torch.zeros_like(images)

    def inner() -> object:
        x, v = optimiser.before(images, still)
        loss, gradients = objective.gradient({"images": x}, begun, 0)
        return loss, optimiser.after(x, v, gradients["images"]), objective.advance(begun)

    return {
        "matching": lambda: objective.gradient({"images": images}, begun, 0),
        "network": lambda: objective.advance(begun),
        "inner": inner,
    }
