"""The driver's guard against diverging images, and what it notes along the way; of a toy objective and of IDC."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from small import NETWORK, problem, recipe
from test_methods import Fragile, KilledError
from torch import Tensor

from ddlib.checkpoints import Checkpoint
from ddlib.methods.driver import condense
from ddlib.methods.recipe import Problem, Recipe
from ddlib.nn.functional import Params
from ddlib.objectives.matching import Inner
from ddlib.sets.optim import ImageSGD
from ddlib.train.loop import State

TOLD = ("image_lr 5 as an example", "image_lr 7 as another")


@dataclass
class Toy:
    """Losses [outer][step][budget] as they are given; images move by 0.01 a step."""

    given: list[list[list[float]]]

    @property
    def inner_steps(self) -> int:
        return len(self.given[0])

    def begin(self, outer: int, cursor: int) -> Inner:
        return Inner(outer, State({}, {}, {}), cursor)

    def gradient(self, learned: Params, inner: Inner, step: int) -> tuple[Tensor, Params]:
        return torch.tensor(self.given[inner.outer][step]), {"images": torch.full_like(learned["images"], -0.01)}

    def advance(self, inner: Inner) -> Inner:
        return inner


def toy(given: list[list[list[float]]]) -> tuple[Recipe, Problem]:
    asked = Problem(problem().data, (1, 2), [0, 1], 0, 8)
    optimiser = ImageSGD(1.0, 0.0, torch.tensor([0, 1, 0, 0, 1, 1]), 2)
    return Recipe("first", 1, len(given), Toy(given), {"images": optimiser}, told=TOLD), asked


def kept(folder: Path, seconds: float = 0.0) -> Checkpoint:
    return Checkpoint(folder, "made", {"a": 1}, seconds, say=lambda text: None)


def test_losses_are_means_by_budget_and_outer_iteration() -> None:
    made = condense(*toy([[[1, 10], [3, 30]], [[5, 50], [6, 60]]]))
    assert made.losses == [[2.0, 5.5], [20.0, 55.0]]


@pytest.mark.parametrize("bad", [1e7, math.inf, math.nan])
def test_one_that_explodes_stops_within_its_outer_iteration(tmp_path: Path, bad: float) -> None:
    good = [[4.0, 2.0], [5.0, 2.0]]
    plan, asked = toy([good, good, [[4.0, 2.0], [4.0, bad]], good])
    said = r"loss of ipc 2 is \S+ in outer iteration 3 of 4 \(2 at the first step\): .*with image_lr 7 as another"
    with pytest.raises(FloatingPointError, match=said):
        condense(plan, asked, (1, 2), kept(tmp_path))
    tensors, facts = kept(tmp_path).load() or ({}, {})
    assert (facts["outer"], facts["step"]) == (2, 1), "the last step before it"
    assert facts["losses"] == [[4.5, 4.5], [2.0, 2.0]]
    assert {"snapshot/1/images", "snapshot/2/images"} <= tensors.keys()
    with pytest.raises(FloatingPointError, match="outer iteration 3 of 4"):
        condense(plan, asked, (1, 2), kept(tmp_path))  # from the checkpoint, it is the same


def test_large_losses_that_do_not_explode_go_on() -> None:
    made = condense(*toy([[[1.0, 1e-6], [9e3, 9e-3]], [[1e4, 1e-2], [1e4, 1e-2]]]))
    assert made.losses[0] == [4500.5, 1e4]


@pytest.mark.parametrize("lr", [1e8, 1e12])
def test_a_huge_rate_is_named_with_what_it_is_tuned_to(tmp_path: Path, lr: float) -> None:
    """Without a norm, L1 distances grow with the images and stay finite."""
    asked = problem(network={**NETWORK, "norm": "none"})
    plan = recipe("idc", asked, image_lr=lr, metric="l1")
    said = rf"outer iteration 1 of 2 .*image_lr {lr} \({0.2 * lr:.4g} as tuned for ipc 2\), image_momentum 0.5, .*l1\."
    with pytest.raises(FloatingPointError, match=said.replace("+", r"\+")):
        condense(plan, asked, (), kept(tmp_path))
    tensors, facts = kept(tmp_path).load() or ({}, {})
    assert facts["step"] == 1, "the first step was good, and moved the images away"
    assert tensors["learned/images"].abs().max() > 1e3


def test_seconds_are_noted_at_snapshots_also_over_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def tick(outer: int) -> None:
        clock[0] += 10.0

    plan, asked = toy([[[1.0, 1.0], [1.0, 1.0]]] * 5)

    def gradient(images: Tensor, inner: Inner, step: int) -> tuple[Tensor, Tensor]:
        clock[0] += 1.0
        return torch.ones(2), {name: torch.zeros_like(value) for name, value in images.items()}

    plan.objective.gradient = gradient  # type: ignore[union-attr, method-assign]
    assert condense(plan, asked, (1, 2), None, None, tick).seconds_at == {1: 2.0, 2: 14.0}
    with pytest.raises(KilledError):
        condense(plan, asked, (1, 2, 4), Fragile(tmp_path, 3), None, tick)  # in the second outer iteration
    clock[0] += 1000.0  # nobody at work
    made = condense(plan, asked, (1, 2, 4), kept(tmp_path, math.inf), None, tick)
    # 2 s, a pause of 10 s, 1 s and the kill; 1 s to the end of the second, 10, 2, 10, 2 s to that of the fourth.
    assert made.seconds_at == {1: 2.0, 2: 14.0, 4: 38.0}


def test_a_checkpoint_of_an_older_ddlib_is_refused(tmp_path: Path) -> None:
    asked = problem(range(3))
    kept(tmp_path).save({"images": torch.zeros(1), "velocity": torch.zeros(1)}, {"outer": 0, "step": 1})
    with pytest.raises(ValueError, match=r"older ddlib.*Delete its folder"):
        condense(recipe("idc", asked), asked, (), kept(tmp_path, math.inf))
