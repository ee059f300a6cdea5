"""Weights from local files: published checkpoints and safetensors, what they are called there, and what is refused."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ddlib.artifacts import ArtifactError
from ddlib.nn import build
from ddlib.nn.functional import split
from ddlib.nn.weights import fit_weights, residual_name, state_of
from ddlib.weights import load_weights

CONVNET = {"architecture": "convnet", "depth": 2, "width": 4, "norm": "batch"}


def network(classes: int = 5, seed: int = 0, **over: Any) -> nn.Module:
    return build({**CONVNET, **over}, channels=3, size=8, classes=classes, seed=seed)


def state(net: nn.Module) -> dict[str, Tensor]:
    params, buffers = split(net)
    return {**params, **buffers}


def is_that(loaded: tuple[dict[str, Tensor], dict[str, Tensor]], trained: nn.Module) -> None:
    params, buffers = loaded
    wanted = split(trained)
    for found, theirs in zip((params, buffers), wanted, strict=True):
        assert list(found) == list(theirs)
        assert all(torch.equal(found[name], value) for name, value in theirs.items())


def wrapped(how: str, held: dict[str, Tensor]) -> Any:
    """A checkpoint as others write it."""
    if how == "bare":
        return OrderedDict(held)
    if how == "rded":  # torchvision's references: with the optimiser's state and the options
        tracked = {**held, "layers.norm.0.num_batches_tracked": torch.tensor(7)}
        options = argparse.Namespace(lr=0.1, model="conv3", milestones=[1, 2])
        optimiser = {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
        return {"model": tracked, "optimizer": optimiser, "epoch": 300, "args": options}
    if how == "sre2l":
        return {"state_dict": {f"module.{name}": value for name, value in held.items()}, "acc": 78.7, "epoch": 199}
    return {"net": {f"_orig_mod.{name}": value for name, value in held.items()}}


@pytest.mark.parametrize("how", ["bare", "rded", "sre2l", "compiled"])
def test_published_checkpoints_are_read(how: str, tmp_path: Path) -> None:
    trained, net = network(seed=1), network(seed=2)
    before = state(net)
    torch.save(wrapped(how, state(trained)), tmp_path / "weights.pth")
    is_that(load_weights(tmp_path / "weights.pth", net), trained)
    assert all(torch.equal(value, before[name]) for name, value in state(net).items()), "the network is left alone"


def test_safetensors_are_read(tmp_path: Path) -> None:
    trained = network(seed=1)
    save_file(state(trained), tmp_path / "weights.safetensors")
    is_that(load_weights(tmp_path / "weights.safetensors", network()), trained)


def test_half_precision_becomes_the_networks(tmp_path: Path) -> None:
    trained = network(seed=1).half()
    save_file(state(trained), tmp_path / "weights.safetensors")
    params, _ = load_weights(tmp_path / "weights.safetensors", network())
    assert {value.dtype for value in params.values()} == {torch.float32}


def test_torchvisions_networks_have_torchvisions_names() -> None:
    named = {"architecture": "torchvision", "name": "shufflenet_v2_x0_5"}
    trained = build(named, channels=3, size=32, classes=4, seed=1)
    theirs = {name.removeprefix("net."): value for name, value in state(trained).items()}
    is_that(fit_weights(theirs, build(named, channels=3, size=32, classes=4, seed=2)), trained)


def test_names_of_residual_networks() -> None:
    for theirs, ours in (
        ("conv1.weight", "stem.conv.weight"),
        ("bn1.running_mean", "stem.norm.running_mean"),
        ("layer0.bn1.bias", "stem.norm.bias"),
        ("layer2.0.conv1.weight", "stages.1.0.conv1.weight"),
        ("layer3.5.bn3.running_var", "stages.2.5.norm3.running_var"),
        ("layer4.0.downsample.0.weight", "stages.3.0.shortcut.conv.weight"),
        ("layer4.0.downsample.1.bias", "stages.3.0.shortcut.norm.bias"),
        ("layer4.0.downsample.2.bias", "stages.3.0.shortcut.norm.bias"),
        ("fc.bias", "classifier.bias"),
    ):
        assert residual_name(theirs) == ours


def test_the_head_is_cut_to_the_classes_that_are_named(tmp_path: Path) -> None:
    trained = network(classes=12, seed=1)
    torch.save({"model": state(trained)}, tmp_path / "weights.pth")
    net = network(classes=3)
    params, _ = load_weights(tmp_path / "weights.pth", net, rows=[7, 0, 11])
    for name in ("classifier.weight", "classifier.bias"):
        assert torch.equal(params[name], trained.get_parameter(name)[[7, 0, 11]])
    assert torch.equal(params["layers.conv.0.weight"], trained.get_parameter("layers.conv.0.weight"))
    said = r"weights.pth: it tells 12 classes apart, the network 3\. Say which"
    with pytest.raises(ValueError, match=said):
        load_weights(tmp_path / "weights.pth", net)
    for rows in ([0, 1], [0, 1, 12], [0, 1, 1], [0, 1, -1]):
        with pytest.raises(ValueError, match="rows must be 3 different ones of its 12 outputs"):
            load_weights(tmp_path / "weights.pth", net, rows=rows)


def test_a_head_of_as_many_classes_can_be_put_in_order() -> None:
    trained = network(classes=3, seed=1)
    params, _ = fit_weights(state(trained), network(classes=3), rows=[2, 0, 1])
    assert torch.equal(params["classifier.bias"], trained.get_parameter("classifier.bias")[[2, 0, 1]])


@pytest.mark.parametrize("change, said", [
    (lambda held: {**held, "classifier.bias": held["classifier.bias"][:4]}, "tells 4 classes apart, the network 5"),
    (lambda held: {**held, "layers.conv.0.weight": torch.zeros(4, 1, 3, 3)},
     r"1 of its tensors have other shapes, .* layers.conv.0.weight: \(4, 1, 3, 3\), the network's is \(4, 3, 3, 3\)"),
    (lambda held: {**held, "more.weight": torch.zeros(1)}, "without nothing else; with more.weight"),
    (lambda held: {name: value for name, value in held.items() if "running" not in name},
     "no checkpoint of this ConvNet: without layers.norm.0.running_mean.* and 1 more"),
    (lambda held: {**held, "layers.norm.0.bias": torch.full((4,), float("nan"))}, "numbers that are none in layers"),
    (lambda held: {"model": {"weights": held}}, "holds no weights of one network.*holds: model"),
    (lambda held: {"args": {}, "epoch": 3}, "holds no weights of one network"),
    (lambda held: [held], "it holds: list"),
    (lambda held: {}, "holds no weights"),
])  # fmt: skip
def test_what_are_no_weights_of_the_network(change: Any, said: str, tmp_path: Path) -> None:
    torch.save(change(state(network(seed=1))), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"weights.pth: .*{said}"):
        load_weights(tmp_path / "weights.pth", network())


def test_a_convnet_of_another_image_size_is_refused() -> None:
    other = build(CONVNET, channels=3, size=16, classes=5, seed=0)
    with pytest.raises(ValueError, match=r"other shapes, such as classifier.weight.*another image size"):
        fit_weights(state(other), network())


class Unknown:
    """Something a checkpoint has no business to hold."""


def test_a_pickle_of_other_things_is_refused_and_the_way_to_convert_it_works(tmp_path: Path) -> None:
    trained, path = network(seed=1), tmp_path / "weights.pth"
    torch.save({"model": state(trained), "best": Unknown()}, path)
    with pytest.raises(ArtifactError, match=r"can run any code.*To convert a file that you trust") as refused:
        load_weights(path, network())
    command = re.search(r'python -c "(.*)"', str(refused.value))
    assert command is not None
    known = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_weights; "
    subprocess.run([sys.executable, "-c", known + command[1]], check=True, capture_output=True, timeout=120)
    is_that(load_weights(tmp_path / "weights.safetensors", network()), trained)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "junk.pth").write_bytes(b"no checkpoint")
    (tmp_path / "junk.safetensors").write_bytes(b"no tensors")
    for name, said in (
        ("junk.pth", "junk.pth is (damaged|no file of torch.save)"),
        ("junk.safetensors", "junk.safetensors is damaged, or no safetensors file"),
        ("none.pth", "none.pth does not exist. Name a file of weights"),
    ):
        with pytest.raises(ArtifactError, match=said):
            load_weights(tmp_path / name, network())


def test_names_without_a_shell_are_left_alone() -> None:
    held = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert set(state_of(held)) == {"module.a", "b"}
