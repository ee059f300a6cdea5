"""AlexNet for small images, a network of transfer: five convolutions without norm, three max pools, a linear layer.

Krizhevsky et al., "ImageNet classification" (2012), in the form MTT and PDD evaluate with
(GeorgeCazenavette/mtt-distillation @ 50dccea): 1,872,202 parameters on 32 px with 10 classes. Written from a
description.

**Differs**: for other sizes than 32 px the linear layer sees the maps that there are (the official one is 4 x 4
always). Images of one channel and 28 px are padded to 32 as there; other grey images are not.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (128, 192, 256, 192, 192)
KERNELS = (5, 5, 3, 3, 3)
POOLED = (True, True, False, False, True)  # which convolutions a pooling follows


class AlexNet(nn.Module):
    """`channels` x `size` x `size` images [N, C, H, W], of 8 px or more, to logits [N, classes]."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        if min(channels, classes) < 1:
            raise ValueError(f"channels and classes are at least 1, not {(channels, classes)}")
        padded = 4 if channels == 1 and size == 28 else 0
        side = (size + padded) // 2 ** sum(POOLED)
        if side < 1:
            raise ValueError(
                f"AlexNet halves the side three times: images of {size} px are too small, 8 px is the least."
            )
        inputs = (channels, *WIDTHS)
        paddings = [(kernel + (padded if place == 0 else 0)) // 2 for place, kernel in enumerate(KERNELS)]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, width, kernel, padding=padding)
            for before, width, kernel, padding in zip(inputs, WIDTHS, KERNELS, paddings, strict=False)
        )
        self.classifier = nn.Linear(WIDTHS[-1] * side**2, classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """The maps after each of the five convolutions (and the pooling after it)."""
        found = []
        for conv, pooled in zip(self.convs, POOLED, strict=True):
            x = F.relu(conv(x))
            x = F.max_pool2d(x, 2) if pooled else x
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x)[-1].flatten(1))
        return logits
