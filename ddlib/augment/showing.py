"""How a batch is shown to a network: pixels normalised, augmented image by image, mixed with each other.

What is drawn, and the views that come of it, are the same for a network in training and for a teacher that labels
these views beforehand (ddlib/sets/labels.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddlib.augment.mix import MIXES, mix_apply, mix_draw
from ddlib.augment.siamese import Augmentation
from ddlib.registry import nearest
from ddlib.streams import Streams

Draws = dict[str, Tensor]


@dataclass(frozen=True)
class Drawing:
    """What many batches are shown with, on the device: `draws` [steps, batch, ...] for each image and `mix`
    [steps, ...] for each batch, by name; `choices`: the operation picked for each batch (None: there is no choice)."""

    draws: Draws
    mix: Draws
    choices: list[str | None]

    def of(self, step: int, images: int) -> tuple[Draws, Draws, str | None]:
        """Those of one batch; of fewer `images` than were drawn for, the permutation skips what is not there."""
        mix = {name: values[step] for name, values in self.mix.items()}
        permutation = mix["permutation"]
        if images < len(permutation):
            mix["permutation"] = permutation[torch.nonzero(permutation < images).flatten()]
        return {name: values[step, :images] for name, values in self.draws.items()}, mix, self.choices[step]


@dataclass(frozen=True)
class Replay:
    """How batches were shown to a teacher once, and its logits [images, classes] of these views, in order."""

    drawing: Drawing
    logits: Tensor


@dataclass(frozen=True, kw_only=True)
class Showing:
    """`batch` images at most; `mix`: cutmix or mixup, with `mix_probability` (0-1) and lambda from
    Beta(`mix_beta`, `mix_beta`). ValueError for an unknown mix."""

    batch: int
    augment: Augmentation
    mix_probability: float
    mix_beta: float
    mix: str = "cutmix"

    def __post_init__(self) -> None:
        if self.mix not in MIXES:
            raise ValueError(f"no way to mix is called {self.mix!r}: {nearest(self.mix, MIXES)}")

    @staticmethod
    def options(settings: Mapping[str, Any], prefix: str = "", grid: int = 1) -> dict[str, Any]:
        """Its fields from settings named batch, augment, mix_beta, ... (with `prefix`, as in network_batch).

        `grid`: patches a side of the images, which count where the settings say ``grid: set``.
        """
        cells = grid if settings.get("grid", "none") == "set" else 1
        area = tuple(settings.get("crop_area", ()))
        augment = Augmentation(settings[f"{prefix}augment"], settings.get("dialect", "idc"), cells, area)
        named = {name: settings[prefix + name] for name in ("batch", "mix_probability", "mix_beta")}
        return {**named, "augment": augment, "mix": settings.get(f"{prefix}mix", "cutmix")}

    def draw(
        self,
        streams: Streams,
        purpose: str,
        index: tuple[int, ...],
        steps: int,
        sides: tuple[int, int],
        device: str | torch.device,
    ) -> Drawing:
        """All draws of `steps` batches of images with `sides` (height, width), keyed by `purpose` and `index`."""
        height, width = sides
        rng = streams.at(f"{purpose}_augment", *index)
        drawn = self.augment.draw(rng, (steps,), height=height, width=width, images=self.batch)
        chosen, names = drawn.pop("choice", None), self.augment.choices
        choices: list[str | None] = [None] * steps
        if names and chosen is not None:
            choices = [names[int(number)] for number in chosen]
        rng = streams.at(f"{purpose}_mix", *index)
        odds = {"probability": self.mix_probability, "beta": self.mix_beta}
        mix = mix_draw(self.mix, rng, (steps,), batch=self.batch, height=height, width=width, **odds)
        return Drawing(to_device(drawn, device), to_device(mix, device), choices)

    def augmented(self, x: Tensor, mean: Tensor, std: Tensor, draws: Draws, choice: str | None) -> Tensor:
        """Pixels [n, C, H, W], normalised and augmented."""
        if self.augment.of_pixels:
            return (self.augment.apply(x, draws, choice) - mean) / std
        return self.augment.apply((x - mean) / std, draws, choice)

    def show(self, x: Tensor, mean: Tensor, std: Tensor, draws: Draws, mix: Draws, choice: str | None) -> Tensor:
        """Pixels [n, C, H, W], normalised, augmented and mixed: what a network sees."""
        return mix_apply(self.mix, self.augmented(x, mean, std, draws, choice), mix)


def to_device(draws: Mapping[str, np.ndarray], device: str | torch.device) -> Draws:
    """Drawing arrays as tensors: float64 becomes float32, integers stay."""
    out = {}
    for name, values in draws.items():
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        out[name] = (tensor.float() if tensor.dtype == torch.float64 else tensor).to(device, non_blocking=True)
    return out
