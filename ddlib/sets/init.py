"""How synthetic images begin: real images, packed or as they are, or noise.

`first` and `mix` are the official rules of IDC (snu-mllab/Efficient-Dataset-Condensation @ ceac95a): the first images
of each class in the order of the data set, deterministic although called "random" there. `random` really draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ddlib.data.real import RealData
from ddlib.registry import nearest
from ddlib.sets.packing import pack
from ddlib.streams import Streams

DRAWN = ("mix", "first", "random", "noise")
SELECTED = ("rded", "crops", "herding", "kmeans")
KINDS = (*DRAWN, *SELECTED)
"""Those of DRAWN are made here, those SELECTED in ddlib/methods/selection.py."""


def initial_images(
    kind: str, data: RealData, classes: Sequence[int], ipc: int, factor: int, streams: Streams, stage: int = 0
) -> Tensor:
    """Stored images float32 [len(classes) * ipc, C, H, W] in the space of `data` (unit or whitened), class by class.

    `mix`: the first ipc * factor^2 images of a class, shrunk (nearest) and packed; `first`: the first ipc as they are;
    `random`: ipc * factor^2 drawn without replacement, packed where factor > 1; `noise`: normal around 0.5, clipped
    (whitened: standard normal, as MTT has it).
    `stage`: of a progressive distillation; `mix` and `first` take the images after those of the stages before.
    ValueError when a class has too few images.
    """
    if kind not in DRAWN:
        raise ValueError(f"no initialisation is called {kind!r}: {nearest(kind, DRAWN)}")
    return torch.cat([_class_images(kind, data, label, ipc, factor, streams, stage) for label in classes])


def _class_images(kind: str, data: RealData, label: int, ipc: int, factor: int, streams: Streams, stage: int) -> Tensor:
    shape = (ipc, data.channels, data.height, data.width)
    device = data.labels.device
    if kind == "noise":
        drawn = torch.from_numpy(streams.at("noise", label).standard_normal(shape, dtype=np.float32)).to(device)
        return drawn if data.space == "whitened" else drawn.div(4).add(0.5).clamp(0, 1)
    members = data.of_class(label)
    packed = 1 if kind == "first" else factor
    needed = ipc * packed * packed
    first = 0 if kind == "random" else stage * needed
    if first + needed > len(members):
        of_stages = f", and {first} are taken by the {stage} stages before" if first else ""
        raise ValueError(
            f"class {label} ({data.class_names[label]}) of {data.name} has {len(members)} images; ipc {ipc} with "
            f"factor {packed} needs {ipc} x {packed}^2 = {needed}{of_stages}. Lower ipc or factor."
        )
    if kind == "random":
        order = streams.at("images", label).permutation(len(members))[:needed]
        members = members[torch.from_numpy(order).to(device)]
    return pack(data.pixels(members[first : first + needed]), ipc, packed)
