"""Helpers of the parity tests: golden arrays, the names of their networks, errors relative to their size."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddlib.nn.convnet import ConvNet

GOLDEN = Path(__file__).parent / "golden"
Arrays = dict[str, np.ndarray]


def load(name: str) -> Arrays:
    """The arrays of tests/golden/{name}.npz."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def count(name: str, key: str) -> range:
    """The case numbers of a golden file, to parametrise a test with."""
    return range(int(load(name)[key]))


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))


def error(ours: Tensor, golden: np.ndarray | Tensor) -> float:
    """Largest difference relative to max(1, largest golden entry); infinite where shapes differ."""
    theirs = (golden if isinstance(golden, Tensor) else tensor(golden)).double()
    if ours.shape != theirs.shape:
        return float("inf")
    scale = max(1.0, theirs.abs().max().item())
    return ((ours.detach().double() - theirs).abs().max() / scale).item()


def gradient_error(ours: Tensor, golden: np.ndarray) -> float:
    """Largest difference relative to the largest golden entry."""
    theirs = tensor(golden)
    return ((ours.detach() - theirs).abs().max() / theirs.abs().max()).item()


def our_name(name: str) -> str:
    """`conv0_w` -> `layers.conv.0.weight`, `fc_b` -> `classifier.bias`."""
    layer, part = name.rsplit("_", 1)
    found = re.fullmatch(r"(conv|norm)(\d+)", layer)
    where = f"layers.{found[1]}.{found[2]}" if found else "classifier"
    return f"{where}.{'weight' if part == 'w' else 'bias'}"


def weights(data: Arrays, prefix: str) -> dict[str, Tensor]:
    """The tensors stored as prefix + `conv0_w` ..., by our names."""
    pattern = re.compile(re.escape(prefix) + r"((?:conv|norm)\d+_[wb]|fc_[wb])")
    found = ((pattern.fullmatch(key), value) for key, value in data.items())
    return {our_name(match[1]): tensor(value) for match, value in found if match}


def network(params: dict[str, Tensor], size: int, norm: str = "instance") -> ConvNet:
    """A float64 ConvNet with these weights; channels, depth, width and classes are read from their shapes."""
    first = params["layers.conv.0.weight"]
    depth = sum(name.startswith("layers.conv.") for name in params) // 2
    classes = params["classifier.bias"].shape[0]
    net = ConvNet(first.shape[1], size, classes, depth=depth, width=first.shape[0], norm=norm).double()
    missing = net.load_state_dict(params, strict=False)
    assert not missing.unexpected_keys
    assert all("running" in name for name in missing.missing_keys)
    return net


def colour(u: np.ndarray) -> dict[str, Tensor]:
    """Draws of brightness, saturation and contrast from an array [..., 3]."""
    return {key: tensor(u[..., i]) for i, key in enumerate(("brightness", "saturation", "contrast"))}


def pair(pairs: np.ndarray, first: str, second: str) -> dict[str, Tensor]:
    """Two draws from an array [..., 2]."""
    return {first: tensor(pairs[..., 0]), second: tensor(pairs[..., 1])}
