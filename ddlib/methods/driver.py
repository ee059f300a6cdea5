"""The one driver: every method's outer loop, checkpointed between any two inner steps.

An outer iteration clamps the images (where the recipe says so), lets the objective draw its network, and alternates
updates of what is learned (images, and a step size where a method learns one) with the objective's own (network)
updates. Killed anywhere, it goes on from the last checkpoint and ends with the same bytes: what is learned, velocity,
network, loader position and step are all of its state.

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
from ddlib.methods.selection import select
from ddlib.nn.functional import Params
from ddlib.objectives.matching import Inner
from ddlib.progress import progress
from ddlib.sets.init import SELECTED, initial_images
from ddlib.train.loop import State

# The images have diverged where the mean loss of an outer iteration is so many times that of the very first step.
EXPLODED = 1e4


@dataclass
class Condensed:
    """What comes out, by name: `learned` and `initial`, both with "images" [N, C, H, W] budget after budget, in each
    class by class.

    `snapshots` of what is learned and `seconds_at` (spent until then, also in sessions before a kill) by outer
    iteration; `losses`: of each budget, those of the outer iterations; `origin` int64 [N, cells]: the real images that
    the cells of stitched images show (None: images that are not stitched, or no longer what they began as).
    """

    learned: Params
    initial: Params
    snapshots: dict[int, Params] = field(default_factory=dict)
    losses: list[list[float]] = field(default_factory=list)
    seconds_at: dict[int, float] = field(default_factory=dict)
    origin: Tensor | None = None

    @property
    def images(self) -> Tensor:
        """The synthetic images [N, C, H, W]."""
        return self.learned["images"]


@dataclass
class _Run:
    """The state between two inner steps; `loss`: of each budget, summed over the steps so far, `first` at the first."""

    learned: Params
    velocity: Params
    outer: int
    step: int
    cursor: int
    inner: Inner | None
    loss: Tensor
    snapshots: dict[int, Params]
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
    images, origin = _initial(recipe, problem)
    initial = {"images": images, **recipe.begins}
    if recipe.objective is None or recipe.outer_iterations == 0:
        return Condensed(initial, initial, origin=origin)
    events, started = events or NullEvents(), time.monotonic()
    run = _resume(checkpoint, recipe, initial, len(problem.budgets))
    bar = progress(range(run.outer, total), "condensing", "outer iterations", events, first=run.outer)
    for outer in bar:
        began = time.monotonic()
        _outer_iteration(run, recipe, checkpoint)
        losses = _noted(run, recipe, problem, f"outer iteration {outer + 1} of {total}")
        if outer + 1 in snapshots:
            run.snapshots[outer + 1] = _stored(run.learned, recipe)
            run.seconds_at[outer + 1] = checkpoint.spent if checkpoint else time.monotonic() - started
        bar.note(", ".join(f"{name} {loss:.4g}" for name, loss in losses.items()))
        events.metric(outer + 1, **losses, seconds_per_outer=time.monotonic() - began)
        tick(outer + 1)
    begun = recipe.stored(initial)
    return Condensed(_stored(run.learned, recipe), begun, run.snapshots, run.losses, run.seconds_at)


def _initial(recipe: Recipe, problem: Problem) -> tuple[Tensor, Tensor | None]:
    """The images every budget begins with, and which real images their cells show where they were selected."""
    if recipe.init in SELECTED:
        return select(recipe, problem)
    given = recipe.init, problem.begins_from or problem.data, problem.classes
    last = recipe.factor, problem.streams, problem.stage
    return torch.cat([initial_images(*given, ipc, *last) for ipc in problem.budgets]), None


def _noted(run: _Run, recipe: Recipe, problem: Problem, place: str) -> dict[str, float]:
    """Note the mean losses of the outer iteration that has ended; they come back by name. FloatingPointError for one
    that is not finite or has exploded, or images that are not finite."""
    assert recipe.objective is not None
    found = {}
    images = problem.parts(run.learned["images"])
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
    if wrong := recipe.sound(run.learned):
        raise FloatingPointError(f"{wrong} (in {place}). The last checkpoint before it is kept.")
    return found


def _sound(loss: float, first: float) -> bool:
    """Whether a mean loss is finite and has not exploded since the first step."""
    return math.isfinite(loss) and loss <= EXPLODED * first


def _in_range(learned: Params, recipe: Recipe) -> Params:
    return {**learned, "images": learned["images"].clamp(0, 1)} if recipe.range == "clamped" else learned


def _stored(learned: Params, recipe: Recipe) -> Params:
    """What a set holds of it."""
    return {name: value.clone() for name, value in recipe.stored(_in_range(learned, recipe)).items()}


def _outer_iteration(run: _Run, recipe: Recipe, checkpoint: Checkpoint | None) -> None:
    """All (remaining) inner steps of one outer iteration."""
    objective = recipe.objective
    assert objective is not None
    if run.inner is None:
        run.learned = _in_range(run.learned, recipe)
        run.inner = objective.begin(run.outer, run.cursor)
    while run.step < objective.inner_steps:
        x, v = run.learned, run.velocity
        _moved(run, {name: by.before(x[name], v[name]) for name, by in recipe.optimisers.items()})
        loss, gradients = objective.gradient(run.learned, run.inner, run.step)
        x, v = run.learned, run.velocity
        _moved(run, {name: by.after(x[name], v[name], gradients[name]) for name, by in recipe.optimisers.items()})
        run.inner = objective.advance(run.inner)
        run.loss = run.loss + loss.detach()
        run.first = run.first or loss.tolist()
        run.step += 1
        if checkpoint is not None and checkpoint.due and _is_good(run, recipe):
            _save(checkpoint, run)
    run.outer, run.step, run.cursor, run.inner = run.outer + 1, 0, run.inner.cursor, None


def _moved(run: _Run, moved: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Take over (value, velocity) of everything that is learned."""
    run.learned = {**run.learned, **{name: value for name, (value, _) in moved.items()}}
    run.velocity = {name: velocity for name, (_, velocity) in moved.items()}


