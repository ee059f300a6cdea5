"""Synthetic sets: merged, cut, stored and described without losing an image or a class."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import synthetic

from ddlib.artifacts import ArtifactError, save_tensors
from ddlib.sets.export import export
from ddlib.sets.preview import preview
from ddlib.sets.synthetic import SyntheticSet, merge


def part(stage: int, *labels: int, **over: Any) -> SyntheticSet:
    """A phase whose images hold 10 * stage + label + 0.1 * place: what is where can be read from them."""
    each = torch.tensor([label for label in labels for _ in range(2)])
    values = 10.0 * stage + each + torch.arange(len(each)) % 2 * 0.1
    images = values.reshape(-1, 1, 1, 1).expand(-1, 1, 6, 6)
    return synthetic(classes=5, images=images, labels=each, stage=torch.full_like(each, stage), **over)


def seen(made: SyntheticSet) -> list[float]:
    return [round(float(value), 1) for value in made.images[:, 0, 0, 0]]


def test_phases_and_stages_merge_in_any_order() -> None:
    parts = [part(0, 3, 1), part(1, 0, 2), part(0, 0, 2, 4), part(1, 1, 3, 4)]
    whole = merge(parts)
    want = [10 * stage + label + place for stage in (0, 1) for label in range(5) for place in (0, 0.1)]
    assert seen(whole) == [round(value, 1) for value in want]
    assert whole.labels.tolist() == [label for _ in (0, 1) for label in range(5) for _ in (0, 1)]
    assert whole.stage.tolist() == [0] * 10 + [1] * 10
    for order in (parts[::-1], parts[2:] + parts[:2], [merge(parts[:2]), merge(parts[2:])]):
        assert seen(merge(order)) == seen(whole)
    assert merge([whole]).facts() == whole.facts()


def test_soft_labels_and_step_sizes_go_with_their_images() -> None:
    soft = {label: torch.eye(5)[label].expand(2, 5) * (label + 1) for label in range(5)}
    step = torch.tensor([0.5])
    parts = [part(0, label, soft=soft[label], step_size=step) for label in (4, 2)]
    whole = merge(parts)
    assert whole.soft is not None
    assert whole.soft.argmax(1).tolist() == whole.labels.tolist() == [2, 2, 4, 4]
    assert torch.equal(whole.step_size, step)
    assert whole.split(1).soft.argmax(1).tolist() == [2, 4]


def test_what_cannot_be_merged_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([])
    with pytest.raises(ValueError, match=r"same class of the same stage \(stage, class\): \[\(0, 2\)\]"):
        merge([part(0, 1, 2), part(0, 2, 3)])
    for key, value in {
        "factor": 2,
        "space": "normalised",
        "name": "b",
        "mean": (0.1,),
        "class_names": tuple("abcde"),
    }.items():
        with pytest.raises(ValueError, match=f"they differ in .*{key}"):
            merge([part(0, 1), part(0, 2, **{key: value})])
    with pytest.raises(ValueError, match="only some have soft"):
        merge([part(0, 1), part(0, 2, soft=torch.ones(2, 5))])
    with pytest.raises(ValueError, match="only some have soft"):
        merge([part(0, 2, soft=torch.ones(2, 5)), part(0, 1)])


def test_upto_a_stage_and_the_first_of_each_class() -> None:
    whole = merge([part(stage, 0, 1, 2) for stage in (0, 1, 2)])
    assert seen(whole.upto(0)) == seen(part(0, 0, 1, 2))
    assert seen(whole.upto(1)) == seen(merge([part(0, 0, 1, 2), part(1, 0, 1, 2)]))
    assert whole.upto(2).labels.tolist() == whole.labels.tolist()
    assert seen(whole.split(1)) == [0.0, 1.0, 2.0]
    assert seen(whole.split(3)) == [0.0, 0.1, 1.0, 1.1, 2.0, 2.1, 10.0, 11.0, 12.0]
    assert seen(whole.split(6)) == seen(whole)
    with pytest.raises(ValueError, match=r"no stage 3: it has \[0, 1, 2\]"):
        whole.upto(3)
    for ipc in (0, 7):
        with pytest.raises(ValueError, match=rf"{ipc} images of each class were asked for; class 0 \(cat\) .* has 6"):
            whole.split(ipc)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_decoded_images_keep_their_labels(factor: int) -> None:
    made = part(0, 3, 1, factor=factor)
    images, labels = made.decode()
    assert len(images) == 4 * factor**2
    assert [round(float(value), 1) for value in images[:, 0, 3, 3]] == seen(made) * factor**2
    assert labels.tolist() == [3, 3, 1, 1] * factor**2
    assert images.shape[1:] == made.images.shape[1:]


def test_save_and_load_are_equal_and_equal_sets_have_equal_bytes(tmp_path: Path) -> None:
    made = synthetic(factor=2, soft=torch.rand(6, 3), step_size=torch.tensor([0.1, 0.2]), space="normalised")
    digest = made.save(tmp_path / "a")
    read = SyntheticSet.load(tmp_path / "a", digest)
    assert read.facts() == made.facts()
    assert read.tensors().keys() == made.tensors().keys()
    assert all(torch.equal(value, made.tensors()[name]) for name, value in read.tensors().items())
    assert read.save(tmp_path / "b") == digest
    assert made.image_bytes == 6 * 36 * 4
    assert (
        made.facts()["class_order_hash"]
        == made.class_order_hash
        != synthetic(class_names=("cat", "emu", "dog")).class_order_hash
    )


def test_files_that_are_no_sets_are_refused(tmp_path: Path) -> None:
    made = synthetic()
    save_tensors(tmp_path / "other", {"a": torch.ones(1)})
    with pytest.raises(ArtifactError, match=r"no synthetic set of format 1 \(format None"):
        SyntheticSet.load(tmp_path / "other")
    save_tensors(tmp_path / "edited", made.tensors(), {**made.facts(), "class_names": ["dog", "cat", "emu"]})
    with pytest.raises(ArtifactError, match="class names don't give its class_order_hash"):
        SyntheticSet.load(tmp_path / "edited")
    with pytest.raises(ArtifactError, match="not the file its manifest describes"):
        SyntheticSet.load(tmp_path / "edited", "0" * 64)


def test_impossible_sets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"as many images .* not \[6, 1, 6, 6\], \[5\] and \[6\]"):
        synthetic(labels=torch.zeros(5, dtype=torch.int64), stage=torch.zeros(6, dtype=torch.int64))
    with pytest.raises(ValueError, match="unit, normalised, whitened, not 'raw'"):
        synthetic(space="raw")
    with pytest.raises(ValueError, match="labels must lie in 0-2"):
        synthetic(labels=torch.tensor([0, 0, 1, 1, 2, 3]))


@pytest.mark.parametrize("channels, factor, classes", [(1, 1, 1), (3, 2, 3)])
def test_a_preview_is_drawn_the_same_every_time(tmp_path: Path, channels: int, factor: int, classes: int) -> None:
    made = synthetic(factor=factor, channels=channels, classes=classes)
    for name in ("a.png", "b.png"):
        preview(made, made, tmp_path / name, "title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"


def stitched(stage: int = 0, *labels: int) -> SyntheticSet:
    """A stitched set of bytes, as RDED's: cells of 2 x 2 real images."""
    kept = part(stage, *(labels or (0, 1)))
    images = torch.arange(len(kept.labels) * 36).reshape(-1, 1, 6, 6).to(torch.uint8)
    origin = torch.arange(len(kept.labels) * 4).reshape(-1, 4) + 100 * stage
    return dataclasses.replace(kept, images=images, grid=2, origin=origin)


