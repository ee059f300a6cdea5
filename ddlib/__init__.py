"""Dataset distillation as a Snakemake workflow, and a library that works without it.

``ddlib.load("results/sets/<experiment>/ipc10/seed0")`` is a PyTorch data set of what was distilled. Importing ddlib
imports neither torch nor snakemake.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddlib.sets.dataset import DistilledImages

__version__ = "0.1.0"


def load(path: str | Path, class_order: Sequence[str] | str | None = None, normalised: bool = False) -> DistilledImages:
    """A distilled set as a PyTorch data set of (image float32 [C, H, W], label), decoded and in true colours (0-1).

    `path`: the set's folder, its card.json or its set.safetensors (checked against the card where there is one);
    `class_order`: the class names as you number them, or their class_order_hash: ValueError, naming the first class
    that differs, if the set numbers them otherwise; `normalised`: give (image - mean) / std instead.
    """
    from ddlib.sets.dataset import DistilledImages, open_set

    return DistilledImages(open_set(path, class_order), normalised)
