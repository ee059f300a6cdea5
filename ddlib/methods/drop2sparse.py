"""Drop2Sparse: IDC from well-trained models, randomly sparsified anew in each outer iteration.

Drop2Sparse (IEEE TCSVT 2025); DingFong/Drop2Sparse @ 139e1bb. Each outer iteration starts from a checkpoint in an
accuracy window of a pool, under a mask of its own (:mod:`ddlib.transforms.sparsify`) that the inner training respects.

Published: settings for CIFAR-10 at ipc 1 alone (accuracy 70-80 %, 5 networks, sparsity 0.8); accuracies at ipc 50
alone, read off a figure: 77.4 / 76.4 / 75.5 / 74.5 at 1x / 5x / 10x / 20x, in 22.2 / 4.3 / 2.2 / 1.1 GPU-hours. Ours:
docs/results.md; at paper scale not yet measured.

**Differs**: the window is of the pool's `train_augmented` accuracy (the source does not say which); an empty window is
refused (official: silently random networks); masks are artifacts; the distance `cos` is IDC's (official: it has no
gradient).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddlib.methods import idc
from ddlib.methods.recipe import Problem, Recipe
from ddlib.pool.draw import Changed
from ddlib.transforms.sparsify import Sparsify


def recipe(settings: Mapping[str, Any], problem: Problem) -> Recipe:
    """IDC from the pool's view, under masks; ValueError without a view or masks."""
    if problem.rows is None:
        raise ValueError("drop2sparse starts from trained networks of a pool: give the experiment a pool and a view")
    if problem.masks is None:
        raise ValueError("drop2sparse makes networks sparse: give the experiment `masks`, the name of a mask set")
    return idc.recipe(settings, problem, Changed(problem.start(), Sparsify(problem.masks)))