def test_bytes_grid_and_origin_are_kept(tmp_path: Path) -> None:
    made = stitched()
    read = SyntheticSet.load(tmp_path / "a", made.save(tmp_path / "a"))
    assert read.images.dtype == torch.uint8
    assert read.image_bytes == made.images.numel()
    assert (read.grid, read.factor) == (2, 1)
    assert all(torch.equal(value, read.tensors()[name]) for name, value in made.tensors().items())
    assert torch.equal(read.pixels, made.images.float() / 255)
    images, labels = read.decode()
    assert torch.equal(images, read.pixels), "students see stitched images whole"
    assert torch.equal(labels, made.labels)
    assert read.split(1).origin is not None
    assert torch.equal(read.split(1).images, made.images[[0, 2]])


def test_stitched_stages_merge_and_come_apart() -> None:
    first, second = stitched(0, 0, 1), stitched(1, 0, 1)
    both = merge([second, first])
    assert both.origin is not None
    assert first.origin is not None
    assert second.origin is not None
    assert torch.equal(both.origin, torch.cat([first.origin, second.origin]))
    assert both.images.dtype == torch.uint8
    assert torch.equal(both.only(1).images, second.images)
    with pytest.raises(ValueError, match="differ in grid"):
        merge([first, dataclasses.replace(second, grid=1)])


def test_sets_without_a_grid_are_as_they_were() -> None:
    plain = part(0, 1)
    assert "grid" not in plain.facts()
    assert set(plain.tensors()) == {"images", "labels", "stage"}


def test_a_stitched_set_is_shown_and_exported(tmp_path: Path) -> None:
    made = stitched()
    preview(made, made, tmp_path / "a.png", "stitched")
    assert (tmp_path / "a.png").stat().st_size > 0
    assert export(made, "npz", tmp_path / "out") == 4
    with np.load(tmp_path / "out" / "set.npz", allow_pickle=False) as arrays:
        assert (arrays["images"] == made.images.permute(0, 2, 3, 1).numpy()).all(), "to the byte"


def test_what_no_stitched_set_is() -> None:
    made = stitched()
    with pytest.raises(ValueError, match="bytes are shares 0-1, not normalised pixels"):
        dataclasses.replace(made, space="normalised")
    with pytest.raises(ValueError, match="grid of at least 1 and an origin of each image"):
        dataclasses.replace(made, grid=0)
    with pytest.raises(ValueError, match="origin of each image"):
        dataclasses.replace(made, origin=torch.zeros(3, 4, dtype=torch.int64))
