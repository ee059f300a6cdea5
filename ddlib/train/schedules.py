"""How long a student trains and how its learning rate falls."""

from __future__ import annotations

from collections.abc import Sequence

_EPOCHS = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500))


def evaluation_epochs(classes: int, factor: int, ipc: int, limit: int | None = None) -> int:
    """Epochs IDC trains a student for on ImageNet subsets, by the decoded images per class ipc * factor^2.

    `limit`: the bound on these, where the set was decoded with one. For 100 classes two thirds, cut to hundreds.
    (On 28 and 32 px data sets IDC always trains 1000.) snu-mllab/Efficient-Dataset-Condensation, ceac95a.
    """
    images = ipc * factor**2 if limit is None else min(ipc * factor**2, limit)
    epochs = next((epochs for most, epochs in _EPOCHS if images <= most), 300)
    return epochs * 2 // 3 // 100 * 100 if classes == 100 else epochs


def multistep_factor(epoch: int, epochs: int, factor: float = 0.2) -> float:
    """Share of the first learning rate in `epoch` (0 to epochs - 1): times `factor` at 2/3 and at 5/6 of `epochs`."""
    return factor ** sum(epoch >= milestone for milestone in (2 * epochs // 3, 5 * epochs // 6))


def decayed(position: int, total: int, decay_at: Sequence[float], factor: float, delay: int = 0) -> float:
    """Share of the first learning rate at `position` of `total` (epochs or steps): times `factor` at each share passed.

    The general form of :func:`multistep_factor`: milestones are floor(share * total) + delay. Students of MTT and
    PDD train E + 1 epochs (E even), and their rate falls after epoch index E//2 + 1: a share of 0.5, a delay of 2.
    """
    return float(factor ** sum(position >= int(share * total + 1e-9) + delay for share in decay_at))
