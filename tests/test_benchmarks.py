"""The baseline of `make bench` computes what ddlib does; the command measures and writes. No speed is asserted."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from parity import error
from torch import Tensor

from benchmarks import planning, problem
from benchmarks.machine import slug
from benchmarks.plain import Plain, PlainConvNet
from benchmarks.report import text
from benchmarks.suite import Suite
from ddlib.data.real import RealData
from ddlib.methods.recipe import Recipe
from ddlib.objectives.matching import GradientMatching, Inner
from ddlib.train.loop import State

ROOT = Path(__file__).resolve().parents[1]
TINY = problem.Size(
    classes=3, ipc=2, side=8, width=8, depth=2, real_batch=5, network_batch=6, network_samples=12, per_class=8
)


def mean(losses: list[float]) -> Tensor:
    return torch.tensor(losses, dtype=torch.float64).mean()


class Exact(RealData):
    """Its pixels in float64."""

    def pixels(self, index: Any) -> Tensor:
        return super().pixels(index).double()


class Pair:
    """The same problem in float64, as ddlib's objective and as the plain code."""

    def __init__(self) -> None:
        random = problem.random_data(TINY, "cpu")
        self.data = Exact(**{name: getattr(random, name) for name in RealData.__dataclass_fields__})
        self.recipe: Recipe = problem.recipe(TINY, self.data, "never", chunk=1)
        assert isinstance(self.recipe.objective, GradientMatching)
        self.objective = self.recipe.objective
        begun = self.objective.begin(0, 0)
        doubled = {name: value.double() for name, value in begun.network.tensors().items()}
        self.inner = Inner(0, State.from_tensors(doubled), 0)
        self.images = problem.random_images(TINY, "cpu").double()

    def plain(self) -> Plain:
        found = problem.plain(TINY, self.data, self.inner.network.params, self.images)
        assert next(found.net.parameters()).dtype == torch.float64
        return found

    def matched(self, plain: Plain, step: int) -> list[float]:
        """A round of the plain code on what ddlib draws for it."""
        draws = self.objective.draws
        tensors = draws.of(0).tensors
        losses = []
        for label in range(TINY.classes):
            own = {name[4:]: values[step, label] for name, values in tensors.items() if name.startswith("aug/")}
            own = {name: value.item() for name, value in own.items()}
            losses.append(plain.match(label, draws.real(label, step).tolist(), own))
        return losses


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_the_plain_round_is_ours(pair: Pair) -> None:
    """Loss and gradient of one class after the other, without the optimiser's momentum between them."""
    plain = pair.plain()
    plain.moves = torch.optim.SGD([plain.synthetic], lr=1.0)
    losses = pair.matched(plain, 0)
    loss, gradients = pair.objective.gradient({"images": pair.images}, pair.inner, 0)
    gradient = gradients["images"]
    assert gradient.abs().max() > 1e-4
    assert error(loss.mean(), mean(losses)) < 1e-8
    assert ((pair.images - plain.synthetic.detach() - gradient).abs().max() / gradient.abs().max()) < 1e-8


def test_the_plain_optimiser_is_ours(pair: Pair) -> None:
    """Two rounds at one network with momentum: every class's step moves all images."""
    plain, optimiser = pair.plain(), pair.recipe.optimisers["images"]
    assert optimiser is not None
    x, v = pair.images, torch.zeros_like(pair.images)
    for step in range(2):
        pair.matched(plain, step)
        x, v = optimiser.before(x, v)
        x, v = optimiser.after(x, v, pair.objective.gradient({"images": x}, pair.inner, step)[1]["images"])
    moved = (x - pair.images).abs().max()
    assert moved > 1e-6
    assert (plain.synthetic.detach() - x).abs().max() < 1e-8 * moved


def test_the_plain_network_steps_are_ours(pair: Pair) -> None:
    plain, trainer = pair.plain(), pair.objective.trainer
    batches = pair.objective.batches.batches(0, problem.network_steps(TINY) * 3)
    network, totals = trainer.run(pair.inner.network, batches, (0,))
    drawing = trainer._draw(len(batches), (0,))
    draws, mixes = drawing.draws, drawing.mix
    rate = float(torch.tensor(trainer.learning.lr))  # ours is a float32 tensor
    plain.learns.param_groups[0]["lr"] = rate
    losses, mixed = [], 0
    for step, chosen in enumerate(batches):
        n = len(chosen)
        own = {
            name: values[step, :n].double() if values.is_floating_point() else values[step, :n]
            for name, values in draws.items()
        }
        box, ratio = mixes["box"][step].tolist(), mixes["ratio"][step].item()
        mix = {"box": box, "permutation": mixes["permutation"][step], "ratio": ratio} if any(box) else {}
        mixed += bool(mix)
        losses.append(plain.train(chosen.tolist(), own, mix)[0])
    assert 0 < mixed < len(batches)
    assert error(totals.loss / totals.count, mean(losses)) < 1e-8
    for name, value in plain.net.named_parameters():
        assert error(network.params[name], value.detach()) < 1e-8, name


