"""RDED's sets: what their cells show, random crops beside it, as the beginning of IDC, in stages."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import digits, equipped, observe, problem, recipe, settings, table
from tiny import CONFIG
from torch import Tensor

from ddlib import project
from ddlib.artifacts import ArtifactError
from ddlib.config import ConfigError, merged, read, resolve
from ddlib.data.native import Stored
from ddlib.jobs import condense as condense_job
from ddlib.methods.driver import Condensed, condense
from ddlib.methods.recipe import Problem
from ddlib.sets.candidates import cropped, drawn_boxes
from ddlib.sets.packing import pack, through_jpeg, to_bytes
from ddlib.sets.synthetic import SyntheticSet, merge


def made(method: str = "rded", asked: Problem | None = None, **over: Any) -> Condensed:
    of = settings(method, **over)
    asked = equipped(method, asked or problem(), of)
    return condense(recipe(method, asked, **over), asked)


def patches(files: Any, boxes: Any, side: int) -> Tensor:
    native = Stored(digits())
    pairs = zip(files, boxes, strict=True)
    return torch.cat([cropped(native.read(int(i)), box[None], side, 16.0) for i, box in pairs])


@pytest.mark.parametrize("factor", [1, 2])
def test_cells_show_the_best_crops_strided(factor: int) -> None:
    ipc, cells = 2, factor**2
    found = made(factor=factor)
    scores = table(10, 2, factor, 0)
    assert found.images.dtype == torch.uint8
    assert found.origin is not None
    side = 8 // factor
    for label in (0, 6):
        chosen = scores.cut(label, ipc * cells)
        shown = to_bytes(patches(chosen.file, chosen.box, side))
        for i in range(ipc):
            for k in range(cells):
                row, col = divmod(k, factor)
                cell = found.images[label * ipc + i][:, row * side : (row + 1) * side, col * side : (col + 1) * side]
                assert torch.equal(cell, shown[k * ipc + i]), "rank k * ipc + i lies in cell k of image i"
                assert int(found.origin[label * ipc + i, k]) == int(chosen.file[k * ipc + i])


def test_several_budgets_are_cut_from_one_table() -> None:
    asked = dataclasses.replace(problem(), ipc=(1, 2))
    both = made(asked=asked, factor=2)
    for ipc, images in zip((1, 2), asked.parts(both.images), strict=True):
        assert torch.equal(images, made(asked=problem(ipc=ipc), factor=2).images)


def test_random_crops_are_drawn_from_the_same_crops() -> None:
    found = made("crops", factor=2)
    assert found.origin is not None
    assert (digits().labels[found.origin.flatten()] == torch.arange(10).repeat_interleave(8)).all()
    file = int(found.origin[0, 0])
    box = torch.from_numpy(drawn_boxes(0, 0, file, 1, 8, 8))
    assert torch.equal(found.images[0, :, :4, :4], to_bytes(patches([file], box, 4))[0])
    assert not torch.equal(found.images, made("rded", factor=2).images)
    assert len(set(found.origin.flatten().tolist())) == found.origin.numel(), "an image gives one crop"


def test_jpeg_is_what_files_of_quality_75_give_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(rng.random((2, 3, 6, 6))), (48, 48), mode="bilinear")
    images = to_bytes(smooth)
    ours = through_jpeg(images)
    for image, back in zip(images, ours, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a.jpg")
        with Image.open(tmp_path / "a.jpg") as picture:
            plain = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
        assert (plain.int() - back.int()).abs().max() <= 2
    assert not torch.equal(ours, images)
    with pytest.raises(ValueError, match="1 or 3 channels, these images have 2"):
        through_jpeg(images[:, :2])
    assert not torch.equal(made(store="jpeg75").images, made().images)


def test_native_files_are_opened_only_where_crops_are_cut(tmp_path: Path) -> None:
    """A condensation of images that were prepared needs neither the folder they came from nor its index."""

    def opened(method: str, **given: Any) -> Any:
        spec = {"method": method, "settings": given}
        job: Any = SimpleNamespace(machine={})
        return condense_job._native(Namespace(spec=spec, train=tmp_path / "train.json"), job, digits())

    assert opened("idc", init="mix") is None
    assert opened("random", init="random") is None
    for method, given in (("rded", {}), ("crops", {}), ("idc", {"init": "rded"})):
        with pytest.raises(ArtifactError, match=r"train\.json does not exist"):
            opened(method, **given)


@pytest.mark.parametrize("method", ["idc", "acc_dd", "drop2sparse"])
def test_what_is_built_on_idc_begins_with_rdeds_crops(method: str) -> None:
    asked = dataclasses.replace(problem(ipc=1), native=Stored(digits()), scores=table(10, 2, 2, 0))
    found = made(method, asked, init="rded", factor=2, outer_iterations=1)
    begun = found.initial["images"]
    chosen = table(10, 2, 2, 0).cut(5, 4)
    assert begun.dtype == torch.float32
    torch.testing.assert_close(begun[5:6, :, 4:, 4:], patches(chosen.file[3:], chosen.box[3:], 4))
    whole = patches(chosen.file, chosen.box, 4)
    torch.testing.assert_close(begun[5:6], pack(torch.nn.functional.interpolate(whole, (8, 8)), 1, 2))
    assert (found.images - begun).abs().amax((1, 2, 3)).min() > 0
    assert found.origin is None
    for kind in ("crops", "herding", "kmeans"):
        other = made(method, asked, init=kind, factor=2, outer_iterations=1, inner_steps=1).initial["images"]
        assert other.shape == begun.shape
        assert not torch.equal(other, begun)


def as_set(found: Condensed, stage: int, grid: int) -> SyntheticSet:
    labels = torch.arange(10).repeat_interleave(len(found.images) // 10)
    facts: dict[str, Any] = {"mean": (0.3,), "std": (0.4,), "name": "digits", "class_names": digits().class_names}
    stages = torch.full_like(labels, stage)
    return SyntheticSet(found.images, labels, stages, 1, grid=grid, origin=found.origin, **facts)


def test_stages_take_other_images_and_their_own_network_judges() -> None:
    rows = equipped("mtt", problem()).rows
    native = Stored(digits())
    asked = dataclasses.replace(problem(rows=rows), native=native, scores=None)
    plan = recipe("rded", dataclasses.replace(asked, scores=table(10, 2, 1, 0)), mipc=8)
    first = condense(plan, asked)
    frozen = as_set(first, 0, 1)
    later = dataclasses.replace(asked, stage=1, frozen=frozen)
    second = condense(plan, later)
    assert first.origin is not None
    assert second.origin is not None
    assert not set(first.origin.flatten().tolist()) & set(second.origin.flatten().tolist())
    both = merge([frozen, as_set(second, 1, 1)])
    third = condense(plan, dataclasses.replace(asked, stage=2, frozen=both))
    assert both.origin is not None
    assert third.origin is not None
    assert not set(both.origin.flatten().tolist()) & set(third.origin.flatten().tolist())
    judged = condense(plan, dataclasses.replace(later, observe=observe))
    assert not torch.equal(judged.images, second.images), "the observer given comes first"
    with pytest.raises(ValueError, match="6 of them used before, 8 were asked for"):
        condense(plan, dataclasses.replace(asked, stage=3, frozen=merge([both, as_set(third, 2, 1)])))


def later_stage(classes: Any = range(10)) -> tuple[Any, Problem]:
    """(the recipe, the second stage of some classes after a first of all)."""
    rows = equipped("mtt", problem()).rows
    whole = dataclasses.replace(problem(rows=rows), native=Stored(digits()))
    plan = recipe("rded", dataclasses.replace(whole, scores=table(10, 2, 1, 0)), mipc=8)
    return plan, dataclasses.replace(whole, classes=list(classes), stage=1, frozen=as_set(condense(plan, whole), 0, 1))


def test_a_stage_leaves_the_earlier_images_and_passes_over_what_they_show() -> None:
    plan, asked = later_stage()
    frozen = asked.frozen
    assert frozen is not None
    assert frozen.origin is not None
    kept = frozen.images.clone()
    found = condense(plan, asked)
    assert torch.equal(frozen.images, kept)
    assert found.images.shape == kept.shape, "only the new ones are picked"
    assert torch.equal(condense(plan, asked).images, found.images)
    elsewhere = dataclasses.replace(frozen, origin=found.origin)
    other = condense(plan, dataclasses.replace(asked, frozen=elsewhere))
    assert not torch.equal(other.images, found.images), "what is passed over says what is left"
    assert asked.rows is not None
    judged = condense(plan, dataclasses.replace(asked, rows=asked.rows[1:]))
    one = condense(plan, dataclasses.replace(asked, rows=asked.rows[:1]))
    assert not torch.equal(judged.images, one.images), "and so does the network that judges"


def test_class_phases_of_a_stage_merged_equal_one_phase() -> None:
    plan, asked = later_stage()
    whole = condense(plan, asked)
    parts = []
    for classes in ([7, 2], [0, 1, 3, 4, 5, 6, 8, 9]):
        found = condense(plan, dataclasses.replace(asked, classes=classes))
        labels = torch.tensor(classes).repeat_interleave(2)
        facts = {"labels": labels, "stage": torch.ones_like(labels), "origin": found.origin}
        parts.append(dataclasses.replace(as_set(whole, 1, 1), images=found.images, **facts))
    both = merge(parts)
    assert torch.equal(both.images, whole.images)
    assert both.origin is not None
    assert torch.equal(both.origin, whole.origin)


@pytest.mark.parametrize(
    "asked", [{"method": "rded"}, {"method": "idc", "network": "small", "settings": {"init": "rded"}}]
)
def test_crops_of_whitened_images_are_refused(asked: dict[str, Any]) -> None:
    given = {"dataset": "white", "ipc": [1], "seeds": [0], "observer": "judge"}
    given |= {"protocols": ["quick"], "students": "group", **asked}
    changes = {
        "datasets": {"white": {"source": "digits", "classes": 10, "whitening": "zca"}},
        "pools": {"early": {"dataset": "white"}},
        "observers": {"judge": {"pool": "early"}},
        "experiments": {"picked": given},
    }
    config = merged({**CONFIG, "experiments": {}, "suites": {}, "default_suite": "picked"}, changes)
    with pytest.raises(ConfigError, match=r"experiments\.picked: .* cannot be whitened as white is: name a data set"):
        resolve(config, read(project.SCHEMA))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="give the problem `native`"):
        condense(recipe("rded"), problem())
    bare = dataclasses.replace(problem(), native=Stored(digits()))
    with pytest.raises(ValueError, match="name the `observer` of the experiment, or"):
        condense(recipe("rded"), bare)
    with pytest.raises(ValueError, match="need a score table: name the `observer`"):
        condense(recipe("idc", problem(), init="rded"), bare)
    with pytest.raises(ValueError, match=r"12 crops .* 10 images \(mipc\)"):
        made(asked=problem(ipc=3), factor=2)
    with pytest.raises(ValueError, match="at factor 1, asked for were 8 px at factor 2"):
        condense(recipe("rded", factor=2), dataclasses.replace(bare, scores=table(10, 2, 1, 0)))
    with pytest.raises(ValueError, match="12 training images, 16 were asked for"):
        made("crops", problem(ipc=4), factor=2)
    whitened = dataclasses.replace(digits(), whitened=digits().images.float(), whitening="a" * 64)
    with pytest.raises(ValueError, match="whitened pixels"):
        made("crops", problem(data=whitened))
