"""Official replay buffers as pool members: the trajectories that MTT's and PDD's buffer scripts leave.

A file is a list [expert][snapshot][parameter] of tensors, snapshot 0 before training and one after every epoch
(GeorgeCazenavette/mtt-distillation @ 50dccea, buffer.py; VITA-Group/ProgressiveDD @ 844fa9a), the parameters in the
order of the official ConvNet: weight and bias of a block's convolution, those of its norm, then the classifier's.

**Differs**: their running statistics of batch norm are not in a buffer, so such networks are refused here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddlib import nn as networks
from ddlib.artifacts import save_tensors, write_table
from ddlib.nn.convnet import ConvNet
from ddlib.pool import METRICS
from ddlib.pool_settings import kept_epochs
from ddlib.torch_files import load_plain

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Expert:
    """One trajectory: `snapshots` [epoch][parameter], and where it is from, for messages."""

    snapshots: Sequence[Sequence[Tensor]]
    file: str
    number: int

    @property
    def name(self) -> str:
        """`expert 3 of replay_buffer_0.pt`."""
        return f"expert {self.number} of {self.file}"


def network_of(spec: Mapping[str, Any]) -> nn.Module:
    """The network of a pool's specification."""
    options = {key: value for key, value in spec["network"].items() if key != "version"}
    data = spec["dataset"]
    return networks.build(options, channels=data["channels"], size=data["size"], classes=data["classes"], seed=0)


def official_order(net: nn.Module) -> Shapes:
    """Shapes of the parameters of a ConvNet by name, in the official order. ValueError for other networks."""
    if not isinstance(net, ConvNet):
        raise ValueError(f"buffers are read for networks of architecture convnet, not for a {type(net).__name__}")
    if buffers := [name for name, _ in net.named_buffers()]:
        raise ValueError(
            f"a buffer holds parameters alone, this network also has statistics ({buffers[0]}, ...): take one without "
            "batch norm"
        )
    shapes = {name: tuple(value.shape) for name, value in net.named_parameters()}
    blocks = range(len(net.layers["conv"]))  # type: ignore[arg-type]
    wanted = [f"layers.{part}.{block}.{kind}" for block in blocks for part in ("conv", "norm") for kind in _KINDS]
    return {name: shapes[name] for name in (*wanted, *(f"classifier.{kind}" for kind in _KINDS)) if name in shapes}


_KINDS = ("weight", "bias")


def read_experts(files: Sequence[str | Path]) -> list[Expert]:
    """Every expert of the files, in their order. ValueError for a file that holds no trajectories."""
    found = []
    for file in files:
        held = load_plain(file)
        if not _is_buffer(held):
            raise ValueError(
                f"{file} is no replay buffer: it must be a list [expert][snapshot][parameter] of tensors, as buffer.py "
                f"of MTT saves them, not {_shape_of(held)}"
            )
        found += [Expert(snapshots, Path(file).name, number) for number, snapshots in enumerate(held)]
    return found


def _is_buffer(held: Any) -> bool:
    lists = isinstance(held, list) and held and all(isinstance(expert, list) and expert for expert in held)
    deep = lists and all(isinstance(each, list | tuple) and len(each) > 0 for expert in held for each in expert)
    return bool(deep) and all(isinstance(v, Tensor) for expert in held for each in expert for v in each)


def _shape_of(held: Any) -> str:
    """`list of 3 dict`."""
    kind = type(held).__name__
    if isinstance(held, list | tuple | dict) and held:
        first = next(iter(held.values() if isinstance(held, dict) else held))
        return f"{kind} of {len(held)} {type(first).__name__}"
    return kind if not isinstance(held, list | tuple | dict) else f"an empty {kind}"


def check_expert(expert: Expert, epochs: int, kept: Sequence[int], shapes: Shapes) -> None:
    """ValueError unless the trajectory has `epochs` + 1 snapshots of these shapes, finite and in motion."""
    if len(expert.snapshots) != epochs + 1:
        raise ValueError(
            f"{expert.name} has {len(expert.snapshots)} snapshots, so it was trained for {len(expert.snapshots) - 1} "
            f"epochs; the pool trains for {epochs}, which are {epochs + 1} snapshots. Set its training.epochs"
        )
    wanted = list(shapes.items())
    for epoch, snapshot in enumerate(expert.snapshots):
        if len(snapshot) != len(wanted):
            raise ValueError(
                f"{expert.name}, snapshot {epoch}, has {len(snapshot)} tensors; the pool's network has {len(wanted)} "
                "parameters. Give the pool the network the buffer was made with (depth, norm)"
            )
        for place, (value, (name, shape)) in enumerate(zip(snapshot, wanted, strict=True)):
            if tuple(value.shape) != shape or not value.is_floating_point():
                raise ValueError(
                    f"{expert.name}, snapshot {epoch}: tensor {place} is {value.dtype} {list(value.shape)}; the pool's "
                    f"network has {name} of {list(shape)} there. Give it the network, image size and classes of the "
                    "buffer"
                )
        if epoch in kept and not all(bool(torch.isfinite(value).all()) for value in snapshot):
            raise ValueError(f"{expert.name}, snapshot {epoch}, is not finite: the expert diverged. Leave its file out")
    first, last = expert.snapshots[0], expert.snapshots[-1]
    if epochs and all(torch.equal(a, b) for a, b in zip(first, last, strict=True)):
        raise ValueError(
            f"{expert.name} does not move: its first and last snapshot are the same (the official script leaves such "
            "files where it runs on a CPU). Train the pool here instead"
        )


def check_experts(experts: Sequence[Expert], spec: Mapping[str, Any]) -> Shapes:
    """Shapes of the network's parameters, all experts checked against them."""
    shapes = official_order(network_of(spec))
    epochs = spec["training"]["epochs"]
    kept = kept_epochs(spec["snapshots"], epochs)
    for expert in experts:
        check_expert(expert, epochs, kept, shapes)
    return shapes


def write_members(
    experts: Sequence[Expert], spec: Mapping[str, Any], shapes: Shapes, folder: Path
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Write a block's members, checked before, as training would leave them: (files, result) of its manifest.

    Their curves are empty: how accurate an imported network is, nobody measured.
    """
    epochs = spec["training"]["epochs"]
    kept = kept_epochs(spec["snapshots"], epochs)
    files: dict[str, Path] = {}
    nothing = {str(member): dict.fromkeys(METRICS) for member in spec["members"]}
    for member, expert in zip(spec["members"], experts, strict=True):
        for epoch, path in _paths(folder, member, kept):
            values = zip(shapes, expert.snapshots[epoch], strict=True)
            save_tensors(
                path, {f"params/{name}": value.float() for name, value in values}, {"member": member, "epoch": epoch}
            )
            files[f"member{member}/epoch{epoch}"] = path
        curve = folder / f"member{member}" / "metrics.csv"
        columns = ["epoch", "loss", *METRICS]
        write_table(curve, columns, ([epoch, *[None] * (len(columns) - 1)] for epoch in range(epochs + 1)))
        files[f"member{member}/metrics"] = curve
    sources = {
        str(member): {"file": expert.file, "expert": expert.number}
        for member, expert in zip(spec["members"], experts, strict=True)
    }
    return files, {"members": nothing, "epochs": kept, "imported": sources}


def _paths(folder: Path, member: int, kept: Sequence[int]) -> Iterator[tuple[int, Path]]:
    return ((epoch, folder / f"member{member}" / f"epoch{epoch}.safetensors") for epoch in kept)
