"""Decode, initialisation, network, matching loss, image optimiser and rules against golden numbers."""

from __future__ import annotations

import pytest
import torch
from parity import count, error, gradient_error, load, network, tensor, weights

from ddlib.nn.functional import functional, functional_features, matched_names, split
from ddlib.objectives.gradient import ORDERS, match_class, match_features
from ddlib.protocol_settings import evaluation_epochs
from ddlib.sets.optim import ImageSGD, tuned_lr
from ddlib.sets.packing import bound_plan, decode, decode_labels, decoded_count, pack
from ddlib.train.losses import cross_entropy


@pytest.mark.parametrize("case", count("idc_decode", "n_single"))
def test_decode_single(case: int) -> None:
    data = load("idc_decode")
    factor = int(data[f"single{case}_factor"])
    x = tensor(data[f"single{case}_x"]).requires_grad_()
    out = decode(x, factor)
    assert error(out, data[f"single{case}_out"]) < 1e-10
    assert decode_labels(tensor(data[f"single{case}_y"]), factor).tolist() == data[f"single{case}_out_y"].tolist()
    (out * tensor(data[f"single{case}_cotangent_hw"])).sum().backward()
    assert x.grad is not None
    assert error(x.grad, data[f"single{case}_grad_x"]) < 1e-10


@pytest.mark.parametrize("kind", ["multi", "bound"])
@pytest.mark.parametrize("case", count("idc_decode", "n_multi"))
def test_decode_multi_and_bound(case: int, kind: str) -> None:
    data = load("idc_decode")
    assert data["n_multi"] == data["n_bound"]
    factor = int(data[f"{kind}{case}_factor"])
    limit = int(data[f"bound{case}_limit"]) if kind == "bound" else None
    x = tensor(data[f"{kind}{case}_x"])
    out = decode(x, factor, kind, limit)
    assert error(out, data[f"{kind}{case}_out"]) < 1e-10
    assert decoded_count(x.shape[0], factor, kind, limit) == out.shape[0]
    labels = decode_labels(tensor(data[f"{kind}{case}_y"]), factor, kind, limit)
    assert labels.tolist() == data[f"{kind}{case}_out_y"].tolist()


def test_bound_plan() -> None:
    for ipc, factor, limit, *images, total in load("idc_decode")["bound_table"].tolist():
        plan = dict(bound_plan(ipc, factor, limit))
        assert [plan.get(k, 0) for k in (4, 3, 2, 1)] == images
        assert decoded_count(ipc, factor, "bound", limit) == total


def test_decode_subsample() -> None:
    data = load("idc_decode")
    ipc, owner = int(data["sub_ipc"]), int(data["sub_class"])
    kept = tensor(data["sub_perm"][: int(data["sub_max"])])
    out = decode(tensor(data["sub_x"])[owner * ipc : (owner + 1) * ipc], int(data["sub_factor"]))[kept]
    assert error(out, data["sub_out"]) < 1e-6


@pytest.mark.parametrize("case", count("idc_mix_init", "n_case"))
def test_mix_initialisation(case: int) -> None:
    data = load("idc_mix_init")
    factor, ipc = int(data[f"case{case}_factor"]), int(data[f"case{case}_ipc"])
    real = tensor(data[f"case{case}_real"])
    out = torch.cat([pack(images[: ipc * factor**2], ipc, factor) for images in real])
    assert torch.equal(out, tensor(data[f"case{case}_out"]))


@pytest.mark.parametrize("case", count("convnet_explicit", "n_net"))
def test_convnet(case: int) -> None:
    data = load("convnet_explicit")
    prefix = f"net{case}_"
    net = network(weights(data, f"{prefix}p_"), data[f"{prefix}x"].shape[2], str(data[f"{prefix}norm"]))
    x = tensor(data[f"{prefix}x"]).requires_grad_()
    logits = net(x)
    loss = cross_entropy(logits, tensor(data[f"{prefix}y"]))
    loss.backward()
    assert error(logits, data[f"{prefix}logits"]) < 1e-9
    assert error(loss, data[f"{prefix}loss"]) < 1e-9
    assert x.grad is not None
    assert error(x.grad, data[f"{prefix}grad_x"]) < 1e-9
    golden = weights(data, f"{prefix}g_")
    assert set(golden) == {name for name, _ in net.named_parameters()}
    for name, value in net.named_parameters():
        assert value.grad is not None
        assert error(value.grad, golden[name]) < 1e-9, name


