"""MTT: a student trained on the synthetic images is to end where experts, trained on real ones, end some epochs on.

Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022, arXiv 2203.11932;
GeorgeCazenavette/mtt-distillation @ 50dccea. All classes together; the student's step size is learned with the images.
Soft labels by the expert: TESLA, Cui et al., ICML 2023, arXiv 2211.10586; justincui03/tesla @ 488842e.

Published (best of the checks on the test set, five students): CIFAR-10 46.3 / 65.3 / 71.6 and CIFAR-100
24.3 / 40.1 / 47.7 at ipc 1 / 10 / 50. Ours: docs/results.md; at paper scale not yet measured.

**Differs**: the gradient is exact by default but needs one step's memory (:mod:`ddlib.objectives.trajectory`); images
are held as shares 0-1 and moved as the normalised ones officially are (so that the published learning rates apply),
never clipped; `noise` is around 0.5, where it is officially standard normal after normalisation; 5000 outer iterations
(official: 5001). An expert and its start are drawn uniformly from the view (official: experts in turn). The last images
are kept, not those with the best accuracy on the test set. A step size that turns negative stops the run (official: it
crashes in its evaluation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ddlib.methods.recipe import Optimiser, Problem, Recipe
from ddlib.nn.functional import Params
from ddlib.objectives.trajectory_matching import TrajectoryMatching
from ddlib.pool.experts import Experts
from ddlib.sets.optim import Assigned, PlainSGD


def recipe(settings: Mapping[str, Any], problem: Problem) -> Recipe:
    """MTT with `settings` (ddlib/presets.py) for `problem`, from the experts of its view; ValueError without one, for
    a part of the classes and for several budgets at once."""
    _check(settings, problem)
    data, device = problem.data, problem.data.labels.device
    net, labels = problem.start().net, torch.arange(data.classes, device=device).repeat_interleave(problem.budgets[0])
    experts = Experts(problem.rows or (), problem.streams, device)
    given = problem.streams, problem.execution, problem.frozen
    objective = TrajectoryMatching(settings, data, labels, net, experts, *given)
    begins = {"step_size": torch.tensor(_learned(settings), device=device)}
    if settings["soft_labels"] == "expert":
        begins["soft"] = torch.nn.functional.one_hot(labels, data.classes).float()
    return Recipe(
        init=settings["init"],
        factor=1,
        outer_iterations=settings["outer_iterations"],
        objective=objective,
        optimisers=_optimisers(settings, data.std, device),
        begins=begins,
        range="free",
        partitionable=False,
        told=(_told(settings),),
        sound=_sound(settings),
        stored=_stored if settings["step_size_as"] == "positive" else dict,
    )


def _optimisers(settings: Mapping[str, Any], std: tuple[float, ...], device: torch.device) -> dict[str, Optimiser]:
    """Of shares, with x = std z + mean for the normalised z: a step of z is one of x at std^2 the rate. Of the
    logarithm of the step size, to begin with, a step of the step size is one at 1 / step_size^2 the rate."""
    deviation = torch.tensor(std, device=device).reshape(-1, 1, 1)
    rate = settings["step_size_lr"] / (settings["step_size"] ** 2 if settings["step_size_as"] == "positive" else 1)
    found: dict[str, Optimiser] = {
        "images": PlainSGD(settings["image_lr"] * deviation.square(), settings["image_momentum"]),
        "step_size": PlainSGD(rate, settings["step_size_momentum"]),
    }
    return found | ({"soft": Assigned()} if settings["soft_labels"] == "expert" else {})


def _learned(settings: Mapping[str, Any]) -> float:
    """What is learned of the step size, to begin with."""
    start = float(settings["step_size"])
    return math.log(start) if settings["step_size_as"] == "positive" else start


def _stored(learned: Params) -> Params:
    """With the step size itself, where its logarithm is learned."""
    return {**learned, "step_size": learned["step_size"].exp()}


def _sound(settings: Mapping[str, Any]) -> Callable[[Params], str | None]:
    positive = settings["step_size_as"] == "positive"

    def said(learned: Params) -> str | None:
        held: Tensor = _stored(learned)["step_size"] if positive else learned["step_size"]
        step_size = float(held)
        if math.isfinite(step_size) and step_size > 0:
            return None
        rates = f"step_size_lr {settings['step_size_lr']} or image_lr {settings['image_lr']}"
        other = "" if positive else ", or learn it as step_size_as: positive"
        return f"the learned step size is {step_size:.4g}, which no student can train with: lower {rates}{other}"

    return said


def _told(settings: Mapping[str, Any]) -> str:
    """What moves the images."""
    names = ("image_momentum", "step_size_lr", "student_steps")
    return ", ".join([f"image_lr {settings['image_lr']}", *(f"{name} {settings[name]}" for name in names)])


def _check(settings: Mapping[str, Any], problem: Problem) -> None:
    """ValueError for what is asked and cannot be."""
    if problem.rows is None:
        raise ValueError("mtt matches trajectories of a pool's members: give the experiment a pool and a view")
    if list(problem.classes) != list(range(problem.data.classes)):
        raise ValueError(
            f"mtt learns all {problem.data.classes} classes together, not {len(problem.classes)} of them: leave out "
            "classes_per_phase"
        )
    if len(problem.budgets) > 1:
        raise ValueError(
            f"mtt learns a step size with each set, so that images per class {list(problem.budgets)} cannot be "
            "condensed together: leave out `budget`"
        )
    for name in ("image_momentum", "step_size_momentum"):
        if not 0 <= settings[name] < 1:
            raise ValueError(f"{name} lies in 0 <= momentum < 1, not {settings[name]}")
    if not settings["step_size"] > 0:
        raise ValueError(f"step_size is more than 0, not {settings['step_size']}")
