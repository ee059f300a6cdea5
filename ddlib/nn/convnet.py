"""ConvNet-D: D blocks of 3x3 convolution, norm, activation, 2x2 pooling, then a linear layer.

The network of DC, DSA, IDC, MTT, Acc-DD, Drop2Sparse and PDD; depth 3 and width 128 for 32 px: 320,010 parameters
with 10 classes. Written from the description of snu-mllab/Efficient-Dataset-Condensation (ceac95a), whose names of
tensors it keeps (``layers.conv.0.weight``, ``layers.norm.0.weight``, ``classifier.weight``).

**Differs**: the official network pads the first convolution by 3 for any input of one channel, to treat 28 px as
32 px. We do so for one channel *and* 28 px only: other grey images (8 px digits) get the ordinary padding of 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ddlib import registry
from ddlib.nn.norm import build_norm

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leakyrelu": lambda: nn.LeakyReLU(0.01),
    "sigmoid": nn.Sigmoid,
}
POOLINGS = ("avg", "max", "none")


class ConvNet(nn.Module):
    """`channels` x `size` x `size` images [N, C, H, W] to logits [N, classes].

    norm: instance, batch, layer, group, none. activation: relu, leakyrelu, sigmoid. pooling: avg, max, none.
    ValueError for an unknown name, or a depth that pools the maps to nothing.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        depth: int = 3,
        width: int = 128,
        norm: str = "instance",
        activation: str = "relu",
        pooling: str = "avg",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"no activation is called {activation!r}: {registry.nearest(activation, ACTIVATIONS)}")
        if pooling not in POOLINGS:
            raise ValueError(f"no pooling is called {pooling!r}: {registry.nearest(pooling, POOLINGS)}")
        if min(channels, size, classes, depth, width) < 1:
            given = (channels, size, classes, depth, width)
            raise ValueError(f"channels, size, classes, depth and width are at least 1, not {given}.")
        first_padding = 3 if channels == 1 and size == 28 else 1
        sides = _sides(size, first_padding, depth, pooling)
        inputs = [channels] + [width] * (depth - 1)
        paddings = [first_padding] + [1] * (depth - 1)
        convs = [nn.Conv2d(n, width, 3, padding=p) for n, p in zip(inputs, paddings, strict=True)]
        norms = [build_norm(norm, width, side) for side in sides[:-1]]
        self.layers = nn.ModuleDict({"conv": nn.ModuleList(convs), "norm": nn.ModuleList(norms)})
        self.classifier = nn.Linear(width * sides[-1] ** 2, classes)
        self.activation = ACTIVATIONS[activation]()
        self.pooling = pooling

    def features(self, x: Tensor) -> list[Tensor]:
        """The maps after each block: a list of `depth` tensors [N, width, side, side]."""
        found = []
        for conv, norm in zip(self.layers["conv"].children(), self.layers["norm"].children(), strict=True):
            x = self._pool(self.activation(norm(conv(x))))
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x)[-1].flatten(1))
        return logits

    def _pool(self, x: Tensor) -> Tensor:
        if self.pooling == "avg":
            return F.avg_pool2d(x, 2)
        return F.max_pool2d(x, 2) if self.pooling == "max" else x


def _sides(size: int, first_padding: int, depth: int, pooling: str) -> list[int]:
    """Side of the maps at the norm of each block, and after the last block."""
    sides = [size + 2 * (first_padding - 1)]
    for _ in range(depth - 1):
        sides.append(sides[-1] if pooling == "none" else sides[-1] // 2)
    sides.append(sides[-1] if pooling == "none" else sides[-1] // 2)
    if sides[-1] < 1:
        possible = sides[0].bit_length() - 1
        raise ValueError(
            f"depth {depth} pools images of size {size} to nothing: each block halves the side, so a depth of "
            f"at most {possible} fits. Lower `depth` or set `pooling` to none."
        )
    return sides
