"""Matching: against plain autograd, over classes, compiled, and without touching what it must not touch."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ddlib.augment.siamese import Augmentation
from ddlib.nn import build
from ddlib.nn.functional import Params, functional, matched_names, split
from ddlib.objectives.distances import METRICS, distance
from ddlib.objectives.gradient import ORDERS, class_gradients, match_class, match_target
from ddlib.sets.packing import decode

CLASSES, SIDE = 3, 8
AUGMENTATION = Augmentation("color_crop_cutout_flip_scale_rotate")


class Problem:
    """A tiny network, stored and real images of every class, and one matching step of a class."""

    def __init__(self, norm: str = "instance", dtype: torch.dtype = torch.float64, choice: str = "crop") -> None:
        network = {"architecture": "convnet", "width": 4, "depth": 2, "norm": norm}
        self.net = build(network, channels=3, size=SIDE, classes=CLASSES, seed=1).to(dtype)
        self.params, self.buffers = split(self.net)
        self.call, self.matched, self.choice = functional(self.net), matched_names(self.net), choice
        generator = torch.Generator().manual_seed(0)
        self.stored = torch.rand(CLASSES, 2, 3, SIDE, SIDE, generator=generator).to(dtype)
        self.real = torch.randn(CLASSES, 5, 3, SIDE, SIDE, generator=generator).to(dtype)
        self.labels = torch.arange(CLASSES)
        drawn = AUGMENTATION.draw(np.random.default_rng(0), (CLASSES,), height=SIDE, width=SIDE)
        self.draws = {key: torch.from_numpy(value) for key, value in drawn.items() if key != "choice"}

    def prepare(self, stored: Tensor, draws: Params) -> Tensor:
        return AUGMENTATION.apply((decode(stored, 2) - 0.5) / 0.25, draws, self.choice)

    def step(
        self, params: Params, stored: Tensor, real: Tensor, label: Tensor, draws: Params, metric: str, order: str
    ) -> tuple[Tensor, Tensor]:
        return match_class(
            lambda p, x: self.call(p, self.buffers, x),
            params,
            self.matched,
            lambda stored: self.prepare(stored, draws),
            stored,
            AUGMENTATION.apply(real, draws, self.choice),
            label,
            metric,
            order,
        )

    def of_class(self, c: int) -> tuple[Tensor, Tensor, Tensor, Params]:
        return self.stored[c], self.real[c], self.labels[c], {key: value[c] for key, value in self.draws.items()}

    def loop(self, metric: str, order: str) -> tuple[Tensor, Tensor]:
        found = [self.step(self.params, *self.of_class(c), metric, order) for c in range(CLASSES)]
        return torch.stack([loss for loss, _ in found]), torch.stack([gradient for _, gradient in found])

    def batched(self, metric: str, order: str, params: Params) -> tuple[Tensor, Tensor]:
        return torch.func.vmap(
            lambda stored, real, label, draws: self.step(params, stored, real, label, draws, metric, order)
        )(self.stored, self.real, self.labels, self.draws)


def plain(problem: Problem, c: int, metric: str) -> tuple[Tensor, Tensor]:
    """The same step as the official code has it: autograd with `create_graph`, on the module itself."""
    stored, real, label, draws = problem.of_class(c)
    stored = stored.clone().requires_grad_()
    weights = [problem.net.get_parameter(name) for name in problem.matched]

    def gradients(x: Tensor, graph: bool) -> tuple[Tensor, ...]:
        loss = torch.nn.functional.cross_entropy(problem.net(x), label.expand(x.shape[0]))
        return torch.autograd.grad(loss, weights, create_graph=graph)

    target = gradients(AUGMENTATION.apply(real, draws, problem.choice), False)
    loss = distance(metric, gradients(problem.prepare(stored, draws), True), target)
    return loss, torch.autograd.grad(loss, stored)[0]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("metric", METRICS)
def test_equals_plain_autograd_and_vmap_equals_the_loop(metric: str, order: str) -> None:
    problem = Problem()
    loss, gradient = problem.loop(metric, order)
    for c in range(CLASSES):
        expected = plain(problem, c, metric)
        torch.testing.assert_close((loss[c], gradient[c]), expected, rtol=1e-10, atol=1e-10)
    batched = problem.batched(metric, order, problem.params)
    torch.testing.assert_close(batched, (loss, gradient), rtol=0, atol=1e-10)
    assert gradient.abs().amax((1, 2, 3, 4)).min() > 1e-6


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("choice", ["scale", "rotate"])
def test_samplers_under_vmap(choice: str, order: str) -> None:
    problem = Problem(choice=choice)
    batched = problem.batched("mse", order, problem.params)
    torch.testing.assert_close(batched, problem.loop("mse", order), rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("norm", ["batch", "layer", "group", "none"])
def test_other_norms_and_untouched_statistics(norm: str, order: str) -> None:
    problem = Problem(norm)
    before = {name: value.clone() for name, value in problem.net.named_buffers()}
    loop = problem.loop("mse", order)
    torch.testing.assert_close(problem.batched("mse", order, problem.params), loop, rtol=0, atol=1e-10)
    for name, value in before.items():
        assert torch.equal(problem.net.get_buffer(name), value)
        assert torch.equal(problem.buffers[name], value)
    loss, gradient = plain(problem, 1, "mse")
    torch.testing.assert_close((loop[0][1], loop[1][1]), (loss, gradient), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("metric", METRICS)
def test_nothing_waits_for_the_device(metric: str, order: str) -> None:
    """On tensors without data, anything that reads a value on the host raises."""
    problem = Problem()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        params = {name: mode.from_tensor(value) for name, value in problem.params.items()}
        stored, real, label, draws = problem.of_class(0)
        drawn = {key: mode.from_tensor(value) for key, value in draws.items()}
        arguments = (mode.from_tensor(stored), mode.from_tensor(real), mode.from_tensor(label), drawn)
        _, gradient = problem.step(params, *arguments, metric, order)
    assert gradient.shape == stored.shape


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("over", ["class", "classes"])
def test_traces_in_one_graph(over: str, order: str) -> None:
    problem = Problem()
    loss, gradient = problem.loop("mse", order)
    if over == "class":
        compiled = torch.compile(problem.step, fullgraph=True, backend="aot_eager")
        found = compiled(problem.params, *problem.of_class(0), "mse", order)
        torch.testing.assert_close(found, (loss[0], gradient[0]), rtol=0, atol=1e-10)
    else:
        found = torch.compile(problem.batched, fullgraph=True, backend="aot_eager")("mse", order, problem.params)
        torch.testing.assert_close(found, (loss, gradient), rtol=0, atol=1e-10)


@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")), reason="no compiler")
def test_compiles_in_one_graph() -> None:
    problem = Problem(dtype=torch.float32)
    loss, gradient = problem.loop("mse", "reverse")
    compiled = torch.compile(problem.step, fullgraph=True)
    for c in range(CLASSES):
        found = compiled(problem.params, *problem.of_class(c), "mse", "reverse")
        torch.testing.assert_close(found, (loss[c], gradient[c]), rtol=1e-4, atol=1e-5)


def test_following_the_gradient_lowers_the_loss() -> None:
    problem = Problem()
    stored, real, label, draws = problem.of_class(0)
    losses = []
    for _ in range(20):
        loss, gradient = problem.step(problem.params, stored, real, label, draws, "mse", "reverse")
        losses.append(loss.item())
        stored = stored - 0.1 * gradient
    assert losses[-1] < 0.7 * losses[0]


def test_real_gradients_may_be_shared() -> None:
    problem = Problem()
    stored, real, label, draws = problem.of_class(1)
    seen = AUGMENTATION.apply(real, draws, problem.choice)

    def apply(params: Params, x: Tensor) -> Tensor:
        return problem.call(params, problem.buffers, x)

    target = class_gradients(apply, problem.params, problem.matched, seen, label.expand(5))
    found = match_target(
        apply, problem.params, problem.matched, lambda x: problem.prepare(x, draws), stored, target, label, "l1"
    )
    torch.testing.assert_close(found, problem.step(problem.params, stored, real, label, draws, "l1", "reverse"))


def test_unknown_names_are_refused() -> None:
    problem = Problem()
    with pytest.raises(ValueError, match="no metric is called 'l2'"):
        problem.loop("l2", "reverse")
    with pytest.raises(ValueError, match=r"'sideways'.*reverse, forward"):
        problem.loop("mse", "sideways")
    with pytest.raises(ValueError, match="not 1 and 2"):
        distance("mse", [torch.zeros(1)], [torch.zeros(1)] * 2)
