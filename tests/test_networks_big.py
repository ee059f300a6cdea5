"""Large networks: residual with bottlenecks, DenseNet, torchvision's by name; counts, functional form, matching."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models as models
from parity import error, load, our_name
from test_transfer_nets import agrees, formula_weights
from torch import Tensor, nn

from ddlib import presets, registry
from ddlib.nn import build, densenet, zoo
from ddlib.nn.chance import has_dropout
from ddlib.nn.convnet import ConvNet
from ddlib.nn.functional import functional, functional_features, matched_names, split, with_statistics
from ddlib.nn.norm import BatchNorm, frozen_statistics, replace_batch_norm
from ddlib.objectives.gradient import match_class
from ddlib.train.compiler import forward_flops

AP = {"architecture": "resnet", "depth": 10, "downsampling": "avg", "initialisation": "fan_out"}
BATCH = {"architecture": "resnet", "norm": "batch"}
CONV = {"architecture": "convnet", "norm": "batch"}
MOBILE = {"architecture": "torchvision", "name": "mobilenet_v2"}
EFFICIENT = {"architecture": "torchvision", "name": "efficientnet_b0"}


@pytest.mark.parametrize("network, size, classes, parameters", [
    (AP, 224, 10, 4_910_922),
    (AP, 224, 100, 4_957_092),
    ({**AP, "width": 32}, 32, 10, 1_228_970),
    ({**AP, "width": 32, "downsampling": "stride", "norm": "batch"}, 32, 10, 1_228_970),
    ({**BATCH, "depth": 10, "stem": "7x7_pool"}, 224, 10, 4_910_922),
    ({**BATCH, "depth": 10, "stem": "3x3"}, 64, 10, 4_903_242),
    ({**BATCH, "depth": 18}, 224, 10, 11_181_642),
    ({**BATCH, "depth": 18}, 224, 1000, 11_689_512),
    ({**BATCH, "depth": 18}, 64, 200, 11_271_432),
    ({**BATCH, "depth": 50}, 224, 1000, 25_557_032),
    ({**BATCH, "depth": 101}, 224, 1000, 44_549_160),
    ({"architecture": "densenet"}, 32, 10, 1_000_618),
    (MOBILE, 224, 1000, 3_504_872),
    (EFFICIENT, 224, 1000, 5_288_548),
    ({"architecture": "torchvision", "name": "resnet18", "small_stem": True}, 32, 10, 11_173_962),
    ({"architecture": "torchvision", "name": "resnet18", "small_stem": True}, 32, 100, 11_220_132),
    ({**CONV, "depth": 3}, 32, 10, 320_010),
    ({**CONV, "depth": 4}, 64, 200, 857_160),
    ({**CONV, "depth": 4}, 64, 1000, 2_496_360),
    ({**CONV, "depth": 5}, 128, 10, 615_690),
    ({**CONV, "depth": 5}, 224, 10, 657_930),
    ({**CONV, "depth": 6}, 128, 100, 794_340),
])  # fmt: skip
def test_counts_of_parameters(network: dict[str, Any], size: int, classes: int, parameters: int) -> None:
    net = build(network, channels=3, size=size, classes=classes, seed=0)
    assert sum(value.numel() for value in net.parameters()) == parameters


def test_what_matching_compares_is_what_the_papers_compare() -> None:
    for network, size, tensors, entries in (
        (AP, 224, 12, 4_900_032),
        ({**AP, "width": 32}, 32, 12, 1_223_520),
        ({**BATCH, "depth": 18}, 224, 20, None),
        ({"architecture": "densenet"}, 32, 120, None),
    ):
        net = build(network, channels=3, size=size, classes=10, seed=0)
        names = matched_names(net, "conv")
        assert len(names) == tensors
        if entries:
            assert sum(net.get_parameter(name).numel() for name in names) == entries


@pytest.mark.parametrize("case", [1, 2])
def test_convnets_of_rded_are_ours_with_batch_norm(case: int) -> None:
    data, prefix = load("rded_networks_formula"), f"net{case}_"
    weights = {our_name(name): value for name, value in formula_weights(data, prefix).items()}
    size, classes = int(data[f"{prefix}size"]), int(data[f"{prefix}classes"])
    depth = int(str(data[f"{prefix}kind"]).removeprefix("conv"))
    net = ConvNet(3, size, classes, depth=depth, norm="batch").double()
    missing = net.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    assert all("running" in name for name in missing.missing_keys)
    assert sum(value.numel() for value in net.parameters()) == int(data[f"{prefix}n_parameters"])
    agrees(data, prefix, net, weights, "logits_train")


def test_the_initialisation_of_idc_and_torchvision_is_drawn_by_the_fan_out() -> None:
    net = build(AP, channels=3, size=64, classes=10, seed=3)
    for name, parameter in net.named_parameters():
        if parameter.ndim == 4:
            outputs, _, height, width = parameter.shape
            wanted = (2 / (outputs * height * width)) ** 0.5
            assert float(parameter.detach().std()) == pytest.approx(wanted, rel=0.1), name
    plain = build({**AP, "initialisation": "default"}, channels=3, size=64, classes=10, seed=3)
    other = build({key: value for key, value in AP.items() if key != "initialisation"}, channels=3, size=64, classes=10,
                  seed=3)  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), other.parameters(), strict=True))


# ---- their functional form -------------------------------------------------------------------------------------------

FUNCTIONS: list[tuple[dict[str, Any], int]] = [
    ({"architecture": "resnet", "depth": 50, "width": 4, "norm": "batch"}, 19),
    ({"architecture": "resnet", "depth": 50, "width": 4, "norm": "layer"}, 21),
    ({"architecture": "resnet", "depth": 50, "width": 4, "norm": "layer", "downsampling": "avg"}, 27),
    ({"architecture": "resnet", "depth": 10, "width": 4, "norm": "layer", "downsampling": "avg"}, 27),
    ({"architecture": "resnet", "depth": 101, "width": 2, "norm": "instance", "downsampling": "avg"}, 16),
    ({"architecture": "densenet", "growth": 2}, 9),
    ({"architecture": "densenet", "growth": 2, "norm": "instance"}, 16),
    ({"architecture": "torchvision", "name": "resnet18", "small_stem": True}, 16),
    ({"architecture": "torchvision", "name": "mobilenet_v2", "dropout": False}, 32),
    ({"architecture": "torchvision", "name": "efficientnet_b0", "dropout": False}, 32),
]


@pytest.mark.parametrize("network, size", FUNCTIONS, ids=str)
def test_networks_are_functions_of_their_weights(network: dict[str, Any], size: int) -> None:
    net = build(network, channels=1, size=size, classes=4, seed=3).double()
    assert not [layer for layer in net.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    x = torch.randn(3, 1, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    params, buffers = split(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    logits, after = with_statistics(net)(params, buffers, x)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()), "left as it was"
    assert all(torch.equal(value, before[name]) for name, value in buffers.items()), "and so are the buffers"
    assert all(not torch.equal(value, buffers[name]) for name, value in after.items())
    assert torch.equal(with_statistics(net)(params, buffers, x)[0], logits)
    assert len({tuple(row) for row in logits.tolist()}) == 3
    with frozen_statistics(net):
        assert torch.equal(net(x), logits)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()), "frozen"
    grads = torch.func.grad(lambda held: functional(net)(held, buffers, x).square().sum())(params)
    assert all(bool(grad.isfinite().all()) for grad in grads.values())
    assert forward_flops(net.float(), (1, size, size)) > 0
    if network["architecture"] != "torchvision":
        maps = functional_features(net.double())(params, buffers, x)
        assert len(maps) == 4
        assert torch.allclose(net.get_submodule("classifier")(maps[-1].mean((2, 3))), logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvisions_residual_networks_are_ours_under_other_names(depth: int) -> None:
    from ddlib.nn.weights import fit_weights

    theirs = models.get_model(f"resnet{depth}", weights=None, num_classes=6).double()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            layer.get_buffer("running_mean").uniform_(-0.2, 0.2)
            layer.get_buffer("running_var").uniform_(0.5, 1.5)
    ours = build({**BATCH, "depth": depth, "stem": "7x7_pool"}, channels=3, size=64, classes=6, seed=0).double()
    params, buffers = fit_weights(theirs.state_dict(), ours)
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    assert error(functional(ours.eval())(params, buffers, x), theirs.eval()(x)) < 1e-10
    logits, after = with_statistics(ours.train())(params, buffers, x)
    assert error(logits, theirs.train()(x)) < 1e-10
    _, moved = fit_weights(theirs.state_dict(), ours)
    assert all(error(after[name], moved[name]) < 1e-10 for name in after), "statistics move alike"


def test_pytorchs_batch_norm_is_replaced_by_ours_of_the_same_numbers() -> None:
    theirs = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Sequential(nn.BatchNorm2d(3, eps=1e-2, momentum=0.3))).double()
    x = torch.randn(4, 2, 5, 5, dtype=torch.float64)
    theirs(x)
    ours = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Sequential(nn.BatchNorm2d(3, eps=1e-2, momentum=0.3))).double()
    ours.load_state_dict(theirs.state_dict())
    replace_batch_norm(ours)
    assert isinstance(ours.get_submodule("1.0"), BatchNorm)
    assert error(ours(x), theirs(x)) < 1e-12
    assert error(ours.eval()(x), theirs.eval()(x)) < 1e-12
    for layer, said in (
        (nn.BatchNorm1d(3), "no batch norm of images"),
        (nn.BatchNorm2d(3, affine=False), "no batch norm of images"),
        (nn.BatchNorm2d(3, momentum=None), "give it a momentum"),
    ):
        with pytest.raises(ValueError, match=said):
            replace_batch_norm(nn.Sequential(layer))


def test_pytorchs_own_batch_norm_is_no_function_of_its_weights() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    for make in (functional, with_statistics):
        with pytest.raises(ValueError, match=r"1 is PyTorch's BatchNorm2d, which writes .*replace_batch_norm"):
            make(net)
    replace_batch_norm(net)
    functional(net)


@pytest.mark.parametrize("network", [FUNCTIONS[0][0], FUNCTIONS[5][0], {**MOBILE, "dropout": False}], ids=str)
def test_networks_with_batch_norm_are_matched(network: dict[str, Any]) -> None:
    """Class by class or at once: the same, and nothing of the network moves."""
    net = build(network, channels=1, size=32, classes=4, seed=3).double()
    generator = torch.Generator().manual_seed(1)
    stored, real = (torch.randn(2, 3, 1, 32, 32, dtype=torch.float64, generator=generator) for _ in range(2))
    labels, (params, buffers) = torch.tensor([1, 3]), split(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    call, names = functional(net), matched_names(net, "conv")

    def match(stored: Tensor, real: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return match_class(lambda p, x: call(p, buffers, x), params, names, lambda x: x, stored, real, label, "mse")

    with frozen_statistics(net):
        one = [match(*each) for each in zip(stored, real, labels, strict=True)]
        loss, slope = torch.func.vmap(match)(stored, real, labels)
    for place, (own_loss, own_slope) in enumerate(one):
        assert float(own_loss) > 0
        assert error(loss[place], own_loss) < 1e-10
        assert error(slope[place], own_slope) < 1e-10
        assert bool(own_slope.abs().sum() > 0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# ---- torchvision's by name -------------------------------------------------------------------------------------------


def test_torchvisions_are_torchvisions_own() -> None:
    net = build({**MOBILE, "dropout": False}, channels=3, size=64, classes=7, seed=5)
    torch.manual_seed(5)
    theirs = models.get_model("mobilenet_v2", weights=None, num_classes=7)
    for (name, ours), (other, value) in zip(net.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == f"net.{other}"
        assert torch.equal(ours, value)
    x = torch.randn(2, 3, 64, 64)
    assert error(net.eval()(x), theirs.eval()(x)) < 1e-6


def test_small_stems_are_those_of_rded() -> None:
    small = {"architecture": "torchvision", "name": "resnet50", "small_stem": True}
    net = build(small, channels=3, size=32, classes=10, seed=0)
    ours = build({**BATCH, "depth": 50, "stem": "3x3"}, channels=3, size=32, classes=10, seed=0)
    assert sum(value.numel() for value in net.parameters()) == sum(value.numel() for value in ours.parameters())
    from ddlib.nn.weights import fit_weights

    state = {name.removeprefix("net."): value for name, value in net.state_dict().items()}
    params, buffers = fit_weights(state, ours)
    x = torch.randn(2, 3, 32, 32)
    assert error(functional(ours.eval())(params, buffers, x), net.eval()(x)) < 1e-5


def test_every_name_is_one_of_torchvision_and_of_the_presets() -> None:
    assert set(presets.CHOICES["name"]) <= set(models.list_models(module=models))
    assert {"mobilenet_v2", "efficientnet_b0", "resnet50", "resnet101", "vgg11", "alexnet", "swin_v2_t"} <= set(
        presets.CHOICES["name"]
    )


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5", "googlenet", "swin_t"])
def test_other_classifiers_train(name: str) -> None:
    net = build({"architecture": "torchvision", "name": name, "dropout": False}, channels=3, size=64, classes=3, seed=0)
    params, buffers = split(net)
    x = torch.randn(2, 3, 64, 64)

    def loss(params: dict[str, Tensor]) -> Tensor:
        logits, _ = with_statistics(net)(params, buffers, x)
        return logits.square().sum()

    grads = torch.func.grad(loss)(params)
    assert all(bool(grad.isfinite().all()) for grad in grads.values())
    assert np.mean([float(grad.abs().sum()) > 0 for grad in grads.values()]) > 0.9


@pytest.mark.parametrize("network, size, message", [
    ({**MOBILE, "name": "mobilnet_v2"}, 32, "no classifier called 'mobilnet_v2': did you mean 'mobilenet_v2'"),
    ({**MOBILE, "small_stem": True}, 32, "mobilenet_v2 has no small stem"),
    ({**MOBILE, "name": "inception_v3"}, 64, "inception_v3 of torchvision takes no images of 64 px: use larger"),
    ({**MOBILE, "name": "vit_b_16"}, 40, "vit_b_16 of torchvision takes no images of 40 px"),
    ({**MOBILE, "name": "maxvit_t"}, 64, "maxvit_t of torchvision takes no images of 64 px"),
    ({"architecture": "densenet", "depth": 161}, 32, "a DenseNet has depth 121, not 161"),
    ({"architecture": "densenet"}, 7, "images of 7 px are too small, 8 px is the least"),
    ({"architecture": "densenet", "norm": "instance"}, 15, "16 px is the least with norm instance"),
    ({**BATCH, "depth": 34}, 32, "depth 10, 18, 50, 101, not 34"),
    ({**BATCH, "initialisation": "fanout"}, 32, "did you mean 'fan_out'"),
])  # fmt: skip
def test_what_cannot_be_built_says_why(network: dict[str, Any], size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(network, channels=3, size=size, classes=10, seed=0)


def test_dropout_is_refused_in_matching_and_keyed_in_training() -> None:
    from ddlib.nn.chance import refuse_dropout

    net = build(EFFICIENT, channels=3, size=32, classes=4, seed=0)
    assert has_dropout(net)
    assert not has_dropout(build({**EFFICIENT, "dropout": False}, channels=3, size=32, classes=4, seed=0))
    assert has_dropout(nn.Sequential(nn.MultiheadAttention(4, 2, dropout=0.1)))
    with pytest.raises(ValueError, match=r"efficientnet_b0 has dropout.*`dropout: false`"):
        refuse_dropout(net)


def test_a_training_with_dropout_repeats_itself_and_can_be_cut_in_two() -> None:
    import small

    from ddlib.streams import Streams
    from ddlib.train.loop import Learning, State, Trainer

    class Chancy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.layers(x)
            return logits

    net = Chancy()
    trainer = Trainer(net, Learning.of(small.LEARNING), small.digits(), Streams(0, "test"), "student")
    batches = [np.arange(16), np.arange(16, 32)]

    def train(disturbed: bool) -> State:
        first, _ = trainer.run(State.of(net), batches, (0,))
        if disturbed:
            torch.randn(7)
        return trainer.run(first, batches, (1,))[0]

    one, other = train(False), train(True)
    assert all(torch.equal(value, other.params[name]) for name, value in one.params.items())
    third, _ = trainer.run(trainer.run(State.of(net), batches, (0,))[0], batches, (2,))
    assert not torch.equal(third.params["layers.2.weight"], one.params["layers.2.weight"]), "other draws"


def test_presets_are_the_defaults_of_the_modules() -> None:
    for name, module in (("densenet", densenet.DenseNet), ("torchvision", zoo.TorchVision)):
        found = {key: value.default for key, value in inspect.signature(module).parameters.items()}
        own = {key: value for key, value in found.items() if value is not inspect.Parameter.empty}
        given = presets.NETWORK_DEFAULTS[name]
        assert own == {key: value for key, value in given.items() if value != ""}
        assert set(given) | {"channels", "size", "classes"} == set(found)
    assert set(registry.NETWORKS) == set(presets.NETWORK_DEFAULTS)
