"""Losses on logits [N, classes], as means over the batch, written so that they can be differentiated twice."""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy for labels int64 [N]; bfloat16 and float16 logits are taken to float32 first."""
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    chosen = torch.log_softmax(logits, 1).gather(1, labels[:, None])
    return -chosen.mean()


def mixed_cross_entropy(logits: Tensor, labels: Tensor, permuted_labels: Tensor, ratio: Tensor) -> Tensor:
    """ratio * CE(labels) + (1 - ratio) * CE(permuted_labels): the loss of a mixed batch; `ratio` 0-d in 0-1."""
    ratio = ratio.to(logits.dtype if logits.dtype == torch.float64 else torch.float32)
    return ratio * cross_entropy(logits, labels) + (1 - ratio) * cross_entropy(logits, permuted_labels)
