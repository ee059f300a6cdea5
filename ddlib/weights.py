"""Weights of networks from local files: safetensors, or published checkpoints of ``torch.save``.

A checkpoint is read as tensors, plain containers and the options it was trained with alone: one that asks for more
could run any code, and is refused with the way to convert it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddlib.artifacts import ArtifactError, load_tensors
from ddlib.torch_files import load_plain

if TYPE_CHECKING:
    from torch import nn

    from ddlib.nn.functional import Params

CONVERT = (
    "To convert a file that you trust: python -c \"import torch, safetensors.torch as s; d = torch.load('{path}', "
    "map_location='cpu', weights_only=False); d = d.get('model', d.get('state_dict', d)); "
    "s.save_file({{k: v.contiguous() for k, v in d.items()}}, '{stem}.safetensors')\""
)


def load_weights(path: str | Path, net: nn.Module, rows: Sequence[int] | None = None) -> tuple[Params, Params]:
    """(parameters, buffers) of `net` from a file; `net` itself is left alone.

    `rows`: which of the file's outputs are the network's classes, in order (None: it has as many, in their order).
    ArtifactError if there is no such file, it cannot be read, or holds more than weights; ValueError, naming the file,
    if they are not this network's.
    """
    from ddlib.nn.weights import fit_weights

    try:
        return fit_weights(_held(Path(path)), net, rows)
    except ArtifactError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _held(path: Path) -> Any:
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist. Name a file of weights: safetensors, or one of torch.save.")
    if path.suffix == ".safetensors":
        try:
            return load_tensors(path)[0]
        except ArtifactError:
            raise ArtifactError(f"{path} is damaged, or no safetensors file.") from None
    try:
        return load_plain(path, also=(argparse.Namespace,))
    except ArtifactError as error:
        hint = CONVERT.format(path=path, stem=path.with_suffix("")) if "so it is not read" in str(error) else ""
        raise ArtifactError(f"{error} {hint}".strip()) from None
