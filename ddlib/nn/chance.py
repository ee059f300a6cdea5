"""Networks that draw at random while they train: dropout and stochastic depth, of some of torchvision's.

Their draws come from PyTorch's global generators, which the training loop (ddlib/train/loop.py) seeds from a keyed
stream before every run of batches: a training that was stopped goes on with the draws it would have had.
"""

from __future__ import annotations

from torch import nn


def _chances(net: nn.Module) -> list[tuple[nn.Module, str]]:
    """Layers that draw at random in training, each with the attribute that says how often."""
    found = []
    for layer in net.modules():
        # torchvision's by its name: importing torchvision takes a second
        depth = type(layer).__name__ == "StochasticDepth"
        key = "p" if depth or isinstance(layer, nn.modules.dropout._DropoutNd) else "dropout"
        if (key == "p" or isinstance(layer, nn.MultiheadAttention)) and float(getattr(layer, key)) > 0:
            found.append((layer, key))
    return found


def has_dropout(net: nn.Module) -> bool:
    """Whether a forward of `net` in train mode draws at random (dropout, stochastic depth)."""
    return bool(_chances(net))


def remove_dropout(net: nn.Module) -> None:
    """Have `net` draw nothing in train mode."""
    for layer, key in _chances(net):
        setattr(layer, key, 0.0)


def refuse_dropout(net: nn.Module) -> None:
    """ValueError for a network that cannot be matched, for it draws at random."""
    if has_dropout(net):
        raise ValueError(
            f"{getattr(net, 'name', type(net).__name__)} has dropout, whose draws differ between the images that are "
            "compared: give the network `dropout: false`, or train it as a student only."
        )
