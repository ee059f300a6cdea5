"""How long a student trains and how its learning rate falls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ddlib.registry import nearest

CURVES = ("half_cosine", "cosine", "linear")


def multistep_factor(epoch: int, epochs: int, factor: float = 0.2) -> float:
    """Share of the first learning rate in `epoch` (0 to epochs - 1): times `factor` at 2/3 and at 5/6 of `epochs`."""
    return factor ** sum(epoch >= milestone for milestone in (2 * epochs // 3, 5 * epochs // 6))


def decayed(position: int, total: int, decay_at: Sequence[float], factor: float, delay: int = 0) -> float:
    """Share of the first learning rate at `position` of `total` (epochs or steps): times `factor` at each share passed.

    The general form of :func:`multistep_factor`: milestones are floor(share * total) + delay. Students of MTT and
    PDD train E + 1 epochs (E even), and their rate falls after epoch index E//2 + 1: a share of 0.5, a delay of 2.
    """
    return float(factor ** sum(position >= int(share * total + 1e-9) + delay for share in decay_at))


def curved(kind: str, position: int, total: int) -> float:
    """Share of the first learning rate at `position` of `total` (epochs or steps), without milestones.

    `half_cosine`: from 1 to a half, (1 + cos(pi e / 2E)) / 2, RDED's "smoothing"; `cosine`: to 0; `linear`: to 0.
    """
    if kind == "linear":
        return 1 - position / total
    return 0.5 * (1 + math.cos(math.pi * position / (total * (2 if kind == "half_cosine" else 1))))


def rate(protocol: Mapping[str, Any], position: int, total: int, delay: int = 0) -> float:
    """Share of the first learning rate at `position` of `total`, as a protocol's `schedule_lr` says.

    `delay`: positions by which the rate of `multistep` falls later than `decay_at`. ValueError for another schedule,
    and where the optimiser is to restart at the falls of one that falls all the time.
    """
    kind = protocol.get("schedule_lr", "multistep")
    if kind == "multistep":
        return decayed(position, total, protocol["decay_at"], protocol["decay_factor"], delay)
    if kind not in CURVES:
        raise ValueError(f"no schedule of learning rates is called {kind!r}: {nearest(kind, ('multistep', *CURVES))}")
    if protocol.get("restart_at_decay", False):
        raise ValueError(f"restart_at_decay needs a rate that falls in steps (multistep), not {kind}")
    return curved(kind, position, total)
