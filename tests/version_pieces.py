"""Small computations of single components, in float64: the pieces of version_cases.py."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from folders import encoded, prepared
from PIL import Image
from small import NETWORK, digits
from torch import Tensor

from ddlib import nn
from ddlib.augment.mix import cutmix_apply, cutmix_draw
from ddlib.augment.siamese import Augmentation
from ddlib.data.real import RealData, stratified
from ddlib.data.whitening import fit, whitened
from ddlib.nn.functional import functional, matched_names, split
from ddlib.objectives.distances import METRICS, distance
from ddlib.objectives.gradient import match_class, match_features
from ddlib.objectives.trajectory import ENGINES, Batch, Student, Trajectory
from ddlib.objectives.trajectory_matching import batch_rows
from ddlib.sets.optim import ImageSGD, tuned_lr
from ddlib.sets.packing import decode, decode_labels, pack, plan
from ddlib.streams import Batches, Streams

Values = dict[str, Any]


class Exact(RealData):
    """Real data whose pixels are float64."""

    def pixels(self, index: Any) -> Tensor:
        return super().pixels(index).double()


@contextmanager
def in_float64() -> Iterator[None]:
    """New tensors are float64."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def exact() -> Exact:
    data = digits()
    return Exact(**{field.name: getattr(data, field.name) for field in dataclasses.fields(data)})


def ramp(*shape: int) -> Tensor:
    """Fixed numbers in 0-1 without a generator."""
    return (torch.arange(int(np.prod(shape)), dtype=torch.float64) * 0.754877666).frac().reshape(shape)


def network() -> torch.nn.Module:
    """A small network with fixed weights, so that initialisation has no say."""
    net = nn.build({**{k: v for k, v in NETWORK.items() if k != "version"}}, channels=1, size=8, classes=10, seed=0)
    net = net.double()
    for value in net.parameters():
        value.data = (ramp(*value.shape) - 0.5) * 0.6
    return net


def streams() -> Values:
    made = Streams(3, "golden")
    order = Batches(made, "order", 10, 4)
    dropped = Batches(made, "order", 10, 4, True, (2,))
    return {
        "uniform": made.at("a", 1, 2).random(4),
        "normal": made.at("b").standard_normal(3),
        "integer": made.integer("c", 5) % 10**9,
        "batches": np.concatenate(order.batches(1, 4)),
        "dropped": np.concatenate(dropped.batches(1, 3)),
        "until": [order.until(1, 9), dropped.until(0, 9), order.per_pass, dropped.per_pass],
    }


def whitening() -> Values:
    images = ramp(12, 1, 4, 4)
    made = fit(images, 0.1)
    found: Values = {"mean": made.mean, "matrix": made.matrix, "inverse": made.inverse, "pixels": made.apply(images)}
    data = whitened(digits(), fit(digits().images, 0.1, digits().scale))
    return found | {"digits": data.pixels(slice(0, 50)), "ends": [*data.mean, *data.std]}


def data() -> Values:
    real = digits(10**6)
    return {
        "shape": list(real.images.shape),
        "images": real.images.double(),
        "labels": real.labels,
        "test": digits(10**6, test=True).images.double(),
        "normalised": real.normalise(real.pixels(slice(0, 2)).double()),
        "heldout": np.flatnonzero(stratified(np.arange(40) % 4, 0.3, "golden")),
    }


def folder() -> Values:
    """An image folder of working size already: what of it is read, in what order, and what is tested on."""
    with tempfile.TemporaryDirectory() as made:
        for number, name in enumerate("abcd" * 5):
            pixels = np.random.default_rng(number).integers(0, 256, (16, 20, 3), dtype=np.uint8)
            place = Path(made) / "images" / name / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(encoded(Image.fromarray(pixels)))
        spec: dict[str, Any] = {"classes": 3, "class_seed": 4, "test_share": 0.2, "heldout": 0.25, "size": 16}
        train, test = prepared(Path(made), **spec, normalisation="own")
        parts = [data.tensors() | {"ends": torch.tensor(data.mean + data.std)} for data in (train, test)]
        found = {f"{part}_{name}": value.double() for part, own in enumerate(parts) for name, value in own.items()}
        return found | {"classes": [ord(name) for name in train.class_names]}


def packing() -> Values:
    x, labels = ramp(3, 2, 7, 7), torch.arange(3)
    kinds: list[tuple[str, int | None]] = [("single", None), ("multi", None), ("bound", 8)]
    found: Values = {f"decode_{kind}": decode(x, 2, kind, limit) for kind, limit in kinds}
    found |= {f"labels_{kind}": decode_labels(labels, 2, kind, limit) for kind, limit in kinds}
    return found | {"pack": pack(ramp(18, 1, 8, 8), 2, 3), "plan": plan(10, 3, "bound", 40)}


