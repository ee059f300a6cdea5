"""The room that what jobs leave will take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddlib import nn as networks
from ddlib.pool_settings import kept_epochs
from ddlib.registry import METHODS

Spec = Mapping[str, Any]


def parameters(network: Spec, dataset: Spec) -> int:
    """Numbers in a network's weights and buffers."""
    size, classes = dataset["size"], dataset["classes"]
    options = {key: value for key, value in network.items() if key != "version"}
    net = networks.build(options, channels=dataset["channels"], size=size, classes=classes, seed=0)
    return sum(tensor.numel() for tensor in net.state_dict().values())


def left(rule: str, spec: Spec, images: tuple[int, int], ipc: int) -> float:
    """Bytes of the tensors a job leaves. `images`: of the training and the test data; `ipc` of a set."""
    if rule == "train_block":
        kept = len(kept_epochs(spec["snapshots"], spec["training"]["epochs"]))
        return 4.0 * len(spec["members"]) * kept * parameters(spec["network"], spec["dataset"])
    if rule == "condition":
        return 4.0 * len(spec["members"]) * len(spec["snapshots"]) * parameters(spec["network"], spec["dataset"])
    dataset = spec["dataset"]
    if rule == "observe":
        return 4.0 * parameters(spec["network"], dataset)
    if rule == "score":  # of each image which it is, the box of its best crop, and what that scored
        return float(dataset["classes"] * spec["mipc"] * (8 + 4 * 4 + 4))
    pixels = dataset["channels"] * dataset["size"] ** 2
    if rule == "prepare_data":
        whitened = 4.0 * sum(images) * pixels + 16.0 * pixels**2 if "whitening" in dataset else 0.0
        return float(sum(images) * pixels + whitened)
    if rule not in ("condense", "merge"):
        return 0.0
    each = 4 * pixels
    if METHODS[spec["method"]].facts.get("native"):  # bytes, and which real image each cell shows
        each = pixels + 8 * spec["settings"]["factor"] ** 2
    if rule == "condense":  # the set, its beginning, and snapshots
        return float(len(spec["classes"]) * ipc * each * (2 + len(spec["snapshots"])))
    fit = 4 * pixels**2 if "whitening" in dataset else 0
    return float(dataset["classes"] * ipc * each + fit)
