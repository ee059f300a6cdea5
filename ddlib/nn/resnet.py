"""Residual networks: a stem, four stages of residual blocks of doubling width, a linear layer.

He et al., "Deep Residual Learning" (2015, arXiv 1512.03385), as dataset condensation uses them: instance norm, and
average pooling in place of strides (``downsampling: avg``). Written from descriptions of
snu-mllab/Efficient-Dataset-Condensation (ceac95a), GeorgeCazenavette/mtt-distillation (50dccea) and LINs-lab/RDED
(3f6453d):

- ResNet-18 of MTT at 32 px: depth 18, the rest as it is (11,173,962 parameters with 10 classes);
- ResNet18_AP of MTT: ``downsampling: avg, head: flatten`` (the linear layer sees all 4 x 4 places);
- ResNetAP-10 of IDC: depth 10, ``downsampling: avg, initialisation: fan_out``; its "cifar" family has width 32;
- ResNet-18, 50 and 101 of torchvision (from depth 50 on with bottlenecks whose stride is in the 3x3 convolution):
  ``norm: batch, stem: 7x7_pool, initialisation: fan_out``; RDED's "modified" ones for 32 and 64 px: ``stem: 3x3``.

Norms see maps of at least 2 x 2: of a single pixel instance norm leaves nothing.
"""

from __future__ import annotations

from torch import Tensor, nn

from ddlib import registry
from ddlib.nn.residual import EXPANSION, Basic, Bottleneck, Stem

# depth -> blocks of each stage
BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BOTTLENECKS = (50, 101)
STEMS = ("auto", "3x3", "3x3_pool", "7x7_pool")
DOWNSAMPLINGS = ("stride", "avg")
HEADS = ("mean", "flatten")
INITIALISATIONS = ("default", "fan_out")
SMALLEST = 2  # side of the maps of the last stage


class ResNet(nn.Module):
    """`channels` x `size` x `size` images [N, C, H, W] to logits [N, classes].

    `depth`: 10, 18, 50 or 101; `width`: maps of the first stage (with bottlenecks four times as many); norm: instance,
    batch, layer, group, none. `downsampling`: stride, or avg (convolutions of stride 1, then 2x2 average pooling).
    `stem`: 3x3, 3x3_pool, 7x7_pool, or auto: 3x3 to 64 px, 3x3_pool to 128 px, 7x7_pool above. `head`: mean (over the
    last maps) or flatten. `initialisation`: default (PyTorch's), or fan_out: convolutions are drawn from
    N(0, 2 / (kernel area x outputs)), as IDC and torchvision have it. ValueError for an unknown name or depth, and for
    images too small.
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
        initialisation: str = "default",
    ) -> None:
        super().__init__()
        _known("initialisation", initialisation, INITIALISATIONS)
        _known("stem", stem, STEMS)
        _known("downsampling", downsampling, DOWNSAMPLINGS)
        _known("head", head, HEADS)
        if depth not in BLOCKS:
            raise ValueError(f"a residual network has depth {', '.join(map(str, BLOCKS))}, not {depth}")
        if min(channels, size, classes, width) < 1:
            raise ValueError(
                f"channels, size, classes and width are at least 1, not {(channels, size, classes, width)}"
            )
        average, block = downsampling == "avg", Bottleneck if depth in BOTTLENECKS else Basic
        self.head = head
        self.stem = Stem(channels, width, size, norm, _stem(size) if stem == "auto" else stem, average)
        stages, side, inputs = [], self.stem.side, width
        for stage, many in enumerate(BLOCKS[depth]):
            outputs = width * 2**stage * (EXPANSION if block is Bottleneck else 1)
            before, side = side, _half(side, average) if stage else side
            _large_enough(side, size, stage, 16 if average else 9)
            first = block(inputs, outputs, before, side, norm, average)
            others = (block(outputs, outputs, side, side, norm, average) for _ in range(1, many))
            stages.append(nn.Sequential(first, *others))
            inputs = outputs
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(inputs * (side**2 if head == "flatten" else 1), classes)
        if initialisation == "fan_out":
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> list[Tensor]:
        """The maps after each of the four stages, [N, width * 2^stage (times 4 with bottlenecks), side, side]."""
        x, found = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        maps = self.features(x)[-1]
        logits: Tensor = self.classifier(maps.flatten(1) if self.head == "flatten" else maps.mean((2, 3)))
        return logits


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
