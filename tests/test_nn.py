"""Networks: initialisation, sizes, norms against PyTorch's, and their functional form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ddlib.nn import build
from ddlib.nn.convnet import ConvNet
from ddlib.nn.functional import functional, functional_features, in_precision, matched_names, split, with_statistics
from ddlib.nn.norm import BatchNorm, build_norm, frozen_statistics


def small(norm: str = "batch", **options: object) -> nn.Module:
    network = {"architecture": "convnet", "width": 8, "depth": 2, "norm": norm, **options}
    return build(network, channels=3, size=8, classes=4, seed=3).double()


@pytest.mark.parametrize(
    "channels, size, classes, parameters", [(3, 32, 10, 320_010), (3, 32, 100, 504_420), (1, 28, 10, 317_706)]
)
def test_published_parameter_counts(channels: int, size: int, classes: int, parameters: int) -> None:
    net = build({"architecture": "convnet"}, channels=channels, size=size, classes=classes, seed=0)
    assert sum(value.numel() for value in net.parameters()) == parameters
    assert net(torch.randn(2, channels, size, size)).shape == (2, classes)


def test_initialisation_is_torchs_default_and_leaves_the_callers_generator() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    net = build({"architecture": "convnet", "depth": 2, "width": 8}, channels=3, size=16, classes=5, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    plain = [nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8 * 4 * 4, 5)]
    for layer, name in zip(plain, ("layers.conv.0", "layers.conv.1", "classifier"), strict=True):
        assert torch.equal(layer.weight, net.get_parameter(f"{name}.weight"))
        assert layer.bias is not None
        assert torch.equal(layer.bias, net.get_parameter(f"{name}.bias"))
    other = build({"architecture": "convnet", "depth": 2, "width": 8}, channels=3, size=16, classes=5, seed=8)
    assert not torch.equal(other.get_parameter("classifier.weight"), net.get_parameter("classifier.weight"))


@pytest.mark.parametrize(
    "network, message",
    [
        ({"architecture": "convnt"}, "convnt.*did you mean 'convnet'"),
        ({"architecture": "convnet", "dept": 3}, "no option 'dept'.*did you mean 'depth'"),
        ({"architecture": "convnet", "channels": 3}, "no option 'channels'"),
        ({"architecture": "convnet", "norm": "instanc"}, "did you mean 'instance'"),
        ({"architecture": "convnet", "activation": "rel"}, "did you mean 'relu'"),
        ({"architecture": "convnet", "pooling": "mean"}, "no pooling is called 'mean'"),
        ({"architecture": "convnet", "depth": 4}, "depth 4 .*size 8 .*at most 3"),
        ({"architecture": "convnet", "norm": "group", "width": 6}, "width of 6"),
        ({"depth": 3}, "needs an `architecture`"),
    ],
)
def test_what_cannot_be_built_says_why(network: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(network, channels=1, size=8, classes=10, seed=0)


def test_digits_keep_their_size_and_28_px_are_treated_as_32() -> None:
    assert [maps.shape[2] for maps in ConvNet(1, 8, 10, width=4).features(torch.zeros(1, 1, 8, 8))] == [4, 2, 1]
    assert [maps.shape[2] for maps in ConvNet(1, 28, 10, width=4).features(torch.zeros(1, 1, 28, 28))] == [16, 8, 4]
    assert [maps.shape[2] for maps in ConvNet(3, 28, 10, width=4).features(torch.zeros(1, 3, 28, 28))] == [14, 7, 3]


@pytest.mark.parametrize("pooling, side", [("avg", 2), ("max", 2), ("none", 8)])
@pytest.mark.parametrize("activation", ["relu", "leakyrelu", "sigmoid"])
def test_options(pooling: str, side: int, activation: str) -> None:
    net = ConvNet(1, 8, 3, depth=2, width=4, norm="none", activation=activation, pooling=pooling).double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    pool = {"avg": nn.AvgPool2d(2), "max": nn.MaxPool2d(2), "none": nn.Identity()}[pooling]
    act = {"relu": nn.ReLU(), "leakyrelu": nn.LeakyReLU(0.01), "sigmoid": nn.Sigmoid()}[activation]
    first, second = net.get_submodule("layers.conv.0"), net.get_submodule("layers.conv.1")
    maps = pool(act(second(pool(act(first(x))))))
    assert maps.shape == (2, 4, side, side)
    torch.testing.assert_close(net(x), net.classifier(maps.flatten(1)), rtol=0, atol=1e-12)


def theirs(kind: str) -> nn.Module:
    layers = {
        "instance": nn.GroupNorm(8, 8),
        "group": nn.GroupNorm(4, 8),
        "layer": nn.LayerNorm([8, 5, 5]),
        "batch": nn.BatchNorm2d(8),
    }
    return layers[kind].double()


def second_order(norm: nn.Module, x: Tensor, cotangent: Tensor) -> list[Tensor]:
    """Output, gradients, and the gradient of the squared weight gradient with respect to x."""
    x = x.clone().requires_grad_()
    out = norm(x)
    gx, gw, gb = torch.autograd.grad(
        (out.sin() * cotangent).sum(), [x, *norm.parameters()], create_graph=True, materialize_grads=True
    )
    return [out, gx, gw, gb, torch.autograd.grad(gw.square().sum(), x)[0]]


@pytest.mark.parametrize("kind", ["instance", "group", "layer", "batch"])
def test_norms_equal_torchs_to_the_second_derivative(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, cotangent = (torch.randn(6, 8, 5, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    ours, reference = build_norm(kind, 8, 5).double(), theirs(kind)
    with torch.no_grad():
        for a, b in zip(ours.parameters(), reference.parameters(), strict=True):
            a.copy_(torch.rand(a.shape, generator=generator) + 0.5)
            b.copy_(a)
    for a, b in zip(second_order(ours, x, cotangent), second_order(reference, x, cotangent), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    for name, value in ours.named_buffers():
        torch.testing.assert_close(value, reference.get_buffer(name), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.eval()(x), reference.eval()(x), rtol=0, atol=1e-12)


def test_frozen_statistics_normalise_by_the_batch_and_remember_nothing() -> None:
    norm, x = BatchNorm(3), torch.randn(4, 3, 5, 5) + 2
    with frozen_statistics(norm):
        frozen = norm(x)
        assert torch.equal(norm.running_mean, torch.zeros(3))
    assert torch.equal(norm(x), frozen)
    assert norm.running_mean.min() > 0.1


def test_batch_norm_of_single_values_is_refused() -> None:
    with pytest.raises(ValueError, match="more than one value per channel"):
        BatchNorm(3)(torch.randn(1, 3, 1, 1))


def test_functional_calls_change_nothing_and_statistics_come_back() -> None:
    net, x = small(), torch.randn(5, 3, 8, 8, dtype=torch.float64)
    params, buffers = split(net)
    kept = {name: value.clone() for name, value in buffers.items()}
    logits = functional(net)(params, buffers, x)

    def loss(params: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        logits, after = with_statistics(net)(params, buffers, x)
        return logits.square().sum(), after

    _, after = torch.func.grad(loss, has_aux=True)(params)
    for name, value in kept.items():
        assert torch.equal(buffers[name], value)
        assert torch.equal(net.get_buffer(name), value)
    assert torch.equal(net(x), logits)
    for name, value in after.items():
        torch.testing.assert_close(value, net.get_buffer(name), rtol=0, atol=1e-12)
        assert not torch.equal(value, kept[name])


def test_functional_features() -> None:
    net, x = small("instance"), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    params, buffers = split(net)
    maps = functional_features(net)(params, buffers, x)
    assert len(maps) == 2
    logits = maps[-1].flatten(1) @ params["classifier.weight"].T + params["classifier.bias"]
    torch.testing.assert_close(logits, net(x), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="Linear has no `features`"):
        functional_features(nn.Linear(2, 2))


def test_lower_precision_gives_gradients_in_the_precision_of_the_weights() -> None:
    net, x = small("instance").float(), torch.randn(4, 3, 8, 8)
    params, buffers = split(net)
    call = functional(net)
    low = in_precision(lambda p, x: call(p, buffers, x), torch.bfloat16)
    assert low(params, x).dtype == torch.float32
    exact = call(params, buffers, x)
    assert 0 < (low(params, x) - exact).abs().max() < 0.1 * exact.abs().max()
    grads = torch.func.grad(lambda p: low(p, x).square().sum())(params)
    assert {value.dtype for value in grads.values()} == {torch.float32}


def test_matched_names_go_by_layer() -> None:
    convs = ("layers.conv.0.weight", "layers.conv.1.weight")
    for norm in ("instance", "layer", "batch"):
        net = small(norm)
        assert matched_names(net) == convs
        assert matched_names(net, "conv_fc") == (*convs, "classifier.weight")
        assert matched_names(net, "all") == tuple(name for name, _ in net.named_parameters())
    with pytest.raises(ValueError, match=r"'bias'.*conv, conv_fc, all"):
        matched_names(small(), "bias")


@pytest.mark.parametrize("kind", ["instance", "group", "layer", "batch"])
def test_norms_take_their_moments_in_float32(kind: str) -> None:
    norm = build_norm(kind, 8, 16)
    x = torch.randn(4, 8, 16, 16, generator=torch.Generator().manual_seed(0)) + 3
    low = norm(x.bfloat16())
    assert low.dtype == torch.float32  # the common type of images and weights, as under autocast
    assert (low - norm(x.bfloat16().float())).abs().max() < 1e-5
    assert norm.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
