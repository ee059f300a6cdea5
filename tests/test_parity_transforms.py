"""Perturbation and sparsity masks against golden numbers of the official codes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from parity import Arrays, count, error, gradient_error, load, network, our_name, tensor, weights
from torch import Tensor

from ddlib.nn.functional import MASK, functional, matched_names, with_statistics
from ddlib.objectives.gradient import ORDERS, match_class
from ddlib.train.loop import State
from ddlib.train.losses import cross_entropy
from ddlib.train.sgd import sgd_step, zero_velocity
from ddlib.transforms.perturb import direction, perturbed
from ddlib.transforms.sparsify import Sparsify, masked_names, masks_of

NORMS = {
    "match_filter_norm": "filter",
    "match_layer_norm": "layer",
    "times_weight": "weight",
    "unit_filter": "unit_filter",
    "unit_layer": "unit_layer",
}


def of(data: Arrays, prefix: str) -> dict[str, Tensor]:
    """Every tensor stored under a prefix, by the name that follows."""
    return {key.removeprefix(prefix): tensor(data[key]) for key in data if key.startswith(prefix)}


@pytest.mark.parametrize("case", count("accdd_perturbation", "n_case"))
def test_perturbation(case: int) -> None:
    data = load("accdd_perturbation")
    here = f"case{case}_"
    norm, one_dim = NORMS[str(data[f"{here}normalisation"])], str(data[f"{here}one_dim_rule"])
    params = {name: value for name, value in of(data, f"{here}p_").items() if value.is_floating_point()}
    raws = [{name: raw for name, raw in of(data, f"{here}raw{i}_").items() if name in params} for i in (0, 1)]
    assert set(raws[0]) == set(params)
    for name, value in params.items():
        assert error(direction(raws[0][name], value, norm, one_dim), data[f"{here}dir0_{name}"]) < 2e-6
    moved = perturbed(params, raws, data[f"{here}magnitude"].tolist(), norm, one_dim)
    assert set(moved) == set(params)
    for name, value in moved.items():
        assert value.dtype == torch.float32
        assert error(value, data[f"{here}out_{name}"]) < 2e-6
    assert any(not torch.equal(moved[name], params[name]) for name in params)


def test_the_golden_magnitudes_are_what_we_draw_from() -> None:
    data = load("accdd_perturbation")
    for case in count("accdd_perturbation", "n_case"):
        sign = np.where(data[f"case{case}_parity_draw"] % 2, -1, 1)
        assert np.array_equal(data[f"case{case}_u"] * sign, data[f"case{case}_magnitude"])
        assert (data[f"case{case}_u"] >= 0.01).all()
        assert (data[f"case{case}_u"] <= 0.09).all()


KINDS = {"all_convs_and_classifier": "uniform", "classifier_only": "last"}


def masks(data: Arrays, case: int) -> tuple[str, float, dict[str, Tensor]]:
    """(kind, sparsity, our masks from the golden draws by our names)."""
    here = f"case{case}_"
    kind, share = KINDS[str(data[f"{here}mode"])], float(data[f"{here}fraction_removed"])
    draws = {our_name(name): draw for name, draw in of(data, f"{here}draw_").items()}
    return kind, share, masks_of(draws, kind, share)


@pytest.mark.parametrize("case", count("d2s_pruning", "n_case"))
def test_masks_lie_where_the_official_ones_do(case: int) -> None:
    data = load("d2s_pruning")
    kind, _, ours = masks(data, case)
    net = network(weights(data, f"case{case}_p_"), data[f"case{case}_x_real"].shape[-1])
    assert masked_names(net, kind) == tuple(our_name(str(name)) for name in data[f"case{case}_masked_tensors"])
    for name, mask in of(data, f"case{case}_mask_").items():
        assert torch.equal(ours[our_name(name)], mask.bool())


@pytest.mark.parametrize("case", count("d2s_pruning", "n_case"))
def test_masked_logits_gradients_and_matching(case: int) -> None:
    data = load("d2s_pruning")
    here = f"case{case}_"
    net = network(weights(data, f"{here}p_"), data[f"{here}x_real"].shape[-1]).train()
    ours = masks(data, case)[2]
    state = Sparsify(lambda outer, params: ours)(State.of(net), 0)
    apply, (real, labels) = functional(net), (tensor(data[f"{here}x_real"]), tensor(data[f"{here}y_for_ce"]))
    assert error(apply(state.params, state.buffers, real), data[f"{here}logits"]) < 1e-9
    grads = torch.func.grad(lambda params: cross_entropy(apply(params, state.buffers, real), labels))(state.params)
    for name, golden in of(data, f"{here}g_").items():
        assert error(grads[our_name(name)], golden) < 1e-9
    for name, mask in ours.items():
        assert not grads[name][~mask].any()
    label, stored = tensor(data[f"{here}match_label"]), tensor(data[f"{here}x_syn"])
    for metric in ("mse", "l1", "l1_mean"):
        for order in ORDERS:
            call = lambda params, x: apply(params, state.buffers, x)  # noqa: E731
            names = matched_names(net, "conv")
            loss, slope = match_class(call, state.params, names, lambda x: x, stored, real, label, metric, order)
            assert error(loss, data[f"{here}{metric}_loss"]) < 1e-9
            assert gradient_error(slope, data[f"{here}{metric}_grad"]) < 1e-8


@pytest.mark.parametrize("case", count("d2s_pruning", "n_case"))
def test_inner_training_under_the_mask(case: int) -> None:
    data = load("d2s_pruning")
    here = f"case{case}_"
    net = network(weights(data, f"{here}p_"), data[f"{here}x_real"].shape[-1]).train()
    ours = masks(data, case)[2]
    state = Sparsify(lambda outer, params: ours)(State.of(net), 0)
    call, real, labels = with_statistics(net), tensor(data[f"{here}x_real"]), tensor(data[f"{here}y_for_ce"])
    params, buffers, velocity = state.params, state.buffers, zero_velocity(state.params)
    for _ in range(3):

        def loss(params: dict[str, Tensor]) -> Tensor:
            return cross_entropy(call(params, state.buffers, real)[0], labels)

        params, velocity = sgd_step(params, velocity, torch.func.grad(loss)(params), float(data["sgd_lr"]), 0.9, 5e-4)
        buffers = call(params, buffers, real)[1]
    for name, golden in of(data, f"{here}after3sgd_").items():
        assert error(params[our_name(name)], golden) < 1e-9
    assert {name for name in buffers if name.startswith(MASK)} == {f"{MASK}{name}" for name in ours}
    assert all(torch.equal(buffers[f"{MASK}{name}"], mask) for name, mask in ours.items())


def test_counts_are_rounded_as_python_does() -> None:
    from ddlib.transforms.sparsify import removed

    counts = load("d2s_pruning")["removed_count_numel_ratio_removed"].tolist()
    assert len(counts) > 20
    for entries, share, gone in counts:
        if 0 < gone < entries:
            assert removed(int(entries), share) == int(gone)
        else:
            with pytest.raises(ValueError, match=re.escape(f"removes {int(gone)} of {int(entries)}")):
                removed(int(entries), share)
