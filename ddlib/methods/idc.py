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
from ddlib.sets.optim import ImageSGD, tuned_lr


def recipe(settings: Mapping[str, Any], problem: Problem) -> Recipe:
    """IDC with `settings` (ddlib/presets.py) for `problem`; it starts from fresh networks or from a pool's view."""
    data = problem.data
    objective = GradientMatching(
        settings, data, problem.classes, problem.ipc, problem.start(), problem.streams, problem.execution
    )
    positions = torch.tensor(problem.classes, device=data.labels.device).repeat_interleave(problem.ipc)
    lr = tuned_lr(settings["image_lr"], problem.ipc, data.height, problem.base_size)
    return Recipe(
        init=settings["init"],
        factor=settings["factor"],
        outer_iterations=settings["outer_iterations"],
        objective=objective,
        optimiser=ImageSGD(lr, settings["image_momentum"], positions, data.classes),
        learns=("images",),
    )