def test_the_plain_code_draws_for_itself() -> None:
    """A round and the network's steps with its own numbers: finite, and everything moves."""
    data = problem.random_data(TINY, "cpu")
    made = problem.recipe(TINY, data, "never").objective
    assert made is not None
    params = made.begin(0, 0).network.params
    plain = problem.plain(TINY, data, params, problem.random_images(TINY, "cpu"))
    assert 0 < plain.matching() < float("inf")
    assert 0 < plain.training() < float("inf")
    assert not torch.equal(plain.synthetic.detach(), problem.random_images(TINY, "cpu"))
    assert all(not torch.equal(value, params[name]) for name, value in plain.net.named_parameters())


def test_operations_are_counted_once_for_both() -> None:
    """ConvNet-3 of width 128 at 32 px: 2 x 9 x (3 x 128 x 32^2 + 128^2 x 16^2 + 128^2 x 8^2) + 2 x 2048 x 10."""
    size = problem.Size()
    one = 2 * 9 * (3 * 128 * 32**2 + 128**2 * (16**2 + 8**2)) + 2 * 2048 * 10
    assert problem.flops(size, "network") == 3 * 64 * one
    assert problem.flops(size, "matching") == (3 * 64 + 9 * 40) * one
    assert problem.flops(size, "inner") == 10 * (3 * 64 + 9 * 40) * one + 32 * 3 * 64 * one
    assert PlainConvNet(3, 32, 10, 3, 128)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@functools.cache
def arguments() -> list[str]:
    sizes = {name: getattr(TINY, name) for name in problem.Size.__dataclass_fields__}
    return [word for name, value in sizes.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--device", "cpu", "--threads", "1", "--repeats", "2"]
    command += ["--compile", "never", "--no-memory", "--output", str(tmp_path), *arguments()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.csv")
    assert path.name == f"{slug('cpu', 1)}.csv"
    table = pd.read_csv(path)
    timed = table[table["part"].isin(("matching", "network", "inner"))]
    assert list(map(tuple, timed[["part", "code", "precision"]].values)) == [
        (part, *variant.split())
        for part in ("matching", "network", "inner")
        for variant in ("plain fp32", "ddlib fp32", "ddlib bf16")
    ]
    assert (timed["seconds"] > 0).all()
    assert (timed["median_seconds"] >= timed["seconds"]).all()
    assert (timed["share_of_matrix_rate"] > 0).all()
    assert (timed["times_plain_fp32"][timed["code"] == "plain"] == 1).all()
    (precision,) = table[table["part"] == "precision"].to_dict("records")
    assert 0 < precision["relative_error"] < 0.5
    assert {"device", "threads", "amx", "torch", "size"} <= set(table)
    engines = table[table["part"] == "trajectory"].set_index("code")
    assert list(engines.index) == ["unroll", "adjoint", "truncated"]
    assert (engines["seconds"] > 0).all()
    assert engines["target"].tolist()[1] == 0.8
    assert "x plain" in done.stdout
    assert "turn 2 of 2" in done.stderr


def test_memory_and_targets() -> None:
    """Peak memory comes from a process of its own; targets stand beside what they are for."""
    suite = Suite(TINY, "cpu", 1, "never", 1, ("network",), ("fp32",))
    table = suite.run()
    assert (table["peak_mb"] > 50).all()
    assert table["target"].tolist()[1:] == [1.8]
    assert table["met"].tolist()[1:] in ([True], [False])
    assert " 1.8 " in text(table)
    engines = Suite(TINY, "cpu", 1, "never", 1, ("trajectory",), ("fp32",)).run().set_index("code")
    grown = engines["live_mb_a_step"] / engines["parameters_mb"]
    assert grown["adjoint"] == pytest.approx(1, rel=0.2)
    assert grown["unroll"] > 5
    with pytest.raises(ValueError, match="has no tf32"):
        Suite(TINY, "cpu", 1, "never", 1, ("network",), ("tf32",))


def test_planning_is_measured_of_the_same_jobs() -> None:
    """A small suite: planned three ways, all of it found made at last (or an error says what is not)."""
    rows = [dict(zip(planning.COLUMNS, row, strict=True)) for row in planning.measure(1, 1, 1)]
    assert [row["case"] for row in rows] == ["bare Snakefile", "nothing made", "everything made, no record"]
    assert len({row["jobs"] for row in rows}) == 1
    assert rows[0]["jobs"] > 250
    assert rows[0]["times_bare"] == 1
    assert all(row["cpu_seconds"] > 0 and row["peak_mb"] > 50 for row in rows)
