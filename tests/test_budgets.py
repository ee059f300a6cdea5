"""Images per class condensed together (`budget`): what comes out is what each alone gives, bit for bit."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import NETWORK, digits, equipped, problem, recipe, settings
from test_methods import LEARNING, METHODS, Fragile, KilledError, as_set, same

from ddlib import registry
from ddlib.methods.driver import Condensed, condense
from ddlib.methods.recipe import Problem
from ddlib.nn.functional import Params
from ddlib.objectives.matching import Execution
from ddlib.sets.optim import ImageSGD, tuned_lr
from ddlib.sets.synthetic import merge

# Methods whose budgets may be condensed together; the others refuse.
APART = [name for name in METHODS if registry.METHODS[name].facts.get("partitionable", True)]
BUDGETS = (1, 2, 3)
# Decoded to 4, 8 and 12 images a class: of those of ipc 2 and 3, six are seen.
PACKED = {"factor": 2, "init": "mix", "synthetic_batch": 6}
ONE, THREE = Execution(class_chunk=1), Execution(class_chunk=3)
WAYS: dict[str, tuple[dict[str, Any], Execution]] = {
    "packed": (PACKED, ONE),
    "packed in chunks": (PACKED, THREE),
    "features": ({**PACKED, "match": "feature"}, ONE),
    "features in chunks": ({**PACKED, "match": "feature"}, THREE),
    "bound": ({**PACKED, "decode": "bound", "decode_limit": 6}, ONE),
    "operations": ({**PACKED, "match_augment": "color_crop_scale_rotate_cutout", "metric": "cos"}, ONE),
    "pretrained": ({**PACKED, "pretrain_epochs": 1, "init": "random"}, THREE),
    "noise": ({"init": "noise", "factor": 1}, THREE),
    "bf16": (PACKED, Execution(class_chunk=1, precision="bf16")),
}


def asked(ipc: Any = BUDGETS, classes: Any = range(7), execution: Execution = ONE, **given: Any) -> Problem:
    return dataclasses.replace(problem(classes, execution=execution, **given), ipc=ipc)


def run(method: str, of: Problem, snapshots: Any = (), **over: Any) -> Condensed:
    of = equipped(method, of, settings(method, **over))
    return condense(recipe(method, of, **over), of, snapshots)


def alone(of: Problem, made: Condensed, number: int) -> tuple[Problem, Condensed]:
    """One budget's part of what was made together."""
    own = dataclasses.replace(of, ipc=of.budgets[number])

    def part(learned: Params) -> Params:
        return {"images": of.parts(learned["images"])[number]}

    kept = {outer: part(learned) for outer, learned in made.snapshots.items()}
    losses = made.losses[number : number + 1]
    return own, Condensed(part(made.learned), part(made.initial), kept, losses)


def assert_each_as_alone(method: str, of: Problem, **over: Any) -> None:
    total = recipe(method, of, **over).outer_iterations
    snapshots = tuple(range(1, total + 1))
    made = run(method, of, snapshots, **over)
    assert len(made.images) == len(of.classes) * sum(of.budgets)
    for number in range(len(of.budgets)):
        own, part = alone(of, made, number)
        assert same(part, run(method, own, snapshots, **over)), own.ipc


@pytest.mark.parametrize("way", WAYS)
def test_each_is_what_it_is_alone(way: str) -> None:
    over, execution = WAYS[way]
    assert_each_as_alone("idc", asked(execution=execution), **over)


@pytest.mark.parametrize("method", APART)
def test_of_every_method(method: str) -> None:
    """In another order, with batch norm, and whatever the method starts from."""
    over = {key: value for key, value in {**PACKED, "mipc": 12}.items() if key in settings(method)}
    network = {**NETWORK, "norm": "batch"}
    given = equipped(method, asked((3, 1), range(4, 8), network=network), settings(method, **over))
    assert_each_as_alone(method, given, **over)


def counted(function: Callable[..., Any], name: str, calls: Counter[str]) -> Callable[..., Any]:
    def called(*given: Any) -> Any:
        calls[name] += 1
        return function(*given)

    return called