def _is_good(run: _Run, recipe: Recipe) -> bool:
    """Whether the state is worth keeping: everything finite, and no loss that explodes."""
    means = (run.loss / run.step).tolist()
    sound = all(_sound(mean, first) for mean, first in zip(means, run.first, strict=True))
    finite = all(bool(torch.isfinite(value).all()) for value in run.learned.values())
    return sound and finite and not recipe.sound(run.learned)


def _save(checkpoint: Checkpoint, run: _Run) -> None:
    tensors: dict[str, Tensor] = {f"learned/{name}": value for name, value in run.learned.items()} | {"loss": run.loss}
    tensors |= {f"velocity/{name}": value for name, value in run.velocity.items()}
    for outer, learned in run.snapshots.items():
        tensors |= {f"snapshot/{outer}/{name}": value for name, value in learned.items()}
    facts: dict[str, Any] = {name: getattr(run, name) for name in ("outer", "step", "cursor", "losses", "first")}
    facts["seconds_at"] = {str(outer): seconds for outer, seconds in run.seconds_at.items()}
    if run.inner is not None:
        tensors |= {f"network/{name}": value for name, value in run.inner.network.tensors().items()}
        facts["inner_cursor"] = run.inner.cursor
    checkpoint.save(tensors, facts)


def _resume(checkpoint: Checkpoint | None, recipe: Recipe, initial: Params, budgets: int) -> _Run:
    device = initial["images"].device
    zero = torch.zeros(budgets, device=device)
    found = checkpoint.load() if checkpoint else None
    if found is None:
        still = {name: torch.zeros_like(initial[name]) for name in recipe.optimisers}
        return _Run(initial, still, 0, 0, 0, None, zero, {}, [[] for _ in range(budgets)], {}, [])
    tensors, facts = found
    if "learned/images" not in tensors:
        raise ValueError(
            "the checkpoint of this condensation is of an older ddlib, which kept other things. Delete its folder "
            "under results/checkpoints to begin anew, or finish it with that version."
        )
    moved = {name: value.to(device) for name, value in tensors.items()}
    inner = None
    if "inner_cursor" in facts:
        inner = Inner(facts["outer"], State.from_tensors(_below(moved, "network/"), device), facts["inner_cursor"])
    seconds_at = {int(outer): seconds for outer, seconds in facts["seconds_at"].items()}
    return _Run(
        _below(moved, "learned/"),
        _below(moved, "velocity/"),
        facts["outer"],
        facts["step"],
        facts["cursor"],
        inner,
        moved["loss"].reshape(budgets),
        {outer: _below(moved, f"snapshot/{outer}/") for outer in seconds_at},
        facts["losses"],
        seconds_at,
        facts["first"],
    )


def _below(tensors: Params, prefix: str) -> Params:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
