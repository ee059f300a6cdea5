"""VGG for small images, a network of transfer: 3x3 convolutions with norm, five max pools, one linear layer.

Simonyan and Zisserman, "Very deep convolutional networks" (2014, arXiv 1409.1556), configurations A, B, D and E, in the
form MTT and PDD evaluate with (GeorgeCazenavette/mtt-distillation @ 50dccea): VGG11 with instance norm, 9,231,114
parameters with 10 classes. Written from a description.

**Differs**: images larger than 32 px keep their places for the linear layer. Images of one channel and 28 px are padded
to 32; other grey images are not.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ddlib.nn.norm import build_norm

WIDTHS = (64, 128, 256, 512, 512)
# depth -> convolutions before each of the five poolings
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """`channels` x `size` x `size` images [N, C, H, W], of 32 px or more (28 if grey), to logits [N, classes].

    `depth`: 11, 13, 16 or 19; norm: instance, batch, layer, group, none.
    """

    def __init__(self, channels: int, size: int, classes: int, depth: int = 11, norm: str = "instance") -> None:
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise ValueError(f"a VGG has depth {', '.join(map(str, CONVOLUTIONS))}, not {depth}")
        if min(channels, classes) < 1:
            raise ValueError(f"channels and classes are at least 1, not {(channels, classes)}")
        first_padding = 3 if channels == 1 and size == 28 else 1
        side, inputs = size + 2 * (first_padding - 1), channels
        if side < 2 ** len(WIDTHS):
            raise ValueError(
                f"VGG halves the side five times: images of {size} px are too small, 32 px is the least (28 if grey)."
            )
        stages = []
        for stage, (width, many) in enumerate(zip(WIDTHS, CONVOLUTIONS[depth], strict=True)):
            layers: list[nn.Module] = []
            for number in range(many):
                padding = first_padding if stage == number == 0 else 1
                layers += [nn.Conv2d(inputs, width, 3, padding=padding), build_norm(norm, width, side), nn.ReLU()]
                inputs = width
            stages.append(nn.Sequential(*layers))
            side //= 2
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(inputs * side**2, classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """The maps after each of the five poolings."""
        found = []
        for stage in self.stages:
            x = F.max_pool2d(stage(x), 2)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x)[-1].flatten(1))
        return logits
