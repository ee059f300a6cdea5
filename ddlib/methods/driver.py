"""The one driver: every method's outer loop, checkpointed between any two inner steps.

An outer iteration clamps the images (where the recipe says so), lets the objective draw its network, and alternates
image updates with the objective's own (network) updates. Killed anywhere, it goes on from the last checkpoint and ends
with the same bytes: images, velocity, network, loader position and step are all of its state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ddlib.checkpoints import Checkpoint
from ddlib.events import NullEvents
from ddlib.methods.recipe import Problem, Recipe
from ddlib.objectives.matching import Inner
from ddlib.progress import progress
from ddlib.sets.init import initial_images
from ddlib.train.loop import State


@dataclass
class Condensed:
    """What comes out: `images` and `initial` [N, C, H, W] class by class, snapshots by outer iteration, losses."""

    images: Tensor
    initial: Tensor
    snapshots: dict[int, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)


@dataclass
class _Run:
    """The state between two inner steps."""

    images: Tensor
    velocity: Tensor
    outer: int
    step: int
    cursor: int
    inner: Inner | None
    loss: Tensor
    snapshots: dict[int, Tensor]
    losses: list[float]


def condense(
    recipe: Recipe,
    problem: Problem,
    snapshots: Sequence[int] = (),
    checkpoint: Checkpoint | None = None,
    events: NullEvents | None = None,
    tick: Callable[[int], None] = lambda outer: None,
) -> Condensed:
    """Run `recipe`; `snapshots`: outer iterations after which the images are kept too. ValueError for one that is never
    reached; FloatingPointError when the loss is no longer finite, naming the place; the last good checkpoint stays."""
    total = recipe.outer_iterations
    if beyond := [outer for outer in snapshots if not 1 <= outer <= total]:
        raise ValueError(
            f"there is no outer iteration {beyond[0]} to keep a snapshot of: the method runs {total}, from 1"
        )
    initial = initial_images(recipe.init, problem.data, problem.classes, problem.ipc, recipe.factor, problem.streams)
    if recipe.objective is None or recipe.outer_iterations == 0:
        return Condensed(initial, initial)
    events = events or NullEvents()
    run = _resume(checkpoint, initial)
    bar = progress(range(run.outer, total), "condensing", "outer iterations", events, first=run.outer)
    for outer in bar:
        began = time.monotonic()
        _outer_iteration(run, recipe, checkpoint)
        loss = float(run.loss) / recipe.objective.inner_steps
        if not (loss == loss and abs(loss) != float("inf") and bool(torch.isfinite(run.images).all())):
            raise FloatingPointError(
                f"the matching loss is {loss} in outer iteration {outer + 1} of {total}: the images diverged. "
                "Lower image_lr; the last checkpoint before it is kept."
            )
        run.losses.append(loss)
        run.loss = torch.zeros_like(run.loss)
        if outer + 1 in snapshots:
            run.snapshots[outer + 1] = _in_range(run.images, recipe).clone()
        bar.note(f"loss {loss:.4g}")
        events.metric(outer + 1, loss=loss, seconds_per_outer=time.monotonic() - began)
        tick(outer + 1)
    return Condensed(_in_range(run.images, recipe), initial, run.snapshots, run.losses)


def _in_range(images: Tensor, recipe: Recipe) -> Tensor:
    return images.clamp(0, 1) if recipe.range == "clamped" else images


def _outer_iteration(run: _Run, recipe: Recipe, checkpoint: Checkpoint | None) -> None:
    """All (remaining) inner steps of one outer iteration."""
    objective, optimiser = recipe.objective, recipe.optimiser
    assert objective is not None
    assert optimiser is not None
    if run.inner is None:
        run.images = _in_range(run.images, recipe)
        run.inner = objective.begin(run.outer, run.cursor)
    while run.step < objective.inner_steps:
        images, velocity = optimiser.before(run.images, run.velocity)
        loss, gradient = objective.gradient(images, run.inner, run.step)
        run.images, run.velocity = optimiser.after(images, velocity, gradient)
        run.inner = objective.advance(run.inner)
        run.loss = run.loss + loss.detach()
        run.step += 1
        if checkpoint is not None and checkpoint.due and bool(torch.isfinite(run.loss + run.images.sum())):
            _save(checkpoint, run)
    run.outer, run.step, run.cursor, run.inner = run.outer + 1, 0, run.inner.cursor, None


def _save(checkpoint: Checkpoint, run: _Run) -> None:
    tensors: dict[str, Tensor] = {"images": run.images, "velocity": run.velocity, "loss": run.loss}
    tensors |= {f"snapshot/{outer}": images for outer, images in run.snapshots.items()}
    facts: dict[str, Any] = {"outer": run.outer, "step": run.step, "cursor": run.cursor, "losses": run.losses}
    if run.inner is not None:
        tensors |= {f"network/{name}": value for name, value in run.inner.network.tensors().items()}
        facts["inner_cursor"] = run.inner.cursor
    checkpoint.save(tensors, facts)


def _resume(checkpoint: Checkpoint | None, initial: Tensor) -> _Run:
    zero = torch.zeros((), device=initial.device)
    found = checkpoint.load() if checkpoint else None
    if found is None:
        return _Run(initial, torch.zeros_like(initial), 0, 0, 0, None, zero, {}, [])
    tensors, facts = found
    moved = {name: value.to(initial.device) for name, value in tensors.items()}
    inner = None
    if "inner_cursor" in facts:
        network = {name[8:]: value for name, value in moved.items() if name.startswith("network/")}
        inner = Inner(facts["outer"], State.from_tensors(network, initial.device), facts["inner_cursor"])
    kept = {int(name[9:]): value for name, value in moved.items() if name.startswith("snapshot/")}
    return _Run(
        moved["images"],
        moved["velocity"],
        facts["outer"],
        facts["step"],
        facts["cursor"],
        inner,
        moved["loss"],
        kept,
        facts["losses"],
    )
