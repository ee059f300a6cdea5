"""One contract over every registered method, by its declarations, on real digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import NETWORK, QUICK, SPEC, TRAINING, digits, equipped, problem, recipe, settings, some, with_targets
from torch import Tensor

from ddlib import presets, registry
from ddlib.checkpoints import Checkpoint
from ddlib.methods.driver import Condensed, condense
from ddlib.methods.recipe import Problem
from ddlib.objectives.matching import Execution
from ddlib.pool.draw import FromPool
from ddlib.pool.member import MemberTraining
from ddlib.sets.synthetic import SyntheticSet, merge

METHODS = sorted(registry.METHODS)
LEARNING = [name for name in METHODS if presets.METHOD_SETTINGS[name]["default"]["outer_iterations"]]
STARTS = ("first", "mix", "random", "noise")


class KilledError(Exception):
    """What a test ends a run with."""


class Fragile(Checkpoint):
    """Saves after every inner step, and dies right after saving for the `last`-th time (0: before the first)."""

    def __init__(self, folder: Path, last: int) -> None:
        super().__init__(folder, "made", {"a": 1}, 0.0, say=lambda text: None)
        self.left = last

    @property
    def due(self) -> bool:
        if not self.left:
            raise KilledError
        return True

    def save(self, tensors: Any, facts: Any) -> None:
        super().save(tensors, facts)
        self.left -= 1
        if not self.left:
            raise KilledError


def run(method: str, asked: Problem | None = None, snapshots: Any = (), **over: Any) -> Condensed:
    asked = equipped(method, asked or problem(), settings(method, **over))
    return condense(recipe(method, asked, **over), asked, snapshots)


def as_set(made: Condensed, asked: Problem, factor: int) -> SyntheticSet:
    """As the condense job makes it of a phase."""
    labels = torch.tensor(asked.classes).repeat_interleave(*asked.budgets)
    data = asked.data
    facts: dict[str, Any] = {"mean": data.mean, "std": data.std, "class_names": data.class_names, "name": data.name}
    facts |= {"grid": round(made.origin.shape[1] ** 0.5), "origin": made.origin} if made.origin is not None else {}
    return SyntheticSet(images=made.images, labels=labels, stage=torch.zeros_like(labels), factor=factor, **facts)


def same(a: Condensed, b: Condensed) -> bool:
    """Bit for bit."""
    kept = a.snapshots.keys() == b.snapshots.keys()
    pairs = [
        (a.learned, b.learned),
        (a.initial, b.initial),
        *((a.snapshots[at], b.snapshots[at]) for at in b.snapshots),
    ]
    equal = all(x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in y) for x, y in pairs)
    return kept and a.losses == b.losses and equal


def test_every_method_is_covered_and_has_its_settings() -> None:
    assert set(METHODS) == set(presets.METHOD_SETTINGS)
    assert LEARNING
    for name in METHODS:
        assert set(registry.METHODS[name].facts["parts"]) <= set(registry.COMPONENTS)
        assert ("network" in registry.METHODS[name].facts) is True


@pytest.mark.parametrize("method", METHODS)
def test_what_learns_moves_and_what_does_not_stays(method: str) -> None:
    asked = problem()
    before = asked.data.images.clone()
    made, plan = run(method, asked), recipe(method)
    shape = (len(asked.classes) * 2, 1, 8, 8)
    assert made.images.shape == made.initial["images"].shape == shape
    assert made.images.dtype == (torch.uint8 if plan.grid else torch.float32)
    assert (made.origin is not None) is bool(plan.grid)
    moved = (made.images.float() - made.initial["images"].float()).abs().amax((1, 2, 3))
    assert (moved > 1e-6).all() if "images" in plan.learns else (moved == 0).all()
    assert bool(plan.learns) is (method in LEARNING)
    assert [len(losses) for losses in made.losses] == [plan.outer_iterations] * bool(plan.learns)
    assert torch.equal(asked.data.images, before)


@pytest.mark.parametrize("init", STARTS)
@pytest.mark.parametrize("method", METHODS)
def test_ranges_hold_and_classes_balance(method: str, init: str) -> None:
    factor = 2 if "factor" in settings(method) else 1
    asked = problem()
    over = {"image_lr": 50.0} if method in LEARNING else {}
    made, plan = run(method, asked, init=init, factor=factor, **over), recipe(method, factor=factor)
    finished = as_set(made, asked, plan.factor)
    images, labels = finished.decode()
    assert torch.isfinite(images).all()
    if plan.range == "clamped":
        assert 0 <= finished.pixels.min() <= finished.pixels.max() <= 1
    for these, each in ((finished.labels, 2), (labels, 2 * plan.factor**2)):
        assert torch.bincount(these).tolist() == [each] * 10
    if over and plan.range == "clamped":
        assert {0.0, 1.0} <= set(made.images.flatten().tolist()), "so large a step must meet both ends"


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_bytes_save_and_load_equal(tmp_path: Path, method: str) -> None:
    for name in ("a", "b"):
        asked = problem(seed=3)
        made = as_set(run(method, asked), asked, 1)
        torch.rand(3)  # the global generator has no say
        digest = made.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    read = SyntheticSet.load(tmp_path / "a", digest)
    assert read.facts() == made.facts()
    assert all(torch.equal(value, read.tensors()[name]) for name, value in made.tensors().items())


@pytest.mark.parametrize("method", METHODS)
def test_another_seed_draws_anew_where_anything_is_drawn_and_another_stage_has_other_images(method: str) -> None:
    plan, made = recipe(method), run(method)
    drawn = bool(plan.learns) or plan.init in ("random", "noise", "rded", "crops", "kmeans")
    assert torch.equal(made.images, run(method, problem(seed=1)).images) is not drawn
    assert not torch.equal(made.images, run(method, problem(stage=1)).images), "the next images, where none are drawn"


@pytest.mark.parametrize("kind", ["fresh", "view"])
@pytest.mark.parametrize("method", LEARNING)
def test_killed_after_any_step_and_resumed_is_equal(tmp_path: Path, method: str, kind: str, view: Any) -> None:
    network = {**NETWORK, "norm": "batch"}
    asked = problem(some(method, range(2, 5)), rows=view if kind == "view" else None, network=network)
    over = {"pretrain_epochs": 1} if "pretrain_epochs" in settings(method) and kind == "fresh" else {}
    plan = recipe(method, asked, **over)
    whole = condense(plan, asked, (1, 2))
    assert plan.objective is not None
    for step in range(plan.outer_iterations * plan.objective.inner_steps + 1):
        folder = tmp_path / str(step)
        with pytest.raises(KilledError):
            condense(recipe(method, asked, **over), asked, (1, 2), Fragile(folder, step))
        resumed = condense(recipe(method, asked, **over), asked, (1, 2), Fragile(folder, 10**6))
        assert same(resumed, whole), f"killed after step {step}"


@pytest.mark.parametrize("method", LEARNING)
def test_killed_between_outer_iterations_and_twice(tmp_path: Path, method: str) -> None:
    whole = run(method, snapshots=(1,))

    def killed_at(outer: int) -> None:
        if outer == 1:
            raise KilledError

    with pytest.raises(KilledError):
        condense(recipe(method), problem(), (1,), Fragile(tmp_path, 10**6), tick=killed_at)
    plan = recipe(method)
    assert plan.objective is not None
    with pytest.raises(KilledError):
        condense(plan, problem(), (1,), Fragile(tmp_path, min(2, plan.objective.inner_steps)))
    done: list[int] = []
    resumed = condense(recipe(method), problem(), (1,), Fragile(tmp_path, 10**6), tick=done.append)
    assert same(resumed, whole)
    assert done == [2]
    again = condense(recipe(method), problem(), (1,), Fragile(tmp_path, 10**6))
    assert torch.equal(again.images, whole.images), "killed between the last step and writing the result"


@pytest.mark.parametrize(
    "phases", [[range(5), range(5, 10)], [[c] for c in range(10)], [[7, 2], [0, 1, 3, 4, 5, 6, 8, 9]]]
)
@pytest.mark.parametrize("method", METHODS)
def test_class_phases_merged_equal_one_phase(method: str, phases: list[Any]) -> None:
    if not recipe(method).partitionable:
        pytest.skip("declared not partitionable")
    one = as_set(run(method), problem(), 1)
    parts = [as_set(run(method, problem(classes)), problem(classes), 1) for classes in phases]
    merged = merge(parts[::-1])
    assert torch.equal(merged.labels, one.labels)
    assert torch.equal(merged.images, one.images)


@pytest.mark.parametrize("choices", ["crop", "crop_scale_rotate"])
@pytest.mark.parametrize("method", LEARNING)
def test_classes_at_once_change_only_the_last_bits(method: str, choices: str) -> None:
    over = {"match_augment": f"color_{choices}_cutout"} if "match_augment" in settings(method) else {}
    one, many = (
        run(method, problem(some(method, range(7)), execution=Execution(class_chunk=chunk)), **over) for chunk in (1, 3)
    )
    torch.testing.assert_close(many.images, one.images, rtol=0, atol=1e-4)
    torch.testing.assert_close(many.losses, one.losses, rtol=1e-3, atol=0)


@pytest.mark.parametrize("method", LEARNING)
def test_snapshots_are_what_the_run_had_then(method: str) -> None:
    long = run(method, snapshots=(1, 2))
    short = run(method, outer_iterations=1, snapshots=(1,))
    assert torch.equal(long.snapshots[1]["images"], short.images)
    assert torch.equal(short.snapshots[1]["images"], short.images)
    assert torch.equal(long.snapshots[2]["images"], long.images)
    assert not torch.equal(long.snapshots[1]["images"], long.snapshots[2]["images"])
    assert long.losses[0][:1] == short.losses[0]
    assert same(run(method), Condensed(long.learned, long.initial, {}, long.losses)), "keeping them changes nothing"


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two snapshots of a member with batch norm, as the rows of a selection."""
    folder = tmp_path_factory.mktemp("pool")
    spec = {"network": {**NETWORK, "norm": "batch"}, "training": TRAINING, "snapshots": "all", "seed": 0}
    made = MemberTraining(spec, 0, digits(), folder).run()
    names = {1: "member0/epoch1", 2: "member0/epoch2"}
    rows = [{"file": str(made["files"][name]), "sha256": None, "epoch": epoch} for epoch, name in names.items()]
    return with_targets(rows)


