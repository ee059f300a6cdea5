"""DenseNet-121 for small images: blocks whose every layer sees the maps of all before it, with batch norm.

Huang et al., "Densely Connected Convolutional Networks" (2016, arXiv 1608.06993), in the form IDC evaluates with on
CIFAR (snu-mllab/Efficient-Dataset-Condensation @ ceac95a): 3x3 stem without pooling, growth 12, bottlenecks of four
times the growth, transitions that halve maps and sides; 1,000,618 parameters on 32 px with 10 classes. Written from a
description.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddlib.nn.norm import build_norm

BLOCKS = {121: (6, 12, 24, 16)}
BOTTLENECK = 4  # maps of the 1x1 convolutions, in growths


class DenseNet(nn.Module):
    """`channels` x `size` x `size` images [N, C, H, W], of 8 px or more, to logits [N, classes].

    `depth`: 121; `growth`: maps a layer adds; norm: instance (from 16 px on), batch, layer, group, none.
    """

    def __init__(
        self, channels: int, size: int, classes: int, depth: int = 121, growth: int = 12, norm: str = "batch"
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"a DenseNet has depth {', '.join(map(str, BLOCKS))}, not {depth}")
        if min(channels, classes, growth) < 1:
            raise ValueError(f"channels, classes and growth are at least 1, not {(channels, classes, growth)}")
        least = 16 if norm == "instance" else 8
        if size < least:
            raise ValueError(
                f"DenseNet halves the side three times: images of {size} px are too small, {least} px is the least "
                f"with norm {norm}."
            )
        maps, side = 2 * growth, size
        self.stem = nn.Conv2d(channels, maps, 3, padding=1, bias=False)
        stages = []
        for stage, many in enumerate(BLOCKS[depth]):
            parts: list[nn.Module] = []
            if stage:
                parts.append(Transition(maps, maps // 2, norm, side))
                maps, side = maps // 2, side // 2
            for _ in range(many):
                parts.append(Dense(maps, growth, norm, side))
                maps += growth
            stages.append(nn.Sequential(*parts))
        self.stages = nn.ModuleList(stages)
        self.norm = build_norm(norm, maps, side)
        self.classifier = nn.Linear(maps, classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """The maps after each of the four stages; the last after the last norm and ReLU."""
        x, found = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return [*found[:-1], F.relu(self.norm(x))]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x)[-1].mean((2, 3)))
        return logits


class Dense(nn.Module):
    """norm, ReLU, 1x1 convolution, norm, ReLU, 3x3 convolution; its maps are put behind those it was given."""

    def __init__(self, inputs: int, growth: int, norm: str, side: int) -> None:
        super().__init__()
        self.norm1 = build_norm(norm, inputs, side)
        self.conv1 = nn.Conv2d(inputs, BOTTLENECK * growth, 1, bias=False)
        self.norm2 = build_norm(norm, BOTTLENECK * growth, side)
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(out)))], 1)


class Transition(nn.Module):
    """norm, ReLU, 1x1 convolution to fewer maps, 2x2 average pooling."""

    def __init__(self, inputs: int, outputs: int, norm: str, side: int) -> None:
        super().__init__()
        self.norm = build_norm(norm, inputs, side)
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)
