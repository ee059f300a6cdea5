"""The one driver: every method's outer loop, checkpointed between any two inner steps.

An outer iteration clamps the images (where the recipe says so), lets the objective draw its network, and alternates
image updates with the objective's own (network) updates. Killed anywhere, it goes on from the last checkpoint and ends
with the same bytes: images, velocity, network, loader position and step are all of its state.

Several budgets (images per class) may be condensed together, at the same networks: their images lie one after the
other in one tensor.
"""

from __future__ import annotations

import math
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

# The images have diverged where the mean loss of an outer iteration is so many times that of the very first step.
EXPLODED = 1e4


@dataclass
class Condensed:
    """What comes out: `images` and `initial` [N, C, H, W] budget after budget, in each class by class.

    `snapshots` of the images and `seconds_at` (spent until then, also in sessions before a kill) by outer iteration;
    `losses`: of each budget, those of the outer iterations.
    """

    images: Tensor
    initial: Tensor
    snapshots: dict[int, Tensor] = field(default_factory=dict)
    losses: list[list[float]] = field(default_factory=list)
    seconds_at: dict[int, float] = field(default_factory=dict)


@dataclass
class _Run:
    """The state between two inner steps; `loss`: of each budget, summed over the steps so far, `first` at the first."""

    images: Tensor
    velocity: Tensor
    outer: int
    step: int
    cursor: int
    inner: Inner | None
    loss: Tensor
    snapshots: dict[int, Tensor]
    losses: list[list[float]]
    seconds_at: dict[int, float]
    first: list[float]


def condense(
    recipe: Recipe,
    problem: Problem,
    snapshots: Sequence[int] = (),
    checkpoint: Checkpoint | None = None,
    events: NullEvents | None = None,
    tick: Callable[[int], None] = lambda outer: None,
) -> Condensed:
    """Run `recipe`; `snapshots`: outer iterations after which the images are kept too. ValueError for one that is never
    reached; FloatingPointError when a loss is no longer finite or more than 1e4 times that of the first step, naming
    the place and the settings; the last good checkpoint stays."""
    total = recipe.outer_iterations
    if beyond := [outer for outer in snapshots if not 1 <= outer <= total]:
        raise ValueError(
            f"there is no outer iteration {beyond[0]} to keep a snapshot of: the method runs {total}, from 1"
        )
    initial = _initial(recipe, problem)
    if recipe.objective is None or recipe.outer_iterations == 0:
        return Condensed(initial, initial)
    events, started = events or NullEvents(), time.monotonic()
    run = _resume(checkpoint, initial, len(problem.budgets))
    bar = progress(range(run.outer, total), "condensing", "outer iterations", events, first=run.outer)
    for outer in bar:
        began = time.monotonic()
        _outer_iteration(run, recipe, checkpoint)
        losses = _noted(run, recipe, problem, f"outer iteration {outer + 1} of {total}")
        if outer + 1 in snapshots:
            run.snapshots[outer + 1] = _in_range(run.images, recipe).clone()
            run.seconds_at[outer + 1] = checkpoint.spent if checkpoint else time.monotonic() - started
        bar.note(", ".join(f"{name} {loss:.4g}" for name, loss in losses.items()))
        events.metric(outer + 1, **losses, seconds_per_outer=time.monotonic() - began)
        tick(outer + 1)
    return Condensed(_in_range(run.images, recipe), initial, run.snapshots, run.losses, run.seconds_at)


def _initial(recipe: Recipe, problem: Problem) -> Tensor:
    """The images every budget begins with."""
    given = recipe.init, problem.data, problem.classes
    return torch.cat([initial_images(*given, ipc, recipe.factor, problem.streams) for ipc in problem.budgets])


def _noted(run: _Run, recipe: Recipe, problem: Problem, place: str) -> dict[str, float]:
    """Note the mean losses of the outer iteration that has ended; they come back by name. FloatingPointError for one
    that is not finite or has exploded, or images that are not finite."""
    assert recipe.objective is not None
    found = {}
    images = problem.parts(run.images)
    for i, ipc in enumerate(problem.budgets):
        loss = float(run.loss[i]) / recipe.objective.inner_steps
        if not (_sound(loss, run.first[i]) and bool(torch.isfinite(images[i]).all())):
            raise FloatingPointError(
                f"the matching loss of ipc {ipc} is {loss:.4g} in {place} ({run.first[i]:.4g} at the first step): the "
                f"images diverged, with {recipe.told[i] if recipe.told else 'the settings given'}. Lower image_lr; the "
                "last checkpoint before it is kept."
            )
        run.losses[i].append(loss)
        found["loss" if len(problem.budgets) == 1 else f"loss_ipc{ipc}"] = loss
    run.loss = torch.zeros_like(run.loss)
    return found


def _sound(loss: float, first: float) -> bool:
    """Whether a mean loss is finite and has not exploded since the first step."""
    return math.isfinite(loss) and loss <= EXPLODED * first


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
        run.first = run.first or loss.tolist()
        run.step += 1
        if checkpoint is not None and checkpoint.due and _is_good(run):
            _save(checkpoint, run)
    run.outer, run.step, run.cursor, run.inner = run.outer + 1, 0, run.inner.cursor, None


def _is_good(run: _Run) -> bool:
    """Whether the state is worth keeping: everything finite, and no loss that explodes."""
    means = (run.loss / run.step).tolist()
    sound = all(_sound(mean, first) for mean, first in zip(means, run.first, strict=True))
    return sound and bool(torch.isfinite(run.images).all())


def _save(checkpoint: Checkpoint, run: _Run) -> None:
    tensors: dict[str, Tensor] = {"images": run.images, "velocity": run.velocity, "loss": run.loss}
    tensors |= {f"snapshot/{outer}": images for outer, images in run.snapshots.items()}
    facts: dict[str, Any] = {name: getattr(run, name) for name in ("outer", "step", "cursor", "losses", "first")}
    facts["seconds_at"] = {str(outer): seconds for outer, seconds in run.seconds_at.items()}
    if run.inner is not None:
        tensors |= {f"network/{name}": value for name, value in run.inner.network.tensors().items()}
        facts["inner_cursor"] = run.inner.cursor
    checkpoint.save(tensors, facts)


def _resume(checkpoint: Checkpoint | None, initial: Tensor, budgets: int) -> _Run:
    zero = torch.zeros(budgets, device=initial.device)
    found = checkpoint.load() if checkpoint else None
    if found is None:
        return _Run(initial, torch.zeros_like(initial), 0, 0, 0, None, zero, {}, [[] for _ in range(budgets)], {}, [])
    tensors, facts = found
    moved = {name: value.to(initial.device) for name, value in tensors.items()}
    inner = None
    if "inner_cursor" in facts:
        network = {name[8:]: value for name, value in moved.items() if name.startswith("network/")}
        inner = Inner(facts["outer"], State.from_tensors(network, initial.device), facts["inner_cursor"])
    # A checkpoint of the days before budgets: one loss, seconds and the first loss not noted.
    losses = facts["losses"] if "seconds_at" in facts else [facts["losses"]]
    seconds_at = {int(outer): seconds for outer, seconds in facts.get("seconds_at", {}).items()}
    kept = {int(name[9:]): value for name, value in moved.items() if name.startswith("snapshot/")}
    return _Run(
        moved["images"],
        moved["velocity"],
        facts["outer"],
        facts["step"],
        facts["cursor"],
        inner,
        moved["loss"].reshape(budgets),
        kept,
        losses,
        seconds_at,
        facts.get("first", [math.inf] * budgets),
    )
