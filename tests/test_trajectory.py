"""Gradients of trajectory matching: exact, in one step's memory, and those of the public code."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity import Arrays, count, error, gradient_error, load, network, our_name, tensor
from small import NETWORK, digits, problem, recipe, snapshots_of, synthetic
from torch import Tensor
from version_pieces import exact, in_float64

from benchmarks.live import peak_bytes
from ddlib import nn
from ddlib.artifacts import ArtifactError, load_tensors, save_tensors
from ddlib.augment.siamese import Augmentation
from ddlib.data.real import RealData
from ddlib.methods.driver import condense
from ddlib.methods.recipe import Problem
from ddlib.nn.functional import Params, functional, split
from ddlib.nn.norm import frozen_statistics
from ddlib.objectives.trajectory import ENGINES, Batch, Found, Student, Trajectory, adjoint, truncated, unroll
from ddlib.objectives.trajectory_matching import TrajectoryMatching, batch_rows
from ddlib.pool.experts import Experts
from ddlib.sets.synthetic import merge
from ddlib.streams import Streams

OPS = Augmentation("color_crop_cutout_flip_scale_rotate", "mtt")
PLAIN = Augmentation("none", "mtt")
CLASSES = 3
SNAPSHOTS = json.dumps(NETWORK)
WAYS = ("raw", "positive")


# ---- the engines --------------------------------------------------------------------------------------------------


def student(net: torch.nn.Module, augment: Augmentation = OPS) -> Student:
    return Student(functional(net), augment.apply)


def small_net(seed: int, norm: str = "instance") -> torch.nn.Module:
    options = {"architecture": "convnet", "depth": 2, "width": 6, "norm": norm}
    return nn.build(options, channels=3, size=8, classes=CLASSES, seed=seed).double()


def given(steps: int, augment: Augmentation = OPS, norm: str = "instance", **over: Any) -> tuple[Student, Trajectory]:
    """Twelve images of which a step sees five, drawn anew each time (so they overlap), at a large step size."""
    rng = np.random.default_rng(0)
    draws = augment.draw(rng, (steps,), height=8, width=8, images=5)
    chosen = draws.pop("choice", None)
    batches = [
        Batch(
            torch.from_numpy(rng.permutation(12)[:5]),
            {name: torch.from_numpy(values[step]) for name, values in draws.items()},
            None if chosen is None else augment.choices[int(chosen[step])],
        )
        for step in range(steps)
    ]
    net, (start, buffers), (other, _) = small_net(0, norm), split(small_net(0, norm)), split(small_net(1, norm))
    target = {name: value + 0.1 * (other[name] - value) for name, value in start.items()}
    images, labels = torch.from_numpy(rng.normal(size=(12, 3, 8, 8))), torch.arange(12) % CLASSES
    step_size = torch.tensor(0.3, dtype=torch.float64)
    made = Trajectory(start, target, buffers, images, labels, step_size, batches)
    return student(net, augment), dataclasses.replace(made, **over)


def close(found: Found, other: Found, tolerance: float) -> bool:
    """Relative to the largest entry."""
    pairs = zip(found, other, strict=True)
    return all(a.shape == b.shape and (a - b).abs().max() <= tolerance * b.abs().max() for a, b in pairs)


@pytest.mark.parametrize("frozen", [0, 5])
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_the_adjoint_is_the_unrolled_gradient(steps: int, frozen: int) -> None:
    made, asked = given(steps, frozen=frozen)
    exact = unroll(made, asked)
    assert exact.images.shape == (12 - frozen, 3, 8, 8)
    assert exact.images.abs().max() > 1e-4
    assert close(adjoint(made, asked), exact, 1e-10)
    assert close(truncated(made, asked), exact, 1e-10) is (steps == 1), "exact for one step only"


def test_frozen_images_count_but_get_no_gradient() -> None:
    made, free = given(6)
    held = dataclasses.replace(free, frozen=5)
    for engine in ENGINES.values():
        assert torch.equal(engine(made, held).images, engine(made, free).images[5:])
        moved = dataclasses.replace(held, images=free.images.clone())
        moved.images[:5] += 0.1
        assert not torch.equal(engine(made, moved).images, engine(made, held).images)


def test_every_operation_is_replayed_and_matters() -> None:
    made, asked = given(50)
    assert {batch.choice for batch in asked.batches} == set(OPS.choices)
    shuffled = [dataclasses.replace(batch, choice="flip") for batch in asked.batches]
    other = dataclasses.replace(asked, batches=shuffled)
    assert not close(adjoint(made, other), adjoint(made, asked), 1e-3)
    assert close(adjoint(made, other), unroll(made, other), 1e-10)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_other_networks(norm: str) -> None:
    made, asked = given(6, norm=norm)
    net = small_net(0, norm)
    made.call = functional(net)
    with frozen_statistics(net):
        assert close(adjoint(made, asked), unroll(made, asked), 1e-10)


def test_soft_labels_of_one_class_are_hard_ones() -> None:
    made, hard = given(4)
    shares = torch.nn.functional.one_hot(hard.labels, CLASSES).double()
    soft = dataclasses.replace(hard, labels=shares)
    assert close(adjoint(made, soft), adjoint(made, hard), 1e-12)
    mixed = dataclasses.replace(hard, labels=0.7 * shares + 0.1)
    assert close(adjoint(made, mixed), unroll(made, mixed), 1e-10)
    assert not close(adjoint(made, mixed), adjoint(made, hard), 1e-3)


def in_float32(asked: Trajectory) -> Trajectory:
    def of(params: Params) -> Params:
        return {name: value.float() if value.is_floating_point() else value for name, value in params.items()}

    start, target, buffers = (of(params) for params in (asked.start, asked.target, asked.buffers))
    batches = [dataclasses.replace(batch, draws=of(batch.draws)) for batch in asked.batches]
    images, step_size = asked.images.float(), asked.step_size.float()
    return Trajectory(start, target, buffers, images, asked.labels, step_size, batches, asked.frozen)


def test_float32() -> None:
    """At a step size at which steps do not magnify rounding."""
    made, asked = given(20, step_size=torch.tensor(0.02, dtype=torch.float64))
    made.call = functional(small_net(0).float())
    found, exact = (engine(made, in_float32(asked)) for engine in (adjoint, unroll))
    assert found.images.dtype == torch.float32
    assert close(found, exact, 1e-5)


def test_steps_are_whole_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """There and back, each compiled as one, whatever the operation: augmentation stays outside."""
    made, asked = given(8)
    expected = adjoint(made, asked)
    for name in ("step", "reverse"):
        compiled = torch.compile(getattr(made, name), fullgraph=True, dynamic=False, backend="aot_eager")
        monkeypatch.setattr(made, name, compiled)
    first = dataclasses.replace(asked, batches=asked.batches[:1])
    adjoint(made, first)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert close(adjoint(made, asked), expected, 1e-10)


def test_the_memory_is_that_of_one_step_and_the_parameters_of_all() -> None:
    """Bytes of living tensors at their most: a step more costs its parameters, unrolled all it computes."""

    def peak(engine: Any, steps: int) -> int:
        made, asked = given(steps, PLAIN)
        return peak_bytes(lambda: engine(made, asked))

    parameters = sum(value.numel() * 8 for value in given(1)[1].start.values())
    few, many = 4, 24
    growth = {name: (peak(engine, many) - peak(engine, few)) / (many - few) for name, engine in ENGINES.items()}
    assert growth["adjoint"] == pytest.approx(parameters, rel=0.02)
    assert growth["truncated"] == pytest.approx(parameters, rel=0.02)
    assert growth["unroll"] > 10 * parameters


# ---- the public code ----------------------------------------------------------------------------------------------


def golden_case(case: int) -> tuple[Arrays, Student, Trajectory]:
    data = load("mtt_trajectory")
    shapes = [tuple(int(n) for n in shape if n > 0) for shape in data["param_shapes"]]

    def named(flat: np.ndarray) -> Params:
        parts = torch.split(tensor(flat), [int(np.prod(shape)) for shape in shapes])
        names = [our_name(str(name)) for name in data["param_order"]]
        return {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}

    start = named(data["theta0"])
    net = network(start, data["x"].shape[-1])
    rows = data[f"case{case}_index_per_step_minus1_padded"]
    batches = [Batch(tensor(row[row >= 0])) for row in rows]
    assert len(batches) == data[f"case{case}_steps"]
    images, labels, eta = (tensor(data[name]) for name in ("x", "y", "eta"))
    target = named(data["theta_target"])
    return data, student(net, PLAIN), Trajectory(start, target, {}, images, labels, eta, batches)


@pytest.mark.parametrize("engine", ["adjoint", "unroll"])
@pytest.mark.parametrize("case", count("mtt_trajectory", "n_case"))
def test_the_gradient_is_that_of_the_public_code(case: int, engine: str) -> None:
    data, made, asked = golden_case(case)
    for suffix, frozen in (("", 0), ("_frozen", int(data[f"case{case}_frozen_first_rows"]))):
        found = ENGINES[engine](made, dataclasses.replace(asked, frozen=frozen))
        assert error(found.loss, data[f"case{case}_loss"]) < 1e-8
        assert gradient_error(found.images, data[f"case{case}_grad_x{suffix}"][frozen:]) < 1e-8
        assert gradient_error(found.step_size, data[f"case{case}_grad_eta{suffix}"]) < 1e-8


@pytest.mark.parametrize("case", count("mtt_trajectory", "n_case"))
def test_truncated_is_teslas_gradient(case: int) -> None:
    data, made, asked = golden_case(case)
    found = truncated(made, asked)
    assert error(found.loss, data[f"case{case}_truncated_loss"]) < 1e-8
    assert gradient_error(found.images, data[f"case{case}_truncated_grad_x"]) < 1e-8
    assert gradient_error(found.step_size, data[f"case{case}_truncated_grad_eta"]) < 1e-8


@pytest.mark.parametrize("case", count("mtt_trajectory", "n_case"))
def test_the_student_goes_where_the_public_code_goes(case: int) -> None:
    data, made, asked = golden_case(case)
    params = asked.start
    for batch, theta in zip(asked.batches, data[f"case{case}_theta_each_step"][1:], strict=True):
        params = made.step(params, {}, asked.images[batch.rows], asked.labels[batch.rows], asked.step_size)
        flat = torch.cat([params[our_name(str(name))].flatten() for name in data["param_order"]])
        assert error(flat, theta) < 1e-10


class Given:
    """A generator whose permutations are given."""

    def __init__(self, orders: np.ndarray) -> None:
        self.orders = iter(orders)

    def permutation(self, count: int) -> np.ndarray:
        order = next(self.orders)
        assert len(order) == count
        return np.asarray(order)


@pytest.mark.parametrize("case", count("mtt_trajectory", "n_case"))
def test_batches_are_taken_from_the_end_of_a_permutation(case: int) -> None:
    data = load("mtt_trajectory")
    rng: Any = Given(data[f"case{case}_permutations"])
    steps, batch = int(data[f"case{case}_steps"]), int(data[f"case{case}_batch"])
    found = batch_rows(rng, len(data["x"]), batch, steps)
    rows = data[f"case{case}_index_per_step_minus1_padded"]
    assert [own.tolist() for own in found] == [row[row >= 0].tolist() for row in rows]


def test_unions_are_those_of_the_public_code() -> None:
    """Stage after stage, as a merged set has them: what is learned comes last."""
    data = load("pdd_union_schedule")
    parts = []
    for stage in range(3):
        images, labels = tensor(data[f"tm_stage{stage}_new"]), tensor(data[f"tm_stage{stage}_labels"])[-6:]
        at = torch.full_like(labels, stage)
        parts.append(synthetic(classes=3, channels=2, images=images, labels=labels, stage=at))
        whole = merge(parts)
        assert torch.equal(whole.images, tensor(data[f"tm_stage{stage}_union"]))
        assert torch.equal(whole.labels, tensor(data[f"tm_stage{stage}_labels"]))
        assert int((whole.stage < stage).sum()) == data[f"tm_stage{stage}_frozen_rows"]


# ---- the objective ------------------------------------------------------------------------------------------------


def asked(**over: Any) -> Problem:
    rows: list[dict[str, Any]] = snapshots_of(SNAPSHOTS, (1, 8, 8), 10)
    made: Problem = problem(rows=rows, **over)
    return made


def objective(given: Problem | None = None, **over: Any) -> TrajectoryMatching:
    made = recipe("mtt", given or asked(), **over).objective
    assert isinstance(made, TrajectoryMatching)
    return made


def learned(step_size: float = 0.02, images: int = 20) -> Params:
    pixels = torch.rand(images, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return {"images": pixels, "step_size": torch.tensor(step_size)}


def gradient(made: TrajectoryMatching, held: Params, outer: int = 0) -> tuple[Tensor, Params]:
    return made.gradient(held, made.begin(outer, 0), 0)


def test_engines_agree_and_draws_are_keyed() -> None:
    loss, slopes = gradient(objective(engine="adjoint", student_steps=6, student_batch=7), learned())
    wanted = slopes["images"]
    assert loss.shape == (1,)
    assert wanted.shape == (20, 1, 8, 8)
    for engine, same in (("unroll", True), ("truncated", False)):
        made = objective(engine=engine, student_steps=6, student_batch=7)
        gradient(made, learned(), 1)
        found = gradient(made, learned())[1]["images"]
        off = (found - wanted).abs().max() / wanted.abs().max()
        assert bool(off < 1e-5) is same, engine


def test_the_gradient_is_that_of_shares() -> None:
    """Against a difference quotient in the images and in the step size, raw and as a logarithm."""
    with in_float64():
        rows = snapshots_of.__wrapped__(SNAPSHOTS, (1, 8, 8), 10)
        for way in WAYS:
            made = objective(problem(rows=rows, data=exact()), step_size_as=way, student_steps=4)
            held = {name: value.double() for name, value in learned(-3.0 if way == "positive" else 0.05).items()}
            found = gradient(made, held)[1]
            for name, slope in found.items():
                along = 1e-4 * slope / slope.norm()
                ends = [gradient(made, {**held, name: held[name] + sign * along})[0].item() for sign in (1, -1)]
                assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(slope.norm().item(), rel=1e-5)


def test_a_step_of_size_one_moves_normalised_images_as_published() -> None:
    plan = recipe("mtt", asked(), image_lr=3.0, image_momentum=0.5)
    x, g = torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8)
    moved, velocity = plan.optimisers["images"].after(x, torch.zeros_like(x), g)
    std = digits().std[0]
    normalised = (x - digits().mean[0]) / std - 3.0 * (g * std)
    torch.testing.assert_close((moved - digits().mean[0]) / std, normalised)
    assert torch.equal(velocity, g)


def test_a_positive_step_size_begins_with_the_raw_ones_step() -> None:
    raw, positive = (recipe("mtt", asked(), step_size=0.02, step_size_lr=1e-6, step_size_as=way) for way in WAYS)
    slope = torch.tensor(2.0)
    ends = []
    for plan, held in ((raw, slope), (positive, slope * 0.02)):
        moved = plan.optimisers["step_size"].after(plan.begins["step_size"], torch.zeros(()), held)[0]
        ends.append(plan.stored({"step_size": moved})["step_size"])
    torch.testing.assert_close(ends[0] - 0.02, torch.tensor(-2e-6), rtol=1e-2, atol=0)
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-6, atol=0)


def test_a_step_size_that_cannot_be_stops_the_run() -> None:
    plan = recipe("mtt", asked(), step_size_as="raw", step_size_lr=1e3)
    with pytest.raises(FloatingPointError, match=r"step size is .*lower step_size_lr 1000\.0 or image_lr .*positive"):
        condense(plan, asked())
    assert plan.sound({"step_size": torch.tensor(0.1)}) is None
    for bad in (0.0, -1e-9, float("nan"), float("inf")):
        assert "lower step_size_lr" in str(plan.sound({"step_size": torch.tensor(bad)}))
    positive = recipe("mtt", asked(), step_size_as="positive")
    assert positive.sound({"step_size": torch.tensor(-9.0)}) is None
    assert "lower step_size_lr" in str(positive.sound({"step_size": torch.tensor(1e3)}))


def test_soft_labels_are_what_this_iterations_expert_says(monkeypatch: pytest.MonkeyPatch) -> None:
    given = asked()
    plan, made = recipe("mtt", given, soft_labels="expert"), objective(soft_labels="expert")
    assert plan.begins["soft"].argmax(1).tolist() == torch.arange(10).repeat_interleave(2).tolist()
    held = {**learned(), "soft": plan.begins["soft"]}
    found = gradient(made, held)[1]["soft"]
    row = next(row for row in given.rows or () if _is(made, row))
    weights = {name[7:]: value for name, value in load_tensors(row["target_file"])[0].items() if "params/" in name}
    logits = functional(given.start().net)(weights, {}, digits().normalise(held["images"]))
    torch.testing.assert_close(found, logits.softmax(1))
    monkeypatch.setattr("ddlib.objectives.trajectory_matching.LABELLED_AT_ONCE", 7)
    torch.testing.assert_close(gradient(made, held)[1]["soft"], found)
    one_hot = gradient(objective(), held)[1]["images"]
    assert not torch.allclose(gradient(made, held)[1]["images"], one_hot), "the student learns from the new ones"
    end = condense(plan, given)
    assert end.learned["soft"].shape == (20, 10)
    torch.testing.assert_close(end.learned["soft"].sum(1), torch.ones(20))


def _is(made: TrajectoryMatching, row: Mapping[str, Any]) -> bool:
    """Whether this row is the expert of iteration 0."""
    start = load_tensors(row["file"])[0]
    return all(torch.equal(value, start[f"params/{name}"]) for name, value in made.experts.of(0).start.params.items())


def earlier(**over: Any) -> Any:
    """Ten images of an earlier stage."""
    images = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    names = digits().class_names
    return synthetic(classes=10, ipc=1, images=images, labels=torch.arange(10), class_names=names,
                     stage=torch.zeros(10, dtype=torch.int64), **over)  # fmt: skip


def test_images_of_earlier_stages_are_seen_and_stay() -> None:
    given = dataclasses.replace(asked(stage=1), frozen=earlier())
    made, alone = objective(given), objective(asked(stage=1))
    assert made.labels.tolist() == [*range(10), *torch.arange(10).repeat_interleave(2).tolist()]
    assert made.batch == alone.batch == 20
    rows = torch.cat([batch.rows for batch in made.batches(0)])
    assert rows.min() < 10
    assert rows.max() == 29
    found = gradient(made, learned())[1]["images"]
    assert found.shape == (20, 1, 8, 8)
    assert not torch.allclose(found, gradient(alone, learned())[1]["images"])
    with pytest.raises(ValueError, match="earlier stages have no soft labels"):
        objective(given, soft_labels="expert")
    soft = torch.full((10, 10), 0.1)
    made = objective(dataclasses.replace(given, frozen=earlier(soft=soft)), soft_labels="expert")
    assert gradient(made, learned())[1]["soft"].shape == (20, 10)
    with pytest.raises(ValueError, match="packed 2 x 2"):
        objective(dataclasses.replace(given, frozen=dataclasses.replace(earlier(), factor=2)))


def test_whitened_data_are_not_normalised_again() -> None:
    data = dataclasses.replace(digits(), mean=(0.0,), std=(1.0,))
    assert isinstance(data, RealData)
    plan = recipe("mtt", asked(data=data), image_lr=2.0)
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(plan.optimisers["images"].after(x, 0 * x, torch.ones_like(x))[0], x - 2)
    assert plan.range == "free"
    assert plan.partitionable is False


def test_what_cannot_be_is_refused() -> None:
    settings: list[tuple[dict[str, Any], str]] = [
        ({"student_steps": 0}, "student_steps is at least 1, not 0"),
        ({"student_batch": -1}, "student_batch is at least 0"),
        ({"engine": "adjoints"}, "no engine is called 'adjoints': did you mean 'adjoint'"),
        ({"soft_labels": "teacher"}, "no soft_labels is called 'teacher'"),
        ({"step_size_as": "square"}, "no step_size_as is called 'square'"),
        ({"step_size": 0.0}, "step_size is more than 0, not 0.0"),
        ({"step_size_momentum": 1.0}, "step_size_momentum lies in 0 <= momentum < 1, not 1.0"),
        ({"augment": "colour"}, "no augmentation is called 'colour'"),
    ]
    for over, said in settings:
        with pytest.raises(ValueError, match=said):
            recipe("mtt", asked(), **over)
    for given, said in [
        (asked(classes=range(5)), "all 10 classes together, not 5"),
        (asked(ipc=(1, 2)), r"images per class \[1, 2\] cannot be condensed together"),
        (asked(network=None), "needs a network"),
    ]:
        with pytest.raises(ValueError, match=said):
            recipe("mtt", given)


# ---- experts ------------------------------------------------------------------------------------------------------


def rows_of(folder: Path, **weights: float) -> list[dict[str, Any]]:
    """A start and a target that are 1 and what is given."""
    found: dict[str, str] = {}
    for name, value in {"start": 1.0, **weights}.items():
        path = folder / f"{name}.safetensors"
        found |= {name: str(path), f"{name}_hash": save_tensors(path, {"params/a": torch.full((3,), value)})}
    keys = {"file": "start", "sha256": "start_hash", "target_file": "target", "target_sha256": "target_hash"}
    return [{key: found[name] for key, name in keys.items()}]


def test_experts_that_did_not_move_or_have_no_target_are_refused(tmp_path: Path) -> None:
    streams = Streams(0, "experts")
    for value, said in ((1.0, "no weight moved"), (float("nan"), "weights are not finite")):
        rows = rows_of(tmp_path, target=value)
        with pytest.raises(ValueError, match=f"start.safetensors to .*target.safetensors.* {said}"):
            Experts(rows, streams).of(0)
    for missing in (float("nan"), None, ""):
        with pytest.raises(ValueError, match=r"has no target: .* `horizon`"):
            Experts([{**rows[0], "target_file": missing}], streams)
    with pytest.raises(ValueError, match="selects no snapshot"):
        Experts([], streams)


def test_each_file_is_checked_once_and_drawn_by_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = rows_of(tmp_path, target=2.0)
    asked_for = []

    def counted(path: str, sha256: str | None = None) -> Any:
        asked_for.append(sha256 is not None)
        return load_tensors(path, sha256)

    monkeypatch.setattr("ddlib.pool.experts.load_tensors", counted)
    experts = Experts([row], Streams(0, "experts"))
    for outer in (0, 0, 1, 2):
        assert experts.of(outer).target.params["a"].tolist() == [2, 2, 2]
    assert asked_for == [True, True, False, False, False, False]
    with pytest.raises(ArtifactError, match="is not the file its manifest describes"):
        Experts([{**row, "target_sha256": "0" * 64}], Streams(0, "experts")).of(0)
    made = Experts(snapshots_of(SNAPSHOTS, (1, 8, 8), 10), Streams(0, "experts"))
    seen = [made.of(outer).start.params["classifier.bias"].tolist() for outer in range(12)]
    assert len({tuple(bias) for bias in seen}) == 2
