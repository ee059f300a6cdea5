"""Differentiable siamese augmentation (DSA): which operations in which order, and how their parameters are drawn.

Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation" (2021, arXiv 2102.08259), in the two
dialects in use: ``idc`` as in snu-mllab/Efficient-Dataset-Condensation (ceac95a): flip, then colour, then exactly one
of the listed crop, scale and rotate, then cutout; ``mtt`` as in GeorgeCazenavette/mtt-distillation (50dccea): exactly
one of the listed groups a call, samplers with align_corners. "Siamese": real and synthetic images get the same draws.

A third dialect, ``crops``, is that of 224 px pipelines and no siamese one: see ddlib/augment/cropping.py.

**Differs**: IDC's `translate`, which no published recipe uses, is not there. Draws come from keyed streams, all of an
outer iteration at once, in no official order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ddlib import registry
from ddlib.augment import cropping
from ddlib.augment import ops as operations

GROUPS = ("color", "crop", "cutout", "flip", "scale", "rotate")
DIALECTS = ("idc", "mtt", "crops")
COLOUR = ("brightness", "saturation", "contrast")
_ONE_OF = ("crop", "scale", "rotate")
_KEYS = {
    "color": COLOUR,
    "crop": ("crop_rows", "crop_cols"),
    "cutout": ("cutout_rows", "cutout_cols"),
    "flip": ("flip",),
    "scale": ("scale_x", "scale_y"),
    "rotate": ("angle",),
}


@dataclass(frozen=True)
class Augmentation:
    """`ops`: groups of color, crop, cutout, flip, scale, rotate joined by ``_`` ("" or "none": no augmentation).

    In the dialect `crops` groups are shuffle, resized, flip, jitter, lighting; `grid`: patches a side that are
    shuffled; `area`: least and largest share of the image that a crop takes, () for 1 / grid to 1. ValueError for an
    unknown or repeated group, or an unknown dialect.
    """

    ops: str = "color_crop_cutout"
    dialect: str = "idc"
    grid: int = 1
    area: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.dialect not in DIALECTS:
            raise ValueError(f"no dialect is called {self.dialect!r}: {registry.nearest(self.dialect, DIALECTS)}")
        known = cropping.GROUPS if self.dialect == "crops" else GROUPS
        for group in self.groups:
            if group not in known:
                raise ValueError(
                    f"no augmentation is called {group!r} (in {self.ops!r}, dialect {self.dialect}): "
                    f"{registry.nearest(group, known)}"
                )
        if len(set(self.groups)) < len(self.groups):
            raise ValueError(f"the augmentation {self.ops!r} names a group twice: name each once.")

    @property
    def groups(self) -> tuple[str, ...]:
        """The listed groups, in the order listed."""
        return () if self.ops in ("", "none") else tuple(self.ops.split("_"))

    @property
    def of_pixels(self) -> bool:
        """Whether images are augmented before they are normalised."""
        return self.dialect == "crops"

    @property
    def choices(self) -> tuple[str, ...]:
        """What one call picks one of; empty when there is nothing to pick."""
        if self.dialect == "crops":
            return ()
        return self.groups if self.dialect == "mtt" else tuple(group for group in self.groups if group in _ONE_OF)

    def draw(
        self, rng: np.random.Generator, calls: tuple[int, ...], *, height: int, width: int, images: int | None = None
    ) -> dict[str, np.ndarray]:
        """Parameters of many calls at once: arrays of shape `calls`, or `calls` + (images,) for one set an image.

        `choice` (shape `calls`, only where there are choices): index in `choices`. crop_rows and crop_cols: shifts in
        pixels; cutout_rows and cutout_cols: centres in pixels (int64). All others: uniform in [0, 1) (float64), what
        ddlib.augment.ops calls `u`, also `angle`. (`crops` draws what ddlib.augment.cropping says.)
        """
        if self.dialect == "crops":
            return cropping.draw(self.groups, self.grid, self.area, rng, calls, height, width, images)
        shape = calls if images is None else (*calls, images)
        sides = {"rows": height, "cols": width}
        drawn: dict[str, np.ndarray] = {}
        if self.choices:
            drawn["choice"] = rng.integers(len(self.choices), size=calls)
        for group in GROUPS:
            for key in _KEYS[group] if group in self.groups else ():
                side = sides.get(key[-4:], 0)
                if group == "crop":
                    limit = operations.crop_limit(side)
                    drawn[key] = rng.integers(-limit, limit + 1, size=shape)
                elif group == "cutout":
                    drawn[key] = rng.integers(0, side + 1 - operations.cutout_side(side) % 2, size=shape)
                else:
                    drawn[key] = rng.random(shape)
        return drawn

    def apply(self, x: Tensor, draws: Mapping[str, Tensor], choice: str | None) -> Tensor:
        """Augment images [N, C, H, W] by one call's draws, each 0-d (shared) or [N] (one an image). They are normalised
        (`of_pixels`: shares 0-1).

        `choice`: the name in `choices` that was picked (None where there is nothing to pick). Pure and
        differentiable in `x`; no host synchronisation, so whole under ``torch.func`` and ``torch.compile``.
        """
        if choice not in self.choices and (choice is not None or self.choices):
            raise ValueError(
                f"{self.ops!r} ({self.dialect}) picks one of {', '.join(self.choices) or 'nothing'} a call: "
                f"{choice!r} is none of it."
            )
        if self.dialect == "crops":
            return cropping.apply(x, draws)
        if self.dialect == "mtt":
            return x if choice is None else _apply(choice, x, draws, align=True)
        for group in ("flip", "color", choice, "cutout"):
            if group is not None and group in self.groups:
                x = _apply(group, x, draws, align=False)
        return x


def _apply(group: str, x: Tensor, draws: Mapping[str, Tensor], align: bool) -> Tensor:
    """One group of operations."""
    if group == "color":
        x = operations.brightness(x, draws["brightness"])
        x = operations.saturation(x, draws["saturation"])
        return operations.contrast(x, draws["contrast"])
    if group == "crop":
        return operations.crop(x, draws["crop_rows"], draws["crop_cols"])
    if group == "cutout":
        return operations.cutout(x, draws["cutout_rows"], draws["cutout_cols"])
    if group == "flip":
        return operations.flip(x, draws["flip"])
    if group == "scale":
        return operations.scale(x, draws["scale_x"], draws["scale_y"], align)
    return operations.rotate(x, draws["angle"], align)
