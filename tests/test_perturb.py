"""Perturbation of a drawn network: sizes, what moves, what does not, and from which stream."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import NETWORK, problem, recipe, settings

from ddlib import nn as networks
from ddlib.nn.functional import matched_names
from ddlib.pool.draw import Changed
from ddlib.streams import Streams
from ddlib.train.loop import State
from ddlib.transforms.perturb import NORMS, Perturbation

OPTIONS = {key: value for key, value in NETWORK.items() if key != "version"}


def state(norm: str = "instance") -> State:
    return State.of(networks.build({**OPTIONS, "norm": norm}, channels=1, size=8, classes=10, seed=0))


def moved(perturbation: Perturbation, outer: int = 0, norm: str = "instance") -> dict[str, float]:
    """How far each tensor moved, relative to its size."""
    before = state(norm)
    after = perturbation(before, outer)
    old, new = {**before.params, **before.buffers}, {**after.params, **after.buffers}
    return {name: float((new[name] - old[name]).norm() / (old[name].double().norm() + 1e-30)) for name in old}


def test_as_published_weights_move_by_a_few_percent_and_biases_and_norms_stay() -> None:
    before, after = state(), Perturbation(Streams(0, "test"))(state(), 0)
    weights = set(matched_names(networks.build(OPTIONS, channels=1, size=8, classes=10, seed=0), "conv_fc"))
    for name, value in before.params.items():
        if name not in weights:
            assert torch.equal(after.params[name], value), name
            continue
        rows = ((after.params[name] - value).flatten(1).norm(dim=1) / value.flatten(1).norm(dim=1)).tolist()
        # Two directions of 1-9 % each: 0-18 %, and never nothing; in rows of few weights they may point the same way.
        assert all(0.001 < row < 0.18 for row in rows), name
    assert all(not slow.any() for slow in after.velocity.values()), "the optimiser is at rest"


def test_every_filter_moves_by_the_drawn_size_with_one_direction() -> None:
    before = state()
    after = Perturbation(Streams(0, "test"), low=0.05, high=0.05, directions=1)(before, 3)
    for name in ("layers.conv.0.weight", "classifier.weight"):
        rows = (after.params[name] - before.params[name]).flatten(1).norm(dim=1)
        assert torch.allclose(rows, 0.05 * before.params[name].flatten(1).norm(dim=1), rtol=1e-5)


def test_signs_and_sizes_are_spread_over_outer_iterations() -> None:
    """One direction, which of a bias is the bias itself: its share of the bias is the magnitude with its sign."""
    perturbation, bias = Perturbation(Streams(0, "test"), directions=1, one_dim="copy"), "classifier.bias"
    before = state().params[bias].double()
    drawn = [float((perturbation(state(), outer).params[bias] / before - 1).mean()) for outer in range(80)]
    assert 20 < sum(size > 0 for size in drawn) < 60
    assert all(0.0099 < abs(size) < 0.0901 for size in drawn)
    assert min(map(abs, drawn)) < 0.02
    assert max(map(abs, drawn)) > 0.08


def test_the_stream_is_of_seed_and_outer_iteration() -> None:
    one = Perturbation(Streams(0, "test"))(state(), 1).params
    assert all(
        torch.equal(one[name], value) for name, value in Perturbation(Streams(0, "test"))(state(), 1).params.items()
    )
    for other in (Perturbation(Streams(1, "test"))(state(), 1), Perturbation(Streams(0, "test"))(state(), 2)):
        assert not torch.equal(one["classifier.weight"], other.params["classifier.weight"])


def test_the_classifier_stays_where_asked() -> None:
    distances = moved(Perturbation(Streams(0, "test"), linear=False))
    assert distances["classifier.weight"] == 0
    assert distances["layers.conv.1.weight"] > 0.001


def test_copy_scales_biases_and_statistics_where_they_count_as_weights() -> None:
    kept = moved(Perturbation(Streams(0, "test"), one_dim="copy"), norm="batch")
    with_statistics = moved(Perturbation(Streams(0, "test"), one_dim="copy", buffers=True), norm="batch")
    for name in ("layers.conv.0.bias", "layers.norm.0.weight", "classifier.bias"):
        assert 0 < kept[name] <= 0.18 + 1e-6
    assert kept["layers.norm.0.running_var"] == 0
    assert with_statistics["layers.norm.0.running_var"] > 0


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_every_normalisation_moves_weights_and_stays_finite(norm: str) -> None:
    after = Perturbation(Streams(0, "test"), norm=norm)(state(), 0)
    assert all(bool(torch.isfinite(value).all()) for value in after.params.values())
    assert not torch.equal(after.params["classifier.weight"], state().params["classifier.weight"])


@pytest.mark.parametrize(
    "over, says",
    [
        ({"low": 0.1, "high": 0.05}, "perturb_low 0.1 must be from 0 to perturb_high 0.05"),
        ({"directions": 3}, "perturb_directions is 1 or 2, not 3"),
        ({"norm": "fliter"}, "did you mean 'filter'"),
    ],
)
def test_what_cannot_be_is_refused(over: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Perturbation(Streams(0, "test"), **over)


def test_acc_dd_perturbs_once_per_outer_iteration_from_the_views_networks() -> None:
    asked = problem()
    made = recipe("acc_dd", asked)
    assert made.objective is not None
    start = made.objective.start  # type: ignore[attr-defined]
    assert isinstance(start, Changed)
    held, changed = start.start.draw(0), start.draw(0)
    assert not torch.equal(held.params["classifier.weight"], changed.params["classifier.weight"])
    assert torch.equal(held.params["classifier.bias"], changed.params["classifier.bias"])
    again = start.draw(0)
    assert all(torch.equal(value, again.params[name]) for name, value in changed.params.items())


def test_acc_dd_without_a_view_is_refused() -> None:
    from ddlib.methods.acc_dd import recipe as acc_dd

    with pytest.raises(ValueError, match="give the experiment a pool and a view"):
        acc_dd(settings("acc_dd"), problem())
