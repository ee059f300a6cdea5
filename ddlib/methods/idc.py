"""IDC: gradient matching of multi-formation images.

Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, arXiv 2205.14959;
snu-mllab/Efficient-Dataset-Condensation @ ceac95a.

Published (README, best of four checks on the test set): CIFAR-10 50.6 / 67.5 / 74.5 at ipc 1 / 10 / 50, CIFAR-100
45.1 / 49.0 at ipc 10 / 20. Ours: docs/results.md; at paper scale not yet measured.

**Differs**: the number of outer iterations is given directly (official: niter * 100 / inner_loop); students are scored
at the last epoch, not at the best check on the test set. Random draws: see ddlib/streams.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ddlib.methods.recipe import Problem, Recipe
from ddlib.objectives.matching import GradientMatching
from ddlib.pool.draw import Start
from ddlib.sets.optim import ImageSGD, tuned_lr


def recipe(settings: Mapping[str, Any], problem: Problem, start: Start | None = None) -> Recipe:
    """IDC with `settings` (ddlib/presets.py) for `problem`; it starts from fresh networks, from a pool's view, or from
    `start`."""
    data = problem.data
    objective = GradientMatching(
        settings,
        data,
        problem.classes,
        problem.budgets,
        start or problem.start(settings["outer_iterations"]),
        problem.streams,
        problem.execution,
        problem.frozen_images(),
    )
    tuned = [tuned_lr(settings["image_lr"], ipc, data.height, problem.base_size) for ipc in problem.budgets]
    classes = torch.tensor(problem.classes, device=data.labels.device)
    positions = torch.cat([classes.repeat_interleave(ipc) for ipc in problem.budgets])
    images = torch.tensor([len(classes) * ipc for ipc in problem.budgets])
    lr = torch.tensor(tuned, dtype=torch.float64).repeat_interleave(images).to(positions.device)
    return Recipe(
        init=settings["init"],
        factor=settings["factor"],
        outer_iterations=settings["outer_iterations"],
        objective=objective,
        optimisers={"images": ImageSGD(lr, settings["image_momentum"], positions, data.classes)},
        range="free" if data.space == "whitened" else "clamped",
        told=tuple(_told(settings, *each) for each in zip(problem.budgets, tuned, strict=True)),
    )


def _told(settings: Mapping[str, Any], ipc: int, tuned: float) -> str:
    """What moves the images of a budget."""
    rest = ", ".join(f"{name} {settings[name]}" for name in ("image_momentum", "match", "metric"))
    return f"image_lr {settings['image_lr']} ({tuned:.4g} as tuned for ipc {ipc}), {rest}"
