"""Weights that others trained, as our networks have them: what a checkpoint holds, renamed, checked and cut to size.

Known are checkpoints as ``torch.save`` of torchvision's references and RDED (2023, arXiv 2312.03526; LINs-lab/RDED @
3f6453d) writes them (weights under ``model``), of SRe2L (``state_dict``, names with ``module.``), bare states, and the
names of torchvision's residual networks where ours is meant. Nothing here reads files (ddlib/weights.py does).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ddlib.nn.functional import Params, split

UNDER = ("model", "state_dict", "net")  # where checkpoints keep weights, beside an optimiser's and other things
PREFIXES = ("module.", "_orig_mod.")  # of networks trained by several processes, or compiled
# torchvision's names of a residual network (and IDC's, whose stem is `layer0`) -> those of ddlib.nn.resnet
_RESIDUAL = (
    (r"layer0\.(.*)", r"\1"),
    (r"conv1\.(.*)", r"stem.conv.\1"),
    (r"bn1\.(.*)", r"stem.norm.\1"),
    (r"fc\.(.*)", r"classifier.\1"),
)


def state_of(held: Any) -> Params:
    """The weights of a checkpoint, by name, without what shells of networks put before names.

    ValueError if it holds none, or anything else among them.
    """
    found = held
    for key in UNDER:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        keys = ", ".join(map(str, list(held)[:6])) if isinstance(held, Mapping) else type(held).__name__
        raise ValueError(
            f"it holds no weights of one network, by name, nor these under {' or '.join(UNDER)}; it holds: {keys}."
        )
    state = {str(name): value for name, value in found.items()}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def fit_weights(held: Any, net: nn.Module, rows: Sequence[int] | None = None) -> tuple[Params, Params]:
    """(parameters, buffers) of `net` from a checkpoint, in the precision `net` has; `net` itself is left alone.

    `rows`: which of the checkpoint's outputs are the network's classes, in order: of 1000 for a subset of ImageNet.
    ValueError names what is missing, unknown or of another shape, and weights that are no numbers.
    """
    params, buffers = split(net)
    wanted = {**params, **buffers}
    state = _named(state_of(held), wanted)
    missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or unknown:
        raise ValueError(
            f"it is no checkpoint of this {type(net).__name__}: {_some('without', missing)}; {_some('with', unknown)}. "
            "Name the network it was trained as."
        )
    state = _head(state, params, rows)
    if wrong := [name for name, value in wanted.items() if state[name].shape != value.shape]:
        name = wrong[0]
        raise ValueError(
            f"{len(wrong)} of its tensors have other shapes, such as {name}: {tuple(state[name].shape)}, the network's "
            f"is {tuple(wanted[name].shape)}. It was trained with other options, another image size or channels."
        )
    if bad := [name for name, value in state.items() if not bool(value.isfinite().all())]:
        raise ValueError(f"{_some('it has numbers that are none in', bad)}.")
    fitted = {name: state[name].detach().to(value.dtype).clone() for name, value in wanted.items()}
    return {name: fitted[name] for name in params}, {name: fitted[name] for name in buffers}


def _named(state: Params, wanted: Params) -> Params:
    """`state` under the network's names: as they are, below ``net.`` (torchvision's), or a residual network's."""
    if state.keys() == wanted.keys():
        return state
    for rename in (lambda name: f"net.{name}", residual_name):
        renamed = {rename(name): value for name, value in state.items()}
        if renamed.keys() == wanted.keys():
            return renamed
    return state


def residual_name(name: str) -> str:
    """Our name of a tensor of torchvision's residual networks: `layer2.0.bn1.weight` -> `stages.1.0.norm1.weight`."""
    if block := re.fullmatch(r"layer([1-4])\.(\d+)\.(.*)", name):
        rest = re.sub(r"^bn(\d)\.", r"norm\1.", block[3])
        rest = re.sub(r"^downsample\.0\.", "shortcut.conv.", rest)
        rest = re.sub(r"^downsample\.[12]\.", "shortcut.norm.", rest)
        return f"stages.{int(block[1]) - 1}.{block[2]}.{rest}"
    for pattern, ours in _RESIDUAL:
        name = re.sub(f"^{pattern}$", ours, name)
    return name


def _head(state: Params, params: Params, rows: Sequence[int] | None) -> Params:
    """`state` with the `rows` of its head: of the last one or two parameters that have an entry for every class."""
    last = list(params)[-1]
    classes, outputs = len(params[last]), len(state[last])
    if rows is None:
        if outputs != classes:
            raise ValueError(
                f"it tells {outputs} classes apart, the network {classes}. Say which of its outputs are these classes, "
                "in their order (`outputs` of an observer), or take weights that were trained on them."
            )
        return state
    if len(rows) != classes or not all(0 <= row < outputs for row in rows) or len(set(rows)) < len(rows):
        raise ValueError(f"rows must be {classes} different ones of its {outputs} outputs, not {list(rows)[:12]}.")
    head = [name for name in list(params)[-2:] if len(params[name]) == classes and len(state[name]) == outputs]
    return {name: value[list(rows)] if name in head else value for name, value in state.items()}


def _some(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what} {', '.join(names[:3])}{more}" if names else f"{what} nothing else"