def augment() -> Values:
    found: Values = {}
    x = ramp(4, 3, 8, 8) - 0.5
    for dialect in ("idc", "mtt"):
        augmentation = Augmentation("color_crop_cutout_flip_scale_rotate", dialect)
        drawn = augmentation.draw(np.random.Generator(np.random.Philox(1)), (2,), height=8, width=8, images=4)
        found[f"draws_{dialect}"] = np.concatenate([drawn[key].ravel() for key in sorted(drawn)])
        draws = {key: torch.from_numpy(value[0]) for key, value in drawn.items() if key != "choice"}
        for choice in augmentation.choices:
            found[f"{dialect}_{choice}"] = augmentation.apply(x, draws, choice)
    mix = cutmix_draw(np.random.Generator(np.random.Philox(2)), (3,), batch=4, height=8, width=8, probability=0.7)
    found |= {f"cutmix_{key}": value for key, value in mix.items()}
    return found | {"cutmix": cutmix_apply(x, *(torch.from_numpy(mix[key][0]) for key in ("permutation", "box")))}


def gradient() -> Values:
    net = network()
    params, buffers = split(net)
    call, found = functional(net), dict[str, Any]()
    stored, real = ramp(2, 1, 8, 8), ramp(5, 1, 8, 8).square()
    for metric in METRICS:
        found[metric] = distance(metric, [ramp(3, 4)], [ramp(3, 4).square()])
        for which in ("conv", "all"):
            found[f"{metric}_{which}"] = match_class(
                lambda p, x: call(p, buffers, x), params, matched_names(net, which), lambda x: decode(x, 2), stored,
                real, torch.tensor(1), metric,
            )  # fmt: skip
    maps = match_features(lambda p, x: [x * 2, x.square()], {}, lambda x: x, stored, real, 0, 1)
    return found | {"features": maps}


def trajectory() -> Values:
    net = network()
    (start, buffers), rows = split(net), [torch.tensor(order) for order in ([0, 3, 4], [4, 1, 2], [3, 0, 1])]
    target = {name: value + 0.05 * ramp(*value.shape) for name, value in start.items()}
    images, labels, step_size = ramp(5, 1, 8, 8) * 4 - 2, torch.arange(5), torch.tensor(0.2, dtype=torch.float64)
    augment, draws = Augmentation("scale_flip", "mtt"), {"scale_x": ramp(3), "scale_y": ramp(3), "flip": ramp(3)}
    batches = [Batch(own, draws, choice) for own, choice in zip(rows, ("scale", "flip", "scale"), strict=True)]
    given = Trajectory(start, target, buffers, images, labels, step_size, batches, frozen=2)
    student, shares = Student(functional(net), augment.apply), torch.softmax(4 * ramp(5, 10), 1)
    found: Values = {name: list(engine(student, given)) for name, engine in ENGINES.items()}
    found["soft"] = list(ENGINES["adjoint"](student, dataclasses.replace(given, labels=shares)))
    return found | {"rows": np.concatenate(batch_rows(Streams(3, "golden").at("rows"), 7, 3, 5))}


def optim() -> Values:
    found: Values = {"tuned_lr": [tuned_lr(0.005, 10, 32, 32), tuned_lr(0.005, 1, 8, 8), tuned_lr(0.005, 50, 64, 32)]}
    for sequential in (True, False):
        optimiser = ImageSGD(0.3, 0.5, torch.tensor([0, 0, 1, 3]), 4, sequential)
        x, v = ramp(4, 1, 2, 2), torch.zeros(4, 1, 2, 2, dtype=torch.float64)
        for step in range(3):
            x, v = optimiser.before(x, v)
            x, v = optimiser.after(x, v, ramp(4, 1, 2, 2) - 0.4 - 0.1 * step)
        found[f"sequential_{sequential}"] = (x, v)
    return found


def transfer(architecture: str) -> Values:
    """Networks of transfer, on the smallest images they take and with few maps where they have a width."""
    options: dict[str, dict[str, Any]] = {
        "alexnet": {},
        "vgg": {"norm": "batch"},
        "resnet": {"depth": 10, "width": 4},
        "densenet": {"growth": 2},
        "torchvision": {"name": "shufflenet_v2_x0_5", "dropout": False},
    }
    variants: dict[str, dict[str, Any]] = {"": {}}
    if architecture == "resnet":
        deep = {"depth": 50, "width": 4, "norm": "batch", "initialisation": "fan_out"}
        variants |= {"avg": {"downsampling": "avg", "head": "flatten"}}
        variants |= {"_bottlenecks": deep, "_bottlenecks_avg": {**deep, "norm": "instance", "downsampling": "avg"}}
    size, found = {"alexnet": 8, "vgg": 32, "resnet": 16, "densenet": 8, "torchvision": 32}[architecture], {}
    for name, more in variants.items():
        with in_float64():
            named = {"architecture": architecture, **options[architecture], **more}
            net = nn.build(named, channels=3, size=size, classes=5, seed=7)
            found[f"logits{name}"] = net(ramp(3, 3, size, size))
            found[f"evaluation{name}"] = net.eval()(ramp(3, 3, size, size))
    return found


def convnet() -> Values:
    found = {}
    for norm in ("instance", "batch", "layer", "group", "none"):
        with in_float64():
            options = {"architecture": "convnet", "depth": 2, "width": 4, "norm": norm, "activation": "leakyrelu"}
            net = nn.build(options, channels=3, size=8, classes=5, seed=7)
            found[norm] = net(ramp(3, 3, 8, 8))
            found[f"{norm}_evaluation"] = net.eval()(ramp(3, 3, 8, 8))
    return found
