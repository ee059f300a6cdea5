"""Masks as artifacts: chunks of masks, one per outer iteration, with the sparsity of every layer.

A chunk holds its masks' bits packed; where they would take more than ``MOST_BYTES`` (big networks) it holds their
digests alone, and who uses them draws them again and compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ddlib import nn as networks
from ddlib.artifacts import ArtifactError, load_file, load_tensors, read_manifest, save_tensors, write_manifest
from ddlib.data.real import RealData
from ddlib.nn.functional import Params
from ddlib.train.loop import State
from ddlib.transforms.sparsify import MagnitudeMasks, RandomMasks, digest, masked_names, pack, unpack

MOST_BYTES = 64 * 2**20


def network_of(spec: Mapping[str, Any]) -> nn.Module:
    """The network a mask set is for (its weights are of no interest)."""
    options = {key: value for key, value in spec["network"].items() if key != "version"}
    return networks.build(options, channels=spec["channels"], size=spec["size"], classes=spec["classes"], seed=0)


def random_masks(spec: Mapping[str, Any]) -> RandomMasks:
    """The masks a mask set's specification (ddlib/specs.py) describes."""
    return RandomMasks.on(network_of(spec), spec["kind"], spec["sparsity"], spec["seed"])


def magnitude_masks(network: Mapping[str, Any], data: RealData, sparsity: float) -> MagnitudeMasks:
    """Masks that follow from the weights of a network for `data`."""
    shape = {"channels": data.channels, "size": data.height, "classes": data.classes}
    return MagnitudeMasks(masked_names(network_of({"network": network, **shape}), "magnitude"), sparsity)


def draw_chunk(spec: Mapping[str, Any], output: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Draw the masks of a chunk, write them and the manifest `output`; return the manifest's result.

    The result: per layer its entries, and the share removed (mean over the masks, and the least and the most); the
    digest of every mask, in the order of the outer iterations.
    """
    source = random_masks(spec)
    entries = {name: int(np.prod(shape)) for name, shape in source.shapes.items()}
    stored = -(-sum(entries.values()) // 8) * spec["count"] <= most_bytes
    bits, digests, shares = [], [], []
    for outer in range(spec["first"], spec["first"] + spec["count"]):
        masks = source(outer)
        digests.append(digest(masks))
        shares.append([1 - float(mask.float().mean()) for mask in masks.values()])
        if stored:
            bits.append(pack(masks))
    layers = {
        name: {
            "entries": entries[name],
            "sparsity": _share(found.mean()),
            "least": _share(found.min()),
            "most": _share(found.max()),
        }
        for name, found in zip(entries, np.array(shares).T, strict=True)
    }
    files = {}
    if stored:
        files["masks"] = output.with_suffix(".safetensors")
        save_tensors(files["masks"], {"bits": torch.from_numpy(np.stack(bits))}, {"first": spec["first"]})
    result = {"layers": layers, "digests": digests, "stored": stored}
    write_manifest(output, "masks", spec, files, result)
    return result


def _share(value: Any) -> float:
    return round(float(value), 6)


def magnitude_digests(source: MagnitudeMasks, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The digest of the masks on each snapshot of a view, by "member<m>/epoch<e>"."""
    found = {}
    for row in rows:
        params = State.from_tensors(load_tensors(row["file"], row["sha256"])[0]).params
        found[f"member{row['member']}/epoch{row['epoch']}"] = digest(source(0, params))
    return found


class StoredMasks:
    """The masks of a mask set's chunks, as a source of masks by outer iteration: read, checked against its digest."""

    def __init__(self, manifests: Sequence[str | Path]) -> None:
        self.chunks = [(Path(path), read_manifest(path, "masks")) for path in manifests]
        if not self.chunks:
            raise ValueError("no chunk of masks is given: an outer iteration needs one")
        self.source = random_masks(self.chunks[0][1]["spec"])
        self._held: tuple[Path, np.ndarray] | None = None

    def __call__(self, outer: int, params: Params | None = None) -> Params:
        """The masks of outer iteration `outer`. ArtifactError when no chunk holds them, or they were changed."""
        for path, manifest in self.chunks:
            spec = manifest["spec"]
            place = outer - spec["first"]
            if not 0 <= place < spec["count"]:
                continue
            stored = manifest["result"]["stored"]
            masks = unpack(self._bits(path, manifest)[place], self.source.shapes) if stored else self.source(outer)
            if digest(masks) != manifest["result"]["digests"][place]:
                raise ArtifactError(
                    f"the mask of outer iteration {outer} is not what {path} records. Delete it to have it drawn anew."
                )
            return masks
        held = ", ".join(str(path) for path, _ in self.chunks)
        raise ArtifactError(f"no mask for outer iteration {outer} in {held}. Give the chunk that holds it.")

    def _bits(self, path: Path, manifest: Mapping[str, Any]) -> np.ndarray:
        if self._held is None or self._held[0] != path:
            tensors, _ = load_file(path, manifest, "masks")
            self._held = (path, tensors["bits"].numpy())
        return self._held[1]
