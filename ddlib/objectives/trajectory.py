"""Trajectory matching: a student trained for T steps on synthetic images is to end where an expert ended on real ones.

Cazenavette et al., "Dataset Distillation by Matching Training Trajectories" (MTT), 2022, arXiv 2203.11932;
GeorgeCazenavette/mtt-distillation @ 50dccea. With theta_{i+1} = theta_i - eta g_i, g_i the gradient of the mean cross
entropy of batch i, the loss is |theta_T - theta*|^2 / |theta_0 - theta*|^2.

Its gradient, by three engines:

- ``adjoint``, exact: lambda_T = 2 (theta_T - theta*) / |theta_0 - theta*|^2 goes back through the steps,
  lambda_i = lambda_{i+1} - eta H_i lambda_{i+1}, where step i gives the images -eta (dg_i/dx)^T lambda_{i+1} and the
  step size -<g_i, lambda_{i+1}>. All three are one directional derivative of step i's gradients along lambda_{i+1}.
  Held at once: T + 1 networks' parameters and one step's activations.
- ``unroll``, the reference: the whole loop differentiated at once; T steps' activations.
- ``truncated``: lambda_i = lambda_T throughout, which is TESLA's gradient (Cui et al. 2022, arXiv 2211.10586;
  justincui03/tesla @ 488842e), an approximation: it leaves out every Hessian. **Differs**: the image gradient is not
  half of it, as in that code.

Everything is a pure function of tensors; no host synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddlib.nn.functional import Params
from ddlib.train.compiler import EAGER, Compiler
from ddlib.train.losses import cross_entropy, soft_cross_entropy

Call = Callable[[Params, Params, Tensor], Tensor]
Prepare = Callable[[Tensor, Params, str | None], Tensor]


@dataclass(frozen=True)
class Batch:
    """What a step sees: `rows` int64 [b] of the images, draws of their augmentation ([b] each) and its operation."""

    rows: Tensor
    draws: Params = field(default_factory=dict)
    choice: str | None = None


@dataclass(frozen=True)
class Trajectory:
    """What is matched: a student from `start` towards `target` (parameters by name) over `batches`.

    `images` [N, C, H, W], of which the first `frozen` get no gradient; `labels` int64 [N] or shares [N, classes];
    `step_size` 0-d; `buffers` of the network stay as they are.
    """

    start: Params
    target: Params
    buffers: Params
    images: Tensor
    labels: Tensor
    step_size: Tensor
    batches: Sequence[Batch]
    frozen: int = 0


class Found(NamedTuple):
    """The loss 0-d and its gradients: of the images that are not frozen [N - frozen, C, H, W], of the step size 0-d."""

    loss: Tensor
    images: Tensor
    step_size: Tensor


class Student:
    """Steps of a student; `call(params, buffers, x)` gives logits, `prepare(x, draws, choice)` what the network sees.

    `step` and `reverse` are compiled, each by itself; augmentation stays outside, so that its operations need no
    compilation each.
    """

    def __init__(self, call: Call, prepare: Prepare, compiler: Compiler = EAGER) -> None:
        self.call, self.prepare = call, prepare
        self.step, self.reverse = compiler(self.plain_step), compiler(self._reverse)

    def loss(self, params: Params, buffers: Params, x: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy of prepared images [b, C, H, W]."""
        logits = self.call(params, buffers, x)
        return soft_cross_entropy(logits, labels) if labels.is_floating_point() else cross_entropy(logits, labels)

    def plain_step(self, params: Params, buffers: Params, x: Tensor, labels: Tensor, step_size: Tensor) -> Params:
        """The parameters after a step on a batch."""
        grads = torch.func.grad(self.loss)(params, buffers, x, labels)
        return {name: value - step_size * grads[name] for name, value in params.items()}

    def _reverse(
        self,
        params: Params,
        buffers: Params,
        x: Tensor,
        labels: Tensor,
        step_size: Tensor,
        adjoint: Params,
        hessian: bool,
    ) -> tuple[Params, Tensor, Tensor]:
        """(adjoint before the step, gradient [b, C, H, W] of its images `x`, of the step size) from that after it.

        The derivative along `adjoint` of the loss and of its gradients: <g, lambda>, H lambda and (dg/dx)^T lambda.
        """

        def gradients(params: Params) -> tuple[Any, Tensor]:
            if hessian:
                found: tuple[Any, Tensor] = torch.func.grad_and_value(self.loss, (0, 2))(params, buffers, x, labels)
                return found
            image, loss = torch.func.grad_and_value(self.loss, 2)(params, buffers, x, labels)
            return ({}, image), loss

        (curved, mixed), along = torch.func.jvp(gradients, (params,), (adjoint,))[1]
        if hessian:
            adjoint = {name: value - step_size * curved[name] for name, value in adjoint.items()}
        return adjoint, -step_size * mixed, -along


def end_point(end: Params, start: Params, target: Params) -> tuple[Tensor, Params]:
    """(loss 0-d, its gradient with respect to `end`)."""
    scale = squared_distance(start, target)
    gradient = {name: 2 * (value - target[name]) / scale for name, value in end.items()}
    return squared_distance(end, target) / scale, gradient


def squared_distance(a: Params, b: Params) -> Tensor:
    """|a - b|^2 over all parameters, 0-d."""
    return torch.stack([(value - b[name]).square().sum() for name, value in a.items()]).sum()


def adjoint(student: Student, given: Trajectory, hessian: bool = True) -> Found:
    """The exact gradient; `hessian` off: TESLA's."""
    points, labels, eta = [given.start], given.labels, given.step_size
    for batch in given.batches:
        x = student.prepare(given.images[batch.rows], batch.draws, batch.choice)
        points.append(student.step(points[-1], given.buffers, x, labels[batch.rows], eta))
    loss, back = end_point(points.pop(), given.start, given.target)
    images, slope = torch.zeros_like(given.images), torch.zeros_like(eta)
    for batch in reversed(given.batches):
        x, pull = _prepared(student, given, batch)
        back, image, along = student.reverse(
            points.pop(), given.buffers, x, labels[batch.rows], eta, back, hessian=hessian
        )
        images = images.index_add(0, batch.rows, pull(image)[0])
        slope = slope + along
    return Found(loss, images[given.frozen :], slope)


def _prepared(student: Student, given: Trajectory, batch: Batch) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor]]]:
    """A batch as the network sees it, and how its gradient goes back to the images."""
    found = torch.func.vjp(lambda x: student.prepare(x, batch.draws, batch.choice), given.images[batch.rows])
    return found[0], found[1]


def truncated(student: Student, given: Trajectory) -> Found:
    """TESLA's gradient: every step as if the parameters it starts from were constant."""
    return adjoint(student, given, hessian=False)


def unroll(student: Student, given: Trajectory) -> Found:
    """The exact gradient, differentiated through all steps at once; eager."""

    def loss(images: Tensor, step_size: Tensor) -> Tensor:
        params, union = given.start, torch.cat([given.images[: given.frozen], images])
        for batch in given.batches:
            x = student.prepare(union[batch.rows], batch.draws, batch.choice)
            params = student.plain_step(params, given.buffers, x, given.labels[batch.rows], step_size)
        return end_point(params, given.start, given.target)[0]

    own = given.images[given.frozen :]
    (images, slope), value = torch.func.grad_and_value(loss, (0, 1))(own, given.step_size)
    return Found(value, images, slope)


ENGINES: dict[str, Callable[[Student, Trajectory], Found]] = {
    "adjoint": adjoint,
    "unroll": unroll,
    "truncated": truncated,
}
