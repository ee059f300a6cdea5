"""RDED: the crops an observer finds most typical of their class, stitched; nothing is learned.

Sun et al., "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm", CVPR 2024,
arXiv 2312.03526; LINs-lab/RDED @ 3f6453d. Of `mipc` images per class the best of `crops` random crops each is scored
(ddlib/sets/realism.py), and the ipc x factor^2 best of all are stitched. Students are taught by the observer's soft
labels (ddlib/sets/labels.py) under the protocol `rded`: that, more than the selection, is where its accuracy is from.

Published (ResNet-18 as observer and student, soft labels, best of six checks on the test set): ImageNet-1k about 42 at
ipc 10. Ours: docs/results.md; at paper scale not yet measured.

**Differs**: bytes are kept as they are (`store: jpeg75` gives the official JPEG files' pixels); all draws are seeded;
scores are by log-softmax (theirs are infinite where a probability underflows), equal ones in the order images are
drawn; students are scored at the last epoch, on all test images (theirs: 50 a class on ImageNet subsets). How the
official observers were trained, and which class is which number on ImageNet subsets, is not published: observers are
trained here (presets `observer`, `observer_imagenet`), and checked. `unscored` is a baseline of ours: the crops that
would have been scored first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddlib.methods.recipe import Problem, Recipe


def recipe(settings: Mapping[str, Any], problem: Problem) -> Recipe:
    """RDED with `settings` (ddlib/presets.py): the best crops of the problem's score table; without one (a stage of a
    progressive distillation) the stage's network scores them first."""
    options = {name: settings[name] for name in ("mipc", "crops", "store")}
    return Recipe(init="rded", factor=1, outer_iterations=0, grid=settings["factor"], options=options)


def unscored(settings: Mapping[str, Any], problem: Problem) -> Recipe:
    """Random crops, stitched alike: what the scores, and the observer, are worth."""
    options = {"store": settings["store"]}
    return Recipe(init="crops", factor=1, outer_iterations=0, grid=settings["factor"], options=options)
