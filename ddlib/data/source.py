"""What the readers of data sets share: check what was asked against what there is, and make a part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ddlib.data.real import RealData, stratified


def verify(spec: Mapping[str, Any], *, classes: int, size: int, channels: int, orders: Sequence[str]) -> None:
    """ValueError where `spec` asks for other classes, size (pixels), channels or order than the source has."""
    there = {"classes": classes, "size": size, "channels": channels}
    for key, value in there.items():
        if spec[key] != value:
            raise ValueError(
                f"{spec['source']} has {key} {value}, the configuration says {spec[key]}: set {key}: {value}"
            )
    if spec["order"] not in orders:
        raise ValueError(
            f"{spec['source']} comes in the order {' or '.join(orders)}, the configuration says {spec['order']!r}"
        )
    for key in ("mean", "std"):
        if len(spec[key]) != channels or (key == "std" and min(spec[key]) <= 0):
            raise ValueError(
                f"{key} of {spec['source']} must be {channels} share(s) 0-1, one a channel, not {spec[key]}"
            )


def part(
    spec: Mapping[str, Any],
    images: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
    scale: float,
    *,
    train: bool,
) -> RealData:
    """RealData of `images` uint8 [N, C, H, W] and `labels` int64 [N]; the held-out share of `spec` is marked in
    train only.
    """
    found = np.unique(labels).tolist()
    if len(names) != spec["classes"] or found != list(range(spec["classes"])):
        raise ValueError(
            f"{spec['source']}: the configuration says classes: {spec['classes']}, the file names {len(names)} and its "
            f"labels are {found[:3]}..{found[-1]} ({len(found)} of them)"
        )
    heldout = stratified(labels, float(spec["heldout"]) if train else 0.0, "heldout")
    return RealData(
        # cloned for plain strides: those of a new axis would take convolutions another way than data from a file
        images=torch.from_numpy(images).clone(memory_format=torch.contiguous_format),
        labels=torch.from_numpy(labels.astype(np.int64)),
        class_names=names,
        scale=scale,
        mean=tuple(float(v) for v in spec["mean"]),
        std=tuple(float(v) for v in spec["std"]),
        flip=bool(spec["flip"]),
        name=str(spec["source"]),
        heldout=torch.from_numpy(heldout),
    )
