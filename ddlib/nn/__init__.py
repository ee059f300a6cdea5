"""Networks: a registered architecture, its options and a seed give a network in PyTorch's default initialisation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ddlib import registry
from ddlib.nn.norm import replace_batch_norm


def build(network: Mapping[str, Any], *, channels: int, size: int, classes: int, seed: int) -> nn.Module:
    """The network described by `network`: {"architecture": a name of the registry, other keys: its options}.

    Weights are PyTorch's defaults under a CPU generator seeded with `seed`; the caller's generator is untouched.
    PyTorch's batch norm is replaced by ours, of the same numbers, which functional calls do not change.
    ValueError names an unknown architecture or option, and the nearest known one.
    """
    if "architecture" not in network:
        raise ValueError(f"a network needs an `architecture`: {registry.nearest('', registry.NETWORKS)}")
    architecture = registry.lookup(registry.NETWORKS, network["architecture"], "network").load()
    options = {name: value for name, value in network.items() if name != "architecture"}
    known = [name for name in inspect.signature(architecture).parameters if name not in ("channels", "size", "classes")]
    for name in options:
        if name not in known:
            raise ValueError(f"{network['architecture']} has no option {name!r}: {registry.nearest(name, known)}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators too
        built = architecture(channels=channels, size=size, classes=classes, **options)
    if not isinstance(built, nn.Module):
        raise ValueError(f"{network['architecture']} built a {type(built).__name__}, not a torch module.")
    replace_batch_norm(built)
    return built
