"""Networks of transfer and residual networks: golden numbers, counts of parameters, sizes, their functional form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from parity import Arrays, count, error, gradient_error, load, tensor
from torch import Tensor, nn

from ddlib import presets, registry
from ddlib.nn import alexnet, build, resnet, vgg
from ddlib.nn.functional import functional, functional_features, matched_names, split, with_statistics
from ddlib.nn.resnet import ResNet
from ddlib.objectives.gradient import match_class
from ddlib.train.compiler import forward_flops
from ddlib.train.losses import cross_entropy

GOLDEN = 0x9E3779B97F4A7C15


def formula(many: int, place: int, seed: int) -> np.ndarray:
    """float64 [many] in -1 to 1: entries of a tensor made by formula (see "Formula weights" in their description)."""
    with np.errstate(over="ignore"):
        z = np.arange(many, dtype=np.uint64) + np.uint64((place << 32) % 2**64)
        z = z + np.uint64(seed * GOLDEN % 2**64) + np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1


def our_name(name: str) -> str:
    """`stage2.0.conv1.weight` -> `stages.1.0.conv1.weight`, `fc.weight` -> `classifier.weight`."""
    if name.startswith("stage"):
        number, rest = name.removeprefix("stage").split(".", 1)
        return f"stages.{int(number) - 1}.{rest}"
    return name.replace("fc.", "classifier.")


def formula_weights(data: Arrays, prefix: str) -> dict[str, Tensor]:
    """The weights a golden network has, by our names, in golden order."""
    held, seed = {}, int(data[f"{prefix}hash_seed"])
    facts = (data[f"{prefix}param_{what}"].tolist() for what in ("names", "shapes", "base", "amp"))
    for place, (name, padded, base, amp) in enumerate(zip(*facts, strict=True)):
        shape = [length for length in padded if length]
        held[our_name(str(name))] = tensor(base + amp * formula(int(np.prod(shape)), place, seed)).reshape(shape)
    first = next(iter(held.values())).flatten()[:8]
    if f"{prefix}param0_first8" in data:
        assert error(first, data[f"{prefix}param0_first8"]) < 1e-12
    return held


def golden_network(weights: dict[str, Tensor], size: int, **options: Any) -> ResNet:
    stem, classes = weights["stem.conv.weight"], weights["classifier.bias"].shape[0]
    depth = 18 if "stages.0.1.conv1.weight" in weights else 10
    net = ResNet(stem.shape[1], size, classes, depth, stem.shape[0], **options).double()
    missing = net.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    assert all("running" in name for name in missing.missing_keys)
    return net


def agrees(data: Arrays, prefix: str, net: nn.Module, weights: dict[str, Tensor], logits_name: str) -> None:
    """Logits, loss, gradients and logits in evaluation mode are the golden ones."""
    seed, shape = int(data[f"{prefix}hash_seed"]), data[f"{prefix}x_shape"].tolist()
    x = tensor(1.5 * formula(int(np.prod(shape)), 10000, seed)).reshape(shape).requires_grad_()
    logits = net(x)
    assert error(logits, data[f"{prefix}{logits_name}"]) < 1e-8
    loss = cross_entropy(logits, tensor(data[f"{prefix}y"]))
    assert error(loss, data[f"{prefix}loss"]) < 1e-8
    grads = torch.autograd.grad(loss, [x, *(net.get_parameter(name) for name in weights)])
    assert error(grads[0].norm(), data[f"{prefix}grad_x_norm"]) < 1e-8
    norms = torch.stack([grad.norm() for grad in grads[1:]])
    shifted = [
        (grad.flatten() @ tensor(formula(grad.numel(), i, seed + 500))).item() for i, grad in enumerate(grads[1:])
    ]
    assert error(norms, data[f"{prefix}grad_norms"]) < 1e-8
    assert error(tensor(np.array(shifted)), data[f"{prefix}grad_projections"]) < 1e-8
    if f"{prefix}grad_x_mean_over_channel_row" in data:
        assert gradient_error(grads[0].mean((1, 2)), data[f"{prefix}grad_x_mean_over_channel_row"]) < 1e-8
    if f"{prefix}logits_eval_after" in data:
        assert error(net.eval()(x), data[f"{prefix}logits_eval_after"]) < 1e-8


@pytest.mark.parametrize("case", count("resnets_formula", "n_net"))
def test_residual_networks_are_those_of_the_papers(case: int) -> None:
    data, prefix = load("resnets_formula"), f"net{case}_"
    weights = formula_weights(data, prefix)
    downsampling = "avg" if str(data[f"{prefix}kind"]) == "resnet_avgpool" else "stride"
    small = str(data[f"{prefix}family"]) == "cifar"
    options = {"norm": str(data[f"{prefix}norm"]), "downsampling": downsampling, "stem": "3x3" if small else "auto"}
    net = golden_network(weights, int(data[f"{prefix}size"]), **options)
    agrees(data, prefix, net, weights, "logits")


def test_resnet18_of_32_px_with_batch_norm() -> None:
    data, prefix = load("rded_networks_formula"), "net0_"
    weights = formula_weights(data, prefix)
    net = golden_network(weights, int(data[f"{prefix}size"]), norm="batch")
    assert sum(value.numel() for value in net.parameters()) == int(data[f"{prefix}n_parameters"])
    agrees(data, prefix, net, weights, "logits_train")


@pytest.mark.parametrize("metric", ["mse", "l1"])
def test_gradients_of_residual_networks_are_matched_to_the_second_derivative(metric: str) -> None:
    data = load("idc_matching")
    net = golden_network(formula_weights(data, "resap_"), int(data["resap_size"]), downsampling="avg")
    params, buffers = split(net)
    call = functional(net)
    loss, grad = match_class(
        lambda held, x: call(held, buffers, x), params, matched_names(net, "conv"), lambda x: x,
        tensor(data["resap_x_syn"]), tensor(data["resap_x_real"]), tensor(data["resap_label"]), metric,
    )  # fmt: skip
    assert float(loss) == pytest.approx(float(data[f"resap_{metric}_loss"]), rel=1e-8)
    assert gradient_error(grad, data[f"resap_{metric}_grad"]) < 1e-8


AP = {"downsampling": "avg", "head": "flatten"}


@pytest.mark.parametrize("network, channels, size, classes, parameters", [
    ({"architecture": "alexnet"}, 3, 32, 10, 1_872_202),
    ({"architecture": "alexnet"}, 1, 28, 10, 1_865_802),
    ({"architecture": "vgg"}, 3, 32, 10, 9_231_114),
    ({"architecture": "vgg", "norm": "none"}, 3, 32, 10, 9_231_114 - 5_504),
    ({"architecture": "vgg"}, 1, 28, 10, 9_231_114 - 1_152),
    ({"architecture": "resnet"}, 3, 32, 10, 11_173_962),
    ({"architecture": "resnet"}, 3, 32, 100, 11_220_132),
    ({"architecture": "resnet", "norm": "batch"}, 3, 32, 10, 11_173_962),
    ({"architecture": "resnet", **AP}, 3, 32, 10, 11_173_962 + 15 * 512 * 10),
])  # fmt: skip
def test_counts_of_parameters(network: Any, channels: int, size: int, classes: int, parameters: int) -> None:
    net = build(network, channels=channels, size=size, classes=classes, seed=0)
    assert sum(value.numel() for value in net.parameters()) == parameters
    with torch.no_grad():
        assert net.eval()(torch.randn(2, channels, size, size)).shape == (2, classes)


SMALL: list[tuple[dict[str, Any], int]] = [
    ({"architecture": "alexnet"}, 8),
    ({"architecture": "alexnet"}, 13),
    ({"architecture": "vgg"}, 32),
    ({"architecture": "vgg", "norm": "batch"}, 37),
    ({"architecture": "resnet", "depth": 10, "width": 4}, 16),
    ({"architecture": "resnet", "depth": 10, "width": 4, "norm": "batch"}, 19),
    ({"architecture": "resnet", "depth": 10, "width": 4, "norm": "layer"}, 21),
    ({"architecture": "resnet", "depth": 18, "width": 4, "norm": "layer", **AP}, 24),
    ({"architecture": "resnet", "depth": 10, "width": 4, "norm": "group", "stem": "3x3_pool", **AP}, 35),
    ({"architecture": "resnet", "depth": 10, "width": 4, "norm": "none", "stem": "7x7_pool"}, 50),
]


@pytest.mark.parametrize("network, size", SMALL, ids=str)
def test_networks_are_functions_of_their_weights(network: dict[str, Any], size: int) -> None:
    net = build(network, channels=1, size=size, classes=4, seed=3).double()
    x = torch.randn(3, 1, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    params, buffers = split(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    logits, after = with_statistics(net)(params, buffers, x)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()), "left as it was"
    assert all(not torch.equal(value, buffers[name]) for name, value in after.items())
    assert bool(after) is (network.get("norm") == "batch")
    assert len({tuple(row) for row in logits.tolist()}) == 3, "images are told apart"
    assert torch.allclose(net(x), logits, rtol=0, atol=1e-12)
    grads = torch.func.grad(lambda held: functional(net)(held, buffers, x).square().sum())(params)
    assert all(bool(grad.isfinite().all()) for grad in grads.values())
    maps = functional_features(net)(params, buffers, x)
    flat = maps[-1].flatten(1) if net.get_parameter("classifier.weight").shape[1] == maps[-1][0].numel() else None
    pooled = maps[-1].mean((2, 3)) if flat is None else flat
    layer = net.get_submodule("classifier")
    assert torch.allclose(layer(pooled), logits, rtol=0, atol=1e-12)
    assert set(matched_names(net, "conv")) == {name for name, value in params.items() if value.ndim == 4}
    evaluated = functional(net.eval())(params, after, x)
    assert torch.allclose(evaluated[:1], functional(net)(params, after, x[:1]), rtol=0, atol=1e-12)
    assert forward_flops(net.float(), (1, size, size)) > 0


@pytest.mark.parametrize("network, size, message", [
    ({"architecture": "alexnet"}, 7, "images of 7 px are too small, 8 px is the least"),
    ({"architecture": "vgg"}, 8, "images of 8 px are too small, 32 px is the least"),
    ({"architecture": "vgg", "depth": 12}, 32, "a VGG has depth 11, 13, 16, 19, not 12"),
    ({"architecture": "vgg", "norm": "instnce"}, 32, "did you mean 'instance'"),
    ({"architecture": "resnet"}, 8, "images of 8 px have maps of 1 x 1 in stage 4 .* of at least 9 px"),
    ({"architecture": "resnet", **AP}, 15, "maps of 1 x 1 in stage 4 .* of at least 16 px"),
    ({"architecture": "resnet", "stem": "3x3_pool"}, 16, "maps of 1 x 1 in stage 4"),
    ({"architecture": "resnet", "depth": 34}, 32, "a residual network has depth 10, 18, 50, 101, not 34"),
    ({"architecture": "resnet", "stem": "3x"}, 32, "no stem is called '3x'"),
    ({"architecture": "resnet", "downsampling": "avgg"}, 32, "did you mean 'avg'"),
    ({"architecture": "resnet", "head": "flat"}, 32, "did you mean 'flatten'"),
    ({"architecture": "resnet", "width": 0}, 32, "width are at least 1"),
    ({"architecture": "resnt"}, 32, "did you mean 'resnet'"),
    ({"architecture": "alexnet", "norm": "batch"}, 32, "alexnet has no option 'norm'"),
])  # fmt: skip
def test_what_cannot_be_built_says_why(network: dict[str, Any], size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(network, channels=3, size=size, classes=10, seed=0)


def test_the_smallest_images_of_the_registry_are_the_smallest() -> None:
    for name, entry in registry.NETWORKS.items():
        if least := entry.facts.get("smallest"):
            build({"architecture": name}, channels=3, size=least, classes=2, seed=0)
            with pytest.raises(ValueError, match=f"images of {least - 1} px .*{least} px"):
                build({"architecture": name}, channels=3, size=least - 1, classes=2, seed=0)


def test_presets_are_the_defaults_and_choices_those_of_the_modules() -> None:
    import inspect

    for name, module in (("alexnet", alexnet.AlexNet), ("vgg", vgg.VGG), ("resnet", resnet.ResNet)):
        found = {key: value.default for key, value in inspect.signature(module).parameters.items()}
        own = {key: value for key, value in found.items() if value is not inspect.Parameter.empty}
        assert own == {**presets.NETWORK_DEFAULTS[name], **presets.NETWORK_OPTIONS.get(name, {})}
    assert presets.CHOICES["stem"] == resnet.STEMS
    assert presets.CHOICES["downsampling"] == resnet.DOWNSAMPLINGS
    assert presets.CHOICES["head"] == resnet.HEADS
    assert presets.CHOICES["initialisation"] == resnet.INITIALISATIONS
