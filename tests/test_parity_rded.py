"""How RDED's students are trained against golden numbers of its official code; every draw is injected."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from parity import count, error, load, network, our_name, tensor, weights
from torch import Tensor

from ddlib import presets_students
from ddlib.augment.mix import cutmix_apply, cutmix_boxes, cutmix_ratio, mixup_apply
from ddlib.augment.showing import Drawing, Replay
from ddlib.augment.siamese import Augmentation
from ddlib.nn.functional import functional, split
from ddlib.protocol_settings import resolve, student_protocol
from ddlib.streams import Streams
from ddlib.train.adam import decays
from ddlib.train.evaluate import Labelled
from ddlib.train.loop import Learning, Observe, State, Trainer
from ddlib.train.losses import taught_loss
from ddlib.train.schedules import curved

PARTS, STEPS = load("rded_train_parts"), load("rded_train_steps")
SOURCES = {"tinyimagenet": "tiny_imagenet", "imagenet-nette": "imagenette", "imagenet-100": "imagenet100"}
SOURCES |= {"imagenet-1k": "imagenet1k", "imagenet-10": "imagenet10"}
STUDENTS: dict[str, dict[str, Any]] = {
    "conv3": {"architecture": "convnet", "depth": 3, "norm": "batch"},
    "conv5": {"architecture": "convnet", "depth": 5, "norm": "batch"},
    "resnet18": {"architecture": "resnet", "depth": 18, "norm": "batch"},
    "mobilenet_v2": {"architecture": "torchvision", "name": "mobilenet_v2"},
}


@pytest.mark.parametrize("case", count("rded_train_parts", "n_mix"))
def test_mixed_images(case: int) -> None:
    prefix = f"cutmix{case}_"
    x, perm = tensor(PARTS[f"{prefix}x"]), tensor(PARTS[f"{prefix}perm"])
    box = cutmix_boxes(PARTS[f"{prefix}lam"], *PARTS[f"{prefix}centre"], *x.shape[2:])
    assert box.tolist() == PARTS[f"{prefix}box_r0_c0_r1_c1"].tolist()
    assert error(cutmix_apply(x, perm, tensor(box)), PARTS[f"{prefix}out"]) == 0
    assert error(mixup_apply(x, perm, tensor(PARTS[f"{prefix}lam"])), PARTS[f"mixup{case}_out"]) < 1e-15


def test_rates() -> None:
    for total in PARTS["lr_epoch_totals"].tolist():
        for kind in ("half_cosine", "linear"):
            ours = [curved(kind, epoch, total) for epoch in range(total + 1)]
            assert ours == pytest.approx(PARTS[f"lr_factor_{kind}_E{total}"].tolist(), abs=1e-12)
    assert curved("cosine", 3, 4) == pytest.approx(0.5 * (1 + np.cos(np.pi * 0.75)), abs=1e-15)


def test_loss_and_its_gradient() -> None:
    said, temperature = tensor(PARTS["kl_teacher_logits"]), float(PARTS["kl_temperature"])
    logits, ratio = tensor(PARTS["kl_student_logits"]).requires_grad_(), torch.ones(())
    loss = taught_loss("kl", logits, said, None, ratio, temperature)
    assert error(loss, PARTS["kl_loss"]) < 1e-12
    (grad,) = torch.autograd.grad(loss, logits)
    assert error(grad, PARTS["kl_grad_student_logits"]) < 1e-12
    squared = taught_loss("kl_t2", logits, said, None, ratio, temperature)
    assert float(squared.detach()) == pytest.approx(float(PARTS["kl_loss"]) * temperature**2, rel=1e-12)


@pytest.mark.parametrize("place", range(len(PARTS["decay_groups_model"])))
def test_what_decays(place: int) -> None:
    from torchvision import models

    from ddlib.nn.convnet import ConvNet

    name = str(PARTS["decay_groups_model"][place])
    classes, *counts = PARTS["decay_groups_classes_ntensorDecay_ntensorPlain_numelDecay_numelPlain"][place].tolist()
    if name.startswith("conv"):
        depth = int(name[-1])
        net: torch.nn.Module = ConvNet(3, 8 * 2 ** (depth - 1), classes, depth=depth, width=128, norm="batch")
    else:
        net = getattr(models, name.split("_small")[0])(num_classes=classes)
        if "small_stem" in name:
            net.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for key, value in split(net)[0].items():
        groups[decays(key, value)].append(value)
    sizes = [sum(value.numel() for value in groups[kind]) for kind in (True, False)]
    assert [len(groups[True]), len(groups[False]), *sizes] == counts


@pytest.mark.parametrize("place", range(len(PARTS["settings_subset_observer_student_mix"])))
def test_settings(place: int) -> None:
    subset, observer, student, mix = str(PARTS["settings_subset_observer_student_mix"][place]).split("|")
    row = PARTS["settings_ipc_classes_size_valipc_batch_lr_temp_wd"][place].tolist()
    ipc, classes, _, _, batch, lr, temperature, decay = row
    dataset = {"source": SOURCES.get(subset, subset), "classes": int(classes)}
    protocol = {**presets_students.PROTOCOLS["rded"], "mix": mix}
    found = resolve(protocol, dataset, int(ipc), {"s": STUDENTS[student]}, STUDENTS[observer])
    own = student_protocol(found, "s")
    assert [own[key] for key in ("batch", "lr", "temperature", "weight_decay")] == [batch, lr, temperature, decay]
    assert own["mix_beta"] == {"cutmix": 1.0, "mixup": 0.8}[mix]
    assert own["epochs"] == 300


def golden_state(prefix: str) -> dict[str, Tensor]:
    """Parameters and statistics stored under a prefix, by our names."""
    held = weights(STEPS, prefix)
    for key, value in STEPS.items():
        if key.startswith(prefix) and "_running_" in key:
            layer, _, part = key.removeprefix(prefix).partition("_running_")
            held[our_name(f"{layer}_w").replace("weight", f"running_{part}")] = tensor(value)
    return held


@functools.cache
def asked() -> tuple[Observe, torch.nn.Module]:
    """The golden teacher in evaluation mode, and the student it teaches."""
    size = STEPS["x"].shape[-1]
    teacher = network(weights(STEPS, "teacher_"), size, "batch")
    teacher.load_state_dict(golden_state("teacher_"))
    params, buffers = split(teacher)
    call = functional(teacher.eval())
    return lambda x: call(params, buffers, x), network(weights(STEPS, "student0_"), size, "batch")


@pytest.mark.parametrize("way", ["online", "recorded"])
def test_three_steps(way: str) -> None:
    """By the product's own loop: CutMix, the teacher's labels, AdamW, statistics that move twice."""
    teacher, student = asked()
    x, perm = tensor(STEPS["x"]), STEPS["perm"]
    steps, batch = x.shape[:2]
    settings = {
        **presets_students.PROTOCOLS["rded"],
        "augment": "none",
        "dialect": "idc",
        "mix_beta": 1.0,
        "bn_twice": True,
    }
    settings |= {key: float(STEPS[key]) for key in ("lr", "temperature", "weight_decay")} | {"batch": batch}
    source = Labelled(x.flatten(0, 1), tensor(STEPS["y_unused_in_loss"]).flatten(), (0.0,) * 3, (1.0,) * 3)
    boxes = cutmix_boxes(STEPS["lam"], *STEPS["centre"].T, *x.shape[-2:])
    ratio = tensor(cutmix_ratio(boxes, *x.shape[-2:]))
    drawing = Drawing({}, {"box": tensor(boxes), "permutation": tensor(perm), "ratio": ratio}, [None] * steps)
    torch.set_default_dtype(torch.float64)
    try:
        trainer = Trainer(student, Learning.of(settings), source, Streams(0, "t"), "student")
        mixed = torch.stack([cutmix_apply(x[i], tensor(perm[i]), tensor(boxes[i])) for i in range(steps)])
        assert error(mixed, STEPS["mixed"]) == 0
        replay = Replay(drawing, torch.cat([teacher(each) for each in mixed]))
        trainer._draw = lambda steps, index: drawing  # type: ignore[method-assign]
        trainer = trainer.on(source, teacher=teacher if way == "online" else None)
        batches = list(np.arange(steps * batch).reshape(steps, batch))
        losses: list[Tensor] = []
        own = trainer.step
        trainer.step = lambda *given: (out := own(*given), losses.append(out[1]))[0]
        state, _ = trainer.run(State.of(student, "adamw"), batches, (0,), replay=replay if way == "recorded" else None)
    finally:
        torch.set_default_dtype(torch.float32)
    assert error(torch.stack(losses), STEPS["losses"]) < 1e-8
    for name, value in golden_state("student_final_").items():
        assert error({**state.params, **state.buffers}[name], value) < 1e-8, name


def test_the_recipe_shows_what_the_official_code_shows() -> None:
    found = resolve(presets_students.PROTOCOLS["rded"], {"source": "imagenette", "classes": 10}, 10, {})
    learning = Learning.of(found, grid=2)
    assert learning.augment == Augmentation("shuffle_resized_flip", "crops", 2)
    assert Learning.of(found).augment.grid == 1
    drawn = learning.augment.draw(np.random.default_rng(0), (50,), height=64, width=64, images=20)
    share = drawn["box"][..., 2] * drawn["box"][..., 3] / 64**2
    assert 0.48 < share.min() < 0.52
    assert {tuple(order) for order in drawn["columns"].reshape(-1, 2)} == {(0, 1), (1, 0)}
    whole = Learning.of(found).augment.draw(np.random.default_rng(0), (3,), height=32, width=32, images=4)
    assert set(whole) == {"flip"}, "factor 1: flips and CutMix alone"
