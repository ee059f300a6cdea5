"""Residual networks: a stem, four stages of residual blocks of doubling width, a linear layer.

He et al., "Deep Residual Learning" (2015, arXiv 1512.03385), as dataset condensation uses them: instance norm, and
average pooling in place of strides (``downsampling: avg``). Written from descriptions of
snu-mllab/Efficient-Dataset-Condensation (ceac95a) and GeorgeCazenavette/mtt-distillation (50dccea):

- ResNet-18 of MTT at 32 px: depth 18, the rest as it is (11,173,962 parameters with 10 classes);
- ResNet18_AP of MTT: ``downsampling: avg, head: flatten`` (the linear layer sees all 4 x 4 places);
- ResNetAP-10 of IDC: depth 10, ``downsampling: avg``; its "cifar" family has width 32.

Norms see maps of at least 2 x 2: of a single pixel instance norm leaves nothing.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ddlib import registry
from ddlib.nn.norm import build_norm

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2)}
STEMS = ("auto", "3x3", "3x3_pool", "7x7_pool")
DOWNSAMPLINGS = ("stride", "avg")
HEADS = ("mean", "flatten")
SMALLEST = 2  # side of the maps of the last stage


class ResNet(nn.Module):
    """`channels` x `size` x `size` images [N, C, H, W] to logits [N, classes].

    `depth`: 10 or 18; `width`: maps of the first stage; norm: instance, batch, layer, group, none. `downsampling`:
    stride, or avg (convolutions of stride 1, then 2x2 average pooling). `stem`: 3x3, 3x3_pool, 7x7_pool, or auto: 3x3
    to 64 px, 3x3_pool to 128 px, 7x7_pool above. `head`: mean (over the last maps) or flatten. ValueError for an
    unknown name or depth, and for images too small.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        depth: int = 18,
        width: int = 64,
        norm: str = "instance",
        downsampling: str = "stride",
        stem: str = "auto",
        head: str = "mean",
    ) -> None:
        super().__init__()
        _known("stem", stem, STEMS)
        _known("downsampling", downsampling, DOWNSAMPLINGS)
        _known("head", head, HEADS)
        if depth not in BLOCKS:
            raise ValueError(f"a residual network has depth {', '.join(map(str, BLOCKS))}, not {depth}")
        if min(channels, size, classes, width) < 1:
            raise ValueError(
                f"channels, size, classes and width are at least 1, not {(channels, size, classes, width)}"
            )
        average = downsampling == "avg"
        self.head = head
        self.stem = Stem(channels, width, size, norm, _stem(size) if stem == "auto" else stem, average)
        stages, side = [], self.stem.side
        for stage, many in enumerate(BLOCKS[depth]):
            outputs, inputs = width * 2**stage, width * 2 ** max(stage - 1, 0)
            side = _half(side, average) if stage else side
            _large_enough(side, size, stage, 16 if average else 9)
            first = Basic(inputs, outputs, side, norm, stage > 0, average)
            others = (Basic(outputs, outputs, side, norm, False, average) for _ in range(1, many))
            stages.append(nn.Sequential(first, *others))
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(outputs * (side**2 if head == "flatten" else 1), classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """The maps after each of the four stages, [N, width * 2^stage, side, side]."""
        x, found = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        maps = self.features(x)[-1]
        logits: Tensor = self.classifier(maps.flatten(1) if self.head == "flatten" else maps.mean((2, 3)))
        return logits


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
    """Two 3x3 convolutions beside a shortcut. `side`: of its output; `halves`: whether it makes maps half as large."""

    def __init__(self, inputs: int, outputs: int, side: int, norm: str, halves: bool, average: bool) -> None:
        super().__init__()
        stride = 2 if halves and not average else 1
        before = 2 * side if halves and average else side  # only layer norm asks for it
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = build_norm(norm, outputs, before)
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


def _stem(size: int) -> str:
    return "3x3" if size <= 64 else "3x3_pool" if size <= 128 else "7x7_pool"


def _half(side: int, average: bool) -> int:
    """Half a side: pooling drops an odd one's last line, a stride keeps it."""
    return side // 2 if average else -(-side // 2)


def _large_enough(side: int, size: int, stage: int, least: int) -> None:
    if side < SMALLEST:
        raise ValueError(
            f"images of {size} px have maps of {side} x {side} in stage {stage + 1} of a residual network, which needs "
            f"{SMALLEST} x {SMALLEST} in its last stage: with a stem of 3x3, images of at least {least} px."
        )


def _known(what: str, given: str, names: tuple[str, ...]) -> None:
    if given not in names:
        raise ValueError(f"no {what} is called {given!r}: {registry.nearest(given, names)}")