def test_batch_norm_statistics() -> None:
    data = load("convnet_explicit")
    (case,) = [k for k in range(int(data["n_net"])) if str(data[f"net{k}_norm"]) == "batch"]
    x = tensor(data[f"net{case}_x"])
    net = network(weights(data, f"net{case}_p_"), x.shape[2], "batch")
    net(x)
    for i in range(int(data[f"net{case}_depth"])):
        for which in ("running_mean", "running_var"):
            after = net.get_buffer(f"layers.norm.{i}.{which}")
            assert error(after, data[f"net{case}_after_norm{i}_{which}"]) < 1e-9
    assert error(net.eval()(x), data[f"net{case}_logits_eval_after"]) < 1e-9


# The keys of a case say which metrics and sets of parameters are stored: case0_{metric}_{parts}_loss.
MATCHING = [("mse", "conv"), ("mse", "conv_fc"), ("mse", "all"), ("l1", "conv"), ("l1_mean", "conv")]
MATCHING += [("cos", "conv"), ("cos", "all")]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("metric, parts", MATCHING)
@pytest.mark.parametrize("case", count("idc_matching", "n_case"))
def test_matching_loss_and_image_gradient(case: int, metric: str, parts: str, order: str) -> None:
    data = load("idc_matching")
    real, stored = tensor(data[f"case{case}_x_real"]), tensor(data[f"case{case}_x_syn"])
    net = network(weights(data, f"case{case}_p_"), real.shape[2])
    params, buffers = split(net)
    call = functional(net)
    loss, gradient = match_class(
        lambda p, x: call(p, buffers, x),
        params,
        matched_names(net, parts),
        lambda images: images,
        stored,
        real,
        tensor(data[f"case{case}_label"]),
        metric,
        order,
    )
    assert error(loss, data[f"case{case}_{metric}_{parts}_loss"]) < 1e-8
    assert gradient_error(gradient, data[f"case{case}_{metric}_{parts}_grad"]) < 1e-8


@pytest.mark.parametrize("which", ["last", "all"])
@pytest.mark.parametrize("case", count("idc_matching", "n_case"))
def test_feature_matching(case: int, which: str) -> None:
    data = load("idc_matching")
    real, stored = tensor(data[f"case{case}_x_real"]), tensor(data[f"case{case}_x_syn"])
    net = network(weights(data, f"case{case}_p_"), real.shape[2])
    params, buffers = split(net)
    call = functional_features(net)
    last = int(data[f"case{case}_depth"]) - 1
    loss, gradient = match_features(
        lambda p, x: call(p, buffers, x), params, lambda x: x, stored, real, last if which == "last" else 0, last
    )
    assert error(loss, data[f"case{case}_feat_{which}_loss"]) < 1e-8
    assert gradient_error(gradient, data[f"case{case}_feat_{which}_grad"]) < 1e-8


@pytest.mark.parametrize("case", count("idc_image_sgd", "n_case"))
def test_image_sgd(case: int) -> None:
    data = load("idc_image_sgd")
    grads = tensor(data[f"case{case}_grads_round_class"])
    rounds, classes, ipc = grads.shape[:3]
    assert ipc == data[f"case{case}_ipc"]
    positions = torch.arange(classes).repeat_interleave(ipc)
    sgd = ImageSGD(float(data[f"case{case}_lr"]), float(data[f"case{case}_momentum"]), positions, classes)
    x = tensor(data[f"case{case}_x0"])
    v = torch.zeros_like(x)
    for k in range(rounds):
        x, v = sgd.after(*sgd.before(x, v), grads[k].flatten(0, 1))
        assert error(x, data[f"case{case}_x_after_each_round"][k]) < 1e-12
    assert error(v, data[f"case{case}_velocity_final"]) < 1e-12


def test_learning_rate_rule() -> None:
    data = load("idc_rules")
    reference = {"imagenet": 224, "speech": 64, "mnist": 28}
    for dataset, (size, ipc, base, tuned) in zip(data["lr_dataset"], data["lr_size_ipc_base_tuned"], strict=True):
        ours = tuned_lr(base, int(ipc), int(size), reference.get(str(dataset), 32))
        assert abs(ours / tuned - 1) < 1e-15


def test_evaluation_epochs() -> None:
    for classes, factor, ipc, limit, epochs in load("idc_rules")["epochs_classes_factor_ipc_limit_epochs"].tolist():
        assert evaluation_epochs(classes, factor, ipc, None if limit < 0 else limit) == epochs
