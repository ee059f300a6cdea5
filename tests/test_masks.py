"""Masks: what they remove, in which layers, as artifacts, and what a masked network does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import NETWORK, digits, problem, recipe, settings
from torch import Tensor

from ddlib import nn as networks
from ddlib.artifacts import ArtifactError, read_manifest, write_sealed
from ddlib.masks.chunks import StoredMasks, draw_chunk, magnitude_digests, magnitude_masks, random_masks
from ddlib.nn.functional import MASK
from ddlib.train.loop import State
from ddlib.transforms.sparsify import MagnitudeMasks, RandomMasks, Sparsify, digest, masked_names, pack, unpack

OPTIONS = {key: value for key, value in NETWORK.items() if key != "version"}
SPEC: dict[str, Any] = {"network": NETWORK, "channels": 1, "size": 8, "classes": 10, "kind": "uniform", "sparsity": 0.8}
SPEC |= {"seed": 0, "first": 0, "count": 5, "versions": {}}


def net(norm: str = "instance") -> torch.nn.Module:
    return networks.build({**OPTIONS, "norm": norm}, channels=1, size=8, classes=10, seed=0)


def gone(masks: dict[str, Tensor]) -> dict[str, float]:
    return {name: 1 - float(mask.float().mean()) for name, mask in masks.items()}


def test_uniform_removes_the_same_share_of_each_layer() -> None:
    masks = RandomMasks.on(net(), "uniform", 0.8, 0)(0)
    assert list(masks) == ["layers.conv.0.weight", "layers.conv.1.weight", "classifier.weight"]
    for mask in masks.values():
        assert int((~mask).sum()) == round(0.8 * mask.numel())


def test_global_removes_the_share_of_all_together_and_layers_differ() -> None:
    masks = RandomMasks.on(net(), "global", 0.5, 0)(0)
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.5 * total)
    assert len({round(share, 4) for share in gone(masks).values()}) > 1


def test_last_masks_the_classifier_alone() -> None:
    assert list(RandomMasks.on(net(), "last", 0.5, 0)(0)) == ["classifier.weight"]


def test_norms_and_biases_are_never_masked_whatever_the_norm() -> None:
    for norm in ("instance", "batch", "layer"):
        assert masked_names(net(norm), "uniform") == (
            "layers.conv.0.weight",
            "layers.conv.1.weight",
            "classifier.weight",
        )


def test_magnitude_removes_the_smallest_weights_of_each_layer() -> None:
    params = State.of(net()).params
    masks = MagnitudeMasks(masked_names(net(), "magnitude"), 0.75)(0, params)
    for name, mask in masks.items():
        assert params[name][mask].abs().min() >= params[name][~mask].abs().max()
        assert int((~mask).sum()) == round(0.75 * mask.numel())


def test_each_outer_iteration_and_seed_has_a_mask_of_its_own() -> None:
    masks = {digest(RandomMasks.on(net(), "uniform", 0.8, seed)(outer)) for seed in (0, 1) for outer in range(3)}
    assert len(masks) == 6
    assert digest(RandomMasks.on(net(), "uniform", 0.8, 0)(2)) == digest(RandomMasks.on(net(), "uniform", 0.8, 0)(2))


def test_every_weight_is_kept_equally_often() -> None:
    source = RandomMasks.on(net(), "uniform", 0.5, 0)
    kept = np.mean([source(outer)["layers.conv.1.weight"].numpy() for outer in range(300)], 0)
    assert np.abs(kept - 0.5).max() < 0.15  # 5 deviations of 300 draws


def test_packed_bits_come_back() -> None:
    masks = RandomMasks.on(net(), "uniform", 0.3, 0)(0)
    again = unpack(pack(masks), {name: mask.shape for name, mask in masks.items()})
    assert all(torch.equal(mask, again[name]) for name, mask in masks.items())


@pytest.mark.parametrize(
    "kind, sparsity, says",
    [
        ("fc", 0.5, "no kind of mask is called 'fc'"),
        ("global_", 0.5, "what the official option calls global is `uniform` here"),
        ("uniform", 0.001, "removes 0 of 36 weights"),
        ("uniform", 0.999, "removes 36 of 36 weights"),
        ("magnitude", 0.5, "nothing is drawn"),
    ],
)
def test_masks_that_cannot_be_are_refused(kind: str, sparsity: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        RandomMasks.on(net(), kind, sparsity, 0)(0)


def test_masks_of_another_network_are_refused() -> None:
    other = networks.build({**OPTIONS, "width": 8}, channels=1, size=8, classes=10, seed=0)
    with pytest.raises(ValueError, match=r"layers.conv.0.weight is of shape \(8, 1, 3, 3\); the network has \(4, "):
        Sparsify(RandomMasks.on(other, "uniform", 0.5, 0))(State.of(net()), 0)


# ---- as artifacts ----------------------------------------------------------------------------------------------------


def chunk(folder: Path, most_bytes: int = 10**6, **over: Any) -> Path:
    path = folder / f"chunk{over.get('first', 0)}.json"
    draw_chunk({**SPEC, **over}, path, most_bytes)
    return path


@pytest.mark.parametrize("most_bytes", [10**6, 0])
def test_stored_masks_are_the_drawn_ones(tmp_path: Path, most_bytes: int) -> None:
    paths = [chunk(tmp_path, most_bytes), chunk(tmp_path, most_bytes, first=5)]
    assert bool(read_manifest(paths[0])["files"]) is bool(most_bytes), "big networks: digests only"
    stored, drawn = StoredMasks(paths), random_masks(SPEC)
    for outer in (0, 4, 7, 2):
        assert digest(stored(outer)) == digest(drawn(outer))
    with pytest.raises(ArtifactError, match="no mask for outer iteration 10"):
        stored(10)


def test_the_manifest_tells_the_sparsity_of_every_layer(tmp_path: Path) -> None:
    layers = read_manifest(chunk(tmp_path, kind="global"))["result"]["layers"]
    assert {name: layer["entries"] for name, layer in layers.items()} == {
        "layers.conv.0.weight": 36,
        "layers.conv.1.weight": 144,
        "classifier.weight": 160,
    }
    for layer in layers.values():
        assert layer["least"] <= layer["sparsity"] <= layer["most"]
    assert sum(layer["entries"] * layer["sparsity"] for layer in layers.values()) / 340 == pytest.approx(0.8, abs=1e-5)


def test_the_same_chunk_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        chunk(tmp_path / name)
    for file in ("chunk0.json", "chunk0.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_edited_mask_is_refused(tmp_path: Path) -> None:
    path = chunk(tmp_path)
    bits = path.with_suffix(".safetensors")
    broken = bytearray(bits.read_bytes())
    broken[-1] ^= 1
    bits.write_bytes(bytes(broken))
    with pytest.raises(ArtifactError, match=r"chunk0\.safetensors"):
        StoredMasks([path])(0)


def test_a_digest_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = chunk(tmp_path, most_bytes=0)
    manifest = json.loads(path.read_text())
    manifest["result"]["digests"][1] = "0" * 64
    write_sealed(path, manifest)
    StoredMasks([path])(0)
    with pytest.raises(ArtifactError, match="the mask of outer iteration 1 is not what"):
        StoredMasks([path])(1)


def test_no_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="no chunk of masks"):
        StoredMasks([])


# ---- in a condensation -----------------------------------------------------------------------------------------------


def test_drop2sparse_trains_and_matches_under_a_new_mask_each_outer_iteration() -> None:
    made = recipe("drop2sparse", problem())
    objective = made.objective
    assert objective is not None
    seen = []
    for outer in (0, 1):
        inner = objective.begin(outer, 0)
        masks = {name: value for name, value in inner.network.buffers.items() if name.startswith(MASK)}
        assert len(masks) == 3
        after = objective.advance(inner).network
        assert all(torch.equal(after.buffers[name], mask) for name, mask in masks.items())
        for name, mask in masks.items():
            old, new = (state.params[name.removeprefix(MASK)] for state in (inner.network, after))
            assert not torch.equal(old[mask], new[mask]), "what is kept trains"
            assert torch.allclose(old[~mask], new[~mask], rtol=1e-3), "weight decay alone moves what is removed"
        seen.append(digest(masks))
    assert seen[0] != seen[1]


def test_drop2sparse_without_a_view_or_masks_is_refused() -> None:
    from ddlib.methods.drop2sparse import recipe as drop2sparse

    with pytest.raises(ValueError, match="give the experiment a pool and a view"):
        drop2sparse(settings("drop2sparse"), problem())
    with pytest.raises(ValueError, match="give the experiment `masks`"):
        drop2sparse(settings("drop2sparse"), problem(rows=[{"file": "x", "sha256": "y"}]))


def test_magnitude_masks_have_a_digest_for_each_snapshot(tmp_path: Path) -> None:
    from ddlib.artifacts import save_tensors

    rows = []
    for member in range(2):
        tensors = {name: value + member for name, value in State.of(net()).tensors().items()}
        sha = save_tensors(tmp_path / f"{member}", tensors)
        rows.append({"member": member, "epoch": 3, "file": str(tmp_path / f"{member}"), "sha256": sha})
    digests = magnitude_digests(magnitude_masks(NETWORK, digits(), 0.5), rows)
    assert list(digests) == ["member0/epoch3", "member1/epoch3"]
    assert len(set(digests.values())) == 2
