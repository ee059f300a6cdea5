"""Acc-DD: IDC from early-stage models, perturbed, in 5, 10 or 20 times fewer outer iterations.

Zhang et al., "Accelerating Dataset Distillation via Model Augmentation", CVPR 2023, arXiv 2212.06152;
ncsu-dk-lab/Acc-DD @ 3a8fdea. Each outer iteration starts from a pool's early epoch (2 on CIFAR), perturbed
(:mod:`ddlib.transforms.perturb`), with an optimiser at rest.

Published (CIFAR-10, ipc 10, figure 1 of the repository, read off): 67.1 / 66.5 / 65.1 at 5x / 10x / 20x, in 4.27 /
2.19 / 1.15 GPU-hours. Ours: docs/results.md; at paper scale not yet measured.

**Differs**: `speedup` names what the paper calls 5x, 10x, 20x: that many times fewer outer iterations than IDC's
(derived from the published hours; the official code leaves the number to the user). Members are drawn uniformly from
the view (the official index runs one past the end). Checkpoints are chosen by epoch, never on test data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddlib.methods import idc
from ddlib.methods.recipe import Problem, Recipe
from ddlib.pool.draw import Changed
from ddlib.transforms.perturb import Perturbation


def recipe(settings: Mapping[str, Any], problem: Problem) -> Recipe:
    """IDC from the pool's view, perturbed; ValueError without a view."""
    if problem.rows is None:
        raise ValueError("acc_dd starts from early epochs of a pool: give the experiment a pool and a view")
    return idc.recipe(settings, problem, Changed(problem.start(), Perturbation.of(settings, problem.streams)))