@pytest.mark.parametrize("method", LEARNING)
def test_starts_from_a_view(method: str, view: list[dict[str, Any]]) -> None:
    network = {**NETWORK, "norm": "batch"}
    asked = problem(rows=view, network=network)
    start = asked.start()
    assert isinstance(start, FromPool)
    seen = {tuple(start.draw(outer).params["classifier.bias"].tolist()) for outer in range(20)}
    assert len(seen) == 2
    made = run(method, asked)
    assert not torch.equal(made.images, run(method, problem(network=network)).images)
    assert torch.equal(made.images, run(method, problem(rows=view, network=network)).images)
    with pytest.raises(ValueError, match="selects no snapshot"):
        run(method, problem(rows=[], network=network))


@pytest.mark.parametrize("chunk", [1, 5])
@pytest.mark.parametrize("method", LEARNING)
def test_matching_leaves_running_statistics_and_weights(method: str, chunk: int) -> None:
    asked = problem(network={**NETWORK, "norm": "batch"}, execution=Execution(class_chunk=chunk))
    plan = recipe(method, asked)
    objective: Any = plan.objective
    images = run("random", asked).images

    def everything(inner: Any) -> list[Tensor]:
        net = objective.start.net if hasattr(objective, "start") else objective.net
        return [*inner.network.tensors().values(), *net.state_dict().values()]

    inner = objective.begin(0, 0)
    before = [value.clone() for value in everything(inner)]
    loss, gradients = objective.gradient({"images": images, **plan.begins}, inner, 0)
    gradient = gradients["images"]
    assert all(torch.equal(a, b) for a, b in zip(before, everything(inner), strict=True))
    assert loss > 0
    assert gradient.abs().amax((1, 2, 3)).min() > 0
    after = objective.advance(inner)
    if after is inner:  # every step has a network of its own
        return
    changed = {name: value for name, value in after.network.buffers.items() if "running" in name}
    assert changed
    assert all(not torch.equal(value, inner.network.buffers[name]) for name, value in changed.items())
    assert all(torch.equal(a, b) for a, b in zip(before, everything(inner), strict=True)), "not in place"


@pytest.mark.parametrize("method", LEARNING)
def test_every_way_of_matching_moves_the_images(method: str) -> None:
    ways: list[dict[str, Any]] = [{"metric": metric} for metric in ("l1", "l1_mean", "cos")]
    ways += [{"matched": part} for part in ("conv_fc", "all")]
    ways += [{"match": "feature"}, {"network_samples": 0}, {"synthetic_batch": 3, "factor": 2, "init": "mix"}]
    ways += [{"factor": 2, "decode": "multi"}, {"factor": 2, "decode": "bound", "decode_limit": 6}]
    asked = problem(some(method, range(3)))
    plain = run(method, asked)
    for way in ways:
        if set(way) <= set(settings(method)):
            made = run(method, asked, **way)
            moved = (made.images.float() - made.initial["images"].float()).abs().amax((1, 2, 3))
            assert (moved > 0).all(), way
            assert not torch.equal(made.images, plain.images), way


def test_the_quick_settings_are_settings() -> None:
    """Else a misspelt one would leave the tests slow or aimless."""
    assert set(QUICK) <= set().union(*(settings(name) for name in METHODS))
    assert SPEC["classes"] == digits().classes
