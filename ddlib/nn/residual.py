"""The parts of residual networks: stem, basic and bottleneck blocks, shortcuts (ddlib/nn/resnet.py says whose)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ddlib.nn.norm import build_norm

EXPANSION = 4  # maps of a bottleneck's output for one of its 3x3 convolution


class Stem(nn.Module):
    """The first convolution, norm and ReLU, and where `kind` says so a pooling: a max pool of 3 at stride 2 where
    convolutions have strides, else an average pool of 2 (of 4 after a 7x7 convolution, which then has no stride).

    `side`: of its output.
    """

    def __init__(self, channels: int, width: int, size: int, norm: str, kind: str, average: bool) -> None:
        super().__init__()
        wide = kind == "7x7_pool"
        kernel, stride = (7, 1 if average else 2) if wide else (3, 1)
        self.conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
        side = -(-size // stride)
        self.norm = build_norm(norm, width, side)
        self.pools, self.average = kind != "3x3", (4 if wide else 2) if average else 0
        if self.pools:
            side = side // self.average if average else -(-side // 2)
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        if not self.pools:
            return x
        return F.avg_pool2d(x, self.average) if self.average else F.max_pool2d(x, 3, 2, 1)


class Basic(nn.Module):
    """Two 3x3 convolutions beside a shortcut. Sides of the maps `before` and after it: where they differ it halves."""

    def __init__(self, inputs: int, outputs: int, before: int, side: int, norm: str, average: bool) -> None:
        super().__init__()
        halves = before != side
        stride = 2 if halves and not average else 1
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = build_norm(norm, outputs, before if average else side)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = build_norm(norm, outputs, side)
        self.pools = halves and average
        self.shortcut = Shortcut(inputs, outputs, side, norm, stride, self.pools) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        if self.pools:
            out = F.avg_pool2d(out, 2)
        out = self.norm2(self.conv2(out))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, with a quarter of the maps, beside a shortcut.

    Where maps are halved, the 3x3 convolution has the stride (torchvision's "v1.5"), or its output is pooled.
    """

    def __init__(self, inputs: int, outputs: int, before: int, side: int, norm: str, average: bool) -> None:
        super().__init__()
        halves = before != side
        inner, stride = outputs // EXPANSION, 2 if halves and not average else 1
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.norm1 = build_norm(norm, inner, before)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.norm2 = build_norm(norm, inner, before if average else side)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.norm3 = build_norm(norm, outputs, side)
        self.pools = halves and average
        self.shortcut = Shortcut(inputs, outputs, side, norm, stride, self.pools) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        out = F.relu(self.norm2(self.conv2(out)))
        if self.pools:
            out = F.avg_pool2d(out, 2)
        out = self.norm3(self.conv3(out))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class Shortcut(nn.Module):
    """A 1x1 convolution, pooled where `pools`, and a norm: past a block that changes the shape of the maps."""

    def __init__(self, inputs: int, outputs: int, side: int, norm: str, stride: int, pools: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.norm = build_norm(norm, outputs, side)
        self.pools = pools

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        found: Tensor = self.norm(F.avg_pool2d(x, 2) if self.pools else x)
        return found
