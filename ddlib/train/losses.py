"""Losses on logits [N, classes], as means over the batch, written so that they can be differentiated twice."""

from __future__ import annotations

import torch
from torch import Tensor

from ddlib.registry import nearest

LOSSES = ("soft_ce", "kl", "kl_t2", "mse_gt")
"""How a student learns from a teacher's logits; what it learns from classes is cross entropy."""


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


def taught_loss(
    kind: str, logits: Tensor, said: Tensor, permuted: Tensor | None, ratio: Tensor, temperature: float
) -> Tensor:
    """The loss on logits [N, classes] of a student where a teacher's logits are `said` [N, classes], as a mean.

    `permuted`: the teacher's logits of the images mixed in, where it was asked of each image by itself; what it says of
    a mixed image is then `ratio` of the one and the rest of the other. None: it was asked of the mixed images.

    `kl`: KL(teacher || student) of softmax(logits / temperature), as RDED and SRe2L on ImageNet; `kl_t2`: times
    temperature^2 (Hinton et al. 2015, arXiv 1503.02531; SRe2L on Tiny-ImageNet); `soft_ce`: cross entropy at the
    temperature; `mse_gt`: squared difference of the logits (to which the
    caller adds its share of the classes' cross entropy). ValueError for another kind.
    """
    if kind not in LOSSES:
        raise ValueError(f"no loss is called {kind!r}: {nearest(kind, LOSSES)}")
    wide = logits.dtype if logits.dtype == torch.float64 else torch.float32
    logits, said, ratio = logits.to(wide), said.to(wide), ratio.to(wide)
    permuted = None if permuted is None else permuted.to(wide)
    if kind == "mse_gt":
        aim = said if permuted is None else ratio * said + (1 - ratio) * permuted
        return (logits - aim).square().mean()
    shares = torch.softmax(said / temperature, 1)
    if permuted is not None:
        shares = ratio * shares + (1 - ratio) * torch.softmax(permuted / temperature, 1)
    loss = soft_cross_entropy(logits / temperature, shares)
    if kind != "soft_ce":
        loss = loss + torch.xlogy(shares, shares).sum(1).mean()
    return loss * temperature**2 if kind == "kl_t2" else loss
