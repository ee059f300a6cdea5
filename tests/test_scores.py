"""Score tables: parity with the official selection, independence of how the work is done, cutting, bad input."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity import count, error, load, tensor
from small import digits, observe
from torch import Tensor
from torchvision.transforms import functional as official

from ddlib.artifacts import ArtifactError, save_tensors
from ddlib.checkpoints import Checkpoint
from ddlib.data.native import Native, Stored
from ddlib.data.real import RealData
from ddlib.sets.candidates import cropped, drawn_boxes, drawn_files
from ddlib.sets.packing import stitch, to_bytes
from ddlib.sets.realism import Best, pad, score_crops, scores
from ddlib.sets.scores import ScoreTable

GOLDEN = "rded_select_stitch"


def scored(native: Native | None = None, data: RealData | None = None, **over: Any) -> ScoreTable:
    how: dict[str, Any] = {"classes": range(10), "mipc": 10, "crops": 3, "size": 8, "factor": 2, "seed": 0}
    return score_crops(native or Stored(digits()), data or digits(), over.pop("by", observe), **{**how, **over})


def same(a: ScoreTable, b: ScoreTable) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("file", "box", "score"))


@pytest.mark.parametrize("case", count(GOLDEN, "n_case"))
def test_parity_of_scores_selection_and_stitching(case: int) -> None:
    golden = load(GOLDEN)
    case_ = {key.removeprefix(f"case{case}_"): value for key, value in golden.items()}
    factor, size, ipc, label = (int(case_[name]) for name in ("factor", "size", "ipc", "label"))
    crops = tensor(case_["crops_image_crop"])
    images, each = crops.shape[:2]
    assert torch.equal(pad(crops.transpose(0, 1).flatten(0, 1)[:4], size), tensor(case_["padded_first4_crop_major"]))
    found = scores(tensor(case_["logits_crop_major"]), torch.full((images * each,), label))
    assert error(found, case_["score_crop_major"]) < 1e-5
    best = Best(torch.full((images,), torch.inf), torch.zeros(images, 4, dtype=torch.int32))
    number = torch.arange(each).repeat(images)[:, None].expand(-1, 4).int()
    ours = found.reshape(each, images).T.flatten()
    for part in torch.split(torch.arange(images * each), 5):  # in batches that cut through images
        best.take(part // each, ours[part], number[part])
    order = best.ascending(1)[0][: ipc * factor**2]
    selected = crops[order, best.box[order, 0].long()]
    assert torch.equal(selected, tensor(case_["selected"]))
    stitched = stitch(selected, ipc, factor, size)
    assert torch.equal(stitched, tensor(case_["stitched"]))
    mean, std = (tensor(golden[name]).float().reshape(1, -1, 1, 1) for name in ("mean", "std"))
    assert error(stitched * std + mean, case_["denormalised"]) < 1e-6
    made, theirs = to_bytes(stitched * std + mean).permute(0, 2, 3, 1), tensor(case_["uint8_hwc"])
    assert (made != theirs).double().mean() <= 1e-3
    assert (made.int() - theirs.int()).abs().max() <= 1


def test_of_each_image_the_best_of_its_crops_counts() -> None:
    table, data = scored(), digits()
    native = Stored(data)
    assert table.score.dtype == torch.float32
    assert (table.score.diff(dim=1) >= 0).all()
    for label in (0, 7):
        files = drawn_files(native, label, 10, 0, "")
        assert sorted(table.file[label].tolist()) == sorted(files.tolist())
        assert (data.labels[files] == label).all()
    for place in (0, 4, 9):
        file = int(table.file[3, place])
        image = native.read(file)
        boxes = torch.from_numpy(drawn_boxes(0, 3, file, 3, 8, 8))
        plain = [official.resized_crop(image.float() / 16, *box, [4, 4], antialias=True) for box in boxes.tolist()]
        logits = observe(pad(data.normalise(torch.stack(plain)), 8))
        each = torch.nn.functional.cross_entropy(logits, torch.full((3,), 3), reduction="none")
        torch.testing.assert_close(each.min(), table.score[3, place], rtol=1e-5, atol=1e-5)
        assert torch.equal(table.box[3, place].long(), boxes[each.argmin()])


def test_crops_of_native_images_are_torchvisions() -> None:
    image = torch.randint(0, 256, (3, 130, 170), dtype=torch.uint8)
    boxes = torch.tensor([[0, 0, 130, 170], [5, 9, 100, 100], [100, 140, 9, 9], [3, 4, 64, 64]])
    plain = [official.resized_crop(image.float() / 255, *box, [64, 64], antialias=True) for box in boxes.tolist()]
    torch.testing.assert_close(cropped(image, boxes, 64, 255), torch.stack(plain), rtol=0, atol=1e-5)


@pytest.mark.parametrize("over", [{"threads": 1}, {"threads": 5}, {"batch": 7}, {"batch": 1000}])
def test_how_the_work_is_done_changes_nothing(over: dict[str, Any]) -> None:
    table, other = scored(), scored(**over)
    assert torch.equal(table.file, other.file)
    assert torch.equal(table.box, other.box)
    torch.testing.assert_close(table.score, other.score, rtol=1e-6, atol=1e-6)
    assert same(scored(), table)
    assert not same(scored(seed=1), table)


def test_classes_in_any_order_and_parts() -> None:
    whole = scored()
    part = scored(classes=[7, 2])
    assert torch.equal(part.file, whole.file[[7, 2]])
    assert torch.equal(part.score, whole.score[[7, 2]])
    assert torch.equal(part.cut(2, 4).box, whole.cut(2, 4).box)


class Pictures:
    """Images of many sizes, larger than those cropped at once."""

    scale = 255.0

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        sides = [(int(h), int(w)) for h, w in rng.integers(60, 200, (24, 2))]
        self.images = [torch.from_numpy(rng.integers(0, 256, (1, *side), dtype=np.uint8)) for side in sides]
        self.labels, self.heldout = torch.arange(24) // 12, torch.zeros(24, dtype=torch.bool)
        self.names = tuple(f"picture{i}" for i in range(24))

    def read(self, i: int) -> Tensor:
        return self.images[i]


def test_images_of_different_sizes_and_what_the_observer_sees() -> None:
    seen: list[tuple[int, ...]] = []

    def watching(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        assert (x[:, :, :16] == 0).all()
        assert (x[:, :, 48:] == 0).all()
        assert (x[:, :, :, :16] == 0).all()
        return observe(x)

    native = Pictures()
    table = score_crops(
        native, digits(), watching, classes=[0, 1], mipc=12, crops=3, size=64, factor=2, seed=0, batch=16
    )
    assert set(seen) == {(16, 1, 64, 64)}, "batches of one size, the last filled up"
    for row in range(2):
        for file, box in zip(table.file[row].tolist(), table.box[row].tolist(), strict=True):
            height, width = native.images[file].shape[1:]
            assert box[2] == box[3], "square crops"
            assert 0 <= box[0] <= height - box[2]
            assert 0 <= box[1] <= width - box[3]


def test_held_out_and_excluded_images_are_not_looked_at() -> None:
    data = digits(heldout=0.25)
    native = Stored(data)
    apart = set(torch.nonzero(data.heldout).flatten().tolist())
    assert apart
    free = int(torch.bincount(data.labels[~data.heldout]).min())
    table = scored(native, data, mipc=free - 2)
    assert not apart & set(table.file.flatten().tolist())
    exclude = torch.cat([table.file[:, 0], table.file[:, 1]])
    later = scored(native, data, mipc=free - 2, exclude=exclude)
    assert not set(exclude.tolist()) & set(later.file.flatten().tolist())


class Killed(Exception):
    """What ends a run."""


class Fragile(Checkpoint):
    def __init__(self, folder: Path, left: int) -> None:
        super().__init__(folder, "scores", {"a": 1}, 0.0, say=lambda text: None)
        self.left = left

    def save(self, tensors: Any, facts: Any) -> None:
        super().save(tensors, facts)
        self.left -= 1
        if not self.left:
            raise Killed


def test_killed_anywhere_and_resumed_is_equal(tmp_path: Path) -> None:
    whole = scored(batch=32)
    for after in (1, 3, 9, 10):  # of 10 batches
        folder = tmp_path / str(after)
        with pytest.raises(Killed):
            scored(batch=32, checkpoint=Fragile(folder, after))
        calls: list[int] = []

        def counting(x: Tensor, calls: list[int] = calls) -> Tensor:
            calls.append(1)
            return observe(x)

        assert same(scored(batch=32, checkpoint=Fragile(folder, 99), by=counting), whole)
        assert len(calls) == 10 - after
    assert same(scored(batch=32, checkpoint=Fragile(tmp_path / "3", 99)), whole)


def test_any_ipc_is_cut_without_scoring_again() -> None:
    table = scored()
    for label in (0, 9):
        for n in (1, 4, 10):
            cut = table.cut(label, n)
            assert torch.equal(cut.file, table.file[label, :n])
            assert torch.equal(cut.box, table.box[label, :n])
    without = table.cut(4, 6, table.file[4, [0, 2]])
    assert torch.equal(without.file, table.file[4, [1, 3, 4, 5, 6, 7]])
    more = scored(mipc=12)
    assert set(table.file[5].tolist()) <= set(more.file[5].tolist()), "more images begin with the same ones"
    one = scored(crops=1)
    best = {int(f): float(s) for f, s in zip(table.file[5], table.score[5], strict=True)}
    assert all(best[int(f)] <= float(s) for f, s in zip(one.file[5], one.score[5], strict=True)), "more crops too"


def test_saved_and_loaded(tmp_path: Path) -> None:
    table = scored(dataset="data", observer="net")
    digest = table.save(tmp_path / "a.safetensors")
    read = ScoreTable.load(tmp_path / "a.safetensors", digest)
    assert same(read, table)
    facts = ("classes", "mipc", "crops", "size", "factor", "seed", "dataset", "observer")
    assert all(getattr(read, name) == getattr(table, name) for name in facts)
    save_tensors(tmp_path / "b", {"images": torch.zeros(1)}, {"format": 1})
    with pytest.raises(ArtifactError, match="no score table"):
        ScoreTable.load(tmp_path / "b")


def test_bad_input_is_refused_with_numbers() -> None:
    table = scored()
    with pytest.raises(ValueError, match=r"11 crops .* of class 3 .* 10 images \(mipc\)\. Raise mipc"):
        table.cut(3, 11)
    with pytest.raises(ValueError, match=r"9 crops .* 10 images \(mipc\), 2 of them used before"):
        table.cut(3, 9, table.file[3, :2])
    with pytest.raises(ValueError, match="no class 12"):
        table.cut(12, 1)
    with pytest.raises(ValueError, match="for 8 px at factor 2, asked for were 8 px at factor 1"):
        table.check(8, 1)
    with pytest.raises(ValueError, match=r"class 0 \(0\) has 12 training images, 13 were asked for"):
        scored(mipc=13)
    with pytest.raises(ValueError, match=r"12 training images, 4 of them used before, 10 were"):
        scored(exclude=digits().of_class(0)[:4])
    with pytest.raises(ValueError, match="at least a pixel"):
        scored(factor=9)
    with pytest.raises(ValueError, match="no finite number"):
        scored(by=lambda x: observe(x) / 0)
    with pytest.raises(ValueError, match="boxes"):
        dataclasses.replace(table, box=table.box[:, :3])


def test_a_class_with_one_image() -> None:
    data = digits(per_class=1)
    assert scored(Stored(data), data, mipc=1).file.shape == (10, 1)
    with pytest.raises(ValueError, match="has 1 training images, 10 were asked"):
        scored(Stored(data), data)


def test_what_cannot_be_read_stops_the_stream() -> None:
    class Broken(Stored):
        def read(self, i: int) -> Tensor:
            raise ValueError(f"file {i} is damaged")

    with pytest.raises(ValueError, match="is damaged"):
        scored(Broken(digits()))
