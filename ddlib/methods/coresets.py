"""Baselines that pick real images and pack them: `random` real images, the `initial` set of another method, and
coresets (`herding`, `kmeans`: ddlib/sets/centres.py).

They have no outer iterations. Random real images under the same protocol are what every method must be measured against
(Qin et al., "A Label is Worth a Thousand Images in Dataset Distillation", NeurIPS 2024, arXiv 2406.10485).

**Differs**: the `random` of the official repositories is the first images of each class; ours draws by seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddlib.methods.recipe import Problem, Recipe


def recipe(settings: Mapping[str, Any], problem: Problem) -> Recipe:
    """Images by `init`, packed by `factor`."""
    return Recipe(init=settings["init"], factor=settings["factor"], outer_iterations=0)


def chosen(settings: Mapping[str, Any], problem: Problem) -> Recipe:
    """Images that stand for their class by `init` (herding or kmeans), compared by `features`."""
    options = {"features": settings["features"]}
    return Recipe(init=settings["init"], factor=settings["factor"], outer_iterations=0, options=options)