@pytest.mark.parametrize("method", [name for name in LEARNING if name in APART])
def test_real_images_and_the_network_have_their_turn_once(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for budgets in (BUDGETS, (2,)):
        of = asked(budgets, range(3))
        plan = recipe(method, of)
        objective: Any = plan.objective
        calls: Counter[str] = Counter()
        for owner, name in ((objective.matcher, "target"), (objective.matcher, "match"), (objective.trainer, "run")):
            monkeypatch.setattr(owner, name, counted(getattr(owner, name), name, calls))
        condense(plan, of)
        counts.append(calls)
    together, single = counts
    assert together["target"] == single["target"] == single["match"] == 2 * 3 * 3
    assert together["run"] == single["run"] > 0
    assert together["match"] == 3 * single["match"]


@pytest.mark.parametrize("method", [name for name in LEARNING if name in APART])
def test_killed_after_any_step_and_resumed_is_equal(tmp_path: Path, method: str) -> None:
    of = asked(classes=range(2, 5))
    whole = run(method, of, (1, 2), **PACKED)
    for step in range(2 * 3 + 1):
        folder = tmp_path / str(step)
        with pytest.raises(KilledError):
            condense(recipe(method, of, **PACKED), of, (1, 2), Fragile(folder, step))
        resumed = condense(recipe(method, of, **PACKED), of, (1, 2), Fragile(folder, 10**6))
        assert same(resumed, whole), f"killed after step {step}"


@pytest.mark.parametrize("method", APART)
def test_class_phases_merged_equal_one_phase(method: str) -> None:
    over = {key: value for key, value in {**PACKED, "mipc": 12}.items() if key in settings(method)}
    whole = asked(classes=range(10))
    one = run(method, whole, **over)
    phases = [dataclasses.replace(whole, classes=classes) for classes in ([7, 2], [0, 1, 3, 4, 5, 6, 8, 9])]
    parts = [run(method, phase, **over) for phase in phases]
    for number in range(len(BUDGETS)):
        own, expected = alone(whole, one, number)
        sets = [as_set(*alone(phase, made, number)[::-1], 2) for phase, made in zip(phases, parts, strict=True)]
        merged = merge(sets)
        assert torch.equal(merged.images, as_set(expected, own, 2).images)
        assert torch.equal(merged.labels, as_set(expected, own, 2).labels)


def test_too_many_images_for_a_class_are_refused_with_the_budget() -> None:
    with pytest.raises(ValueError, match=r"ipc 4 with factor 2 needs 4 x 2\^2 = 16"):
        run("idc", asked((1, 4)), **PACKED)


# ---- the optimiser of the images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("sequential", [True, False])
def test_a_rate_an_image_is_what_one_rate_is(sequential: bool, momentum: float) -> None:
    generator = torch.Generator().manual_seed(0)
    positions, lr = torch.arange(10).repeat_interleave(3), tuned_lr(0.005, 3, 32, 32)
    x, g = (torch.rand(30, 3, 4, 4, generator=generator) for _ in range(2))
    several = torch.full((30,), lr, dtype=torch.float64)
    found = []
    for rate in (lr, several):
        sgd = ImageSGD(rate, momentum, positions, 10, sequential)
        moved, v = x, torch.zeros_like(x)
        for _ in range(3):
            moved, v = sgd.before(moved, v)
            moved, v = sgd.after(moved, v, g)
        found.append((moved, v))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    # ... and what plain numbers give.
    moved, v = x, torch.zeros_like(x)
    for _ in range(3):
        for steps, gradient in ((positions, None), (9 - positions, g)):
            if gradient is not None:
                v = momentum * v + gradient
                moved = moved - lr * v
            if sequential:
                decay = torch.pow(momentum, steps.double())[:, None, None, None]
                moved = moved - (lr * momentum * (1 - decay) / (1 - momentum)).float() * v
                v = decay.float() * v
    assert torch.equal(moved, found[0][0])
    assert torch.equal(v, found[0][1])


def test_each_image_moves_by_its_own_rate() -> None:
    rates = torch.tensor([0.1, 0.2, 0.0], dtype=torch.float64)
    sgd = ImageSGD(rates, 0.5, torch.tensor([0, 1, 1]), 2, sequential=False)
    x, _ = sgd.after(torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(3, 2))
    assert x.tolist() == (-rates.float()[:, None].expand(3, 2)).tolist()
    with pytest.raises(ValueError, match=r"a learning rate an image is needed: 3 images, rates \[2\]"):
        ImageSGD(rates[:2], 0.5, torch.tensor([0, 1, 1]), 2)


def test_the_quick_budgets_see_part_of_what_they_decode() -> None:
    """Else the tests above would not subsample."""
    objective: Any = recipe("idc", asked(), **PACKED).objective
    rows = objective.draws.of(0).rows
    assert rows[0] is None
    assert [tuple(row.shape) for row in rows[1:]] == [(3, 7, 6), (3, 7, 6)]
    assert not torch.equal(rows[1], rows[2])
    assert len(digits().of_class(0)) == 12
