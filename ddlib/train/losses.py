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
    """ratio * CE(labels) + (1 - ratio) * CE(permuted_labels): the loss of a mixed batch; `ratio` 0-d in 0-1.

    Labels are int64 [N], or shares [N, classes].
    """
    ratio = ratio.to(logits.dtype if logits.dtype == torch.float64 else torch.float32)
    loss = cross_entropy if labels.ndim == 1 else soft_cross_entropy
    return ratio * loss(logits, labels) + (1 - ratio) * loss(logits, permuted_labels)


def soft_cross_entropy(logits: Tensor, shares: Tensor) -> Tensor:
    """Mean cross entropy for labels that are shares [N, classes], as an expert gives them."""
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    return -(shares * torch.log_softmax(logits, 1)).sum(1).mean()
