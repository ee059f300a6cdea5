"""Whitened data sets: the fit against golden arrays, and the pixel space from the data to the table and the picture."""

from __future__ import annotations

import dataclasses
import functools
import json
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import parity
import pytest
import torch
from PIL import Image
from small import NETWORK, PROTOCOL, SPEC, TRAINING, digits, problem, recipe
from tiny import CONFIG

import ddlib
from ddlib import presets, registry
from ddlib.artifacts import ArtifactError, read_manifest, write_manifest
from ddlib.config import ConfigError, merged, read, resolve
from ddlib.data import whitening
from ddlib.data.real import RealData
from ddlib.data.whitening import Whitening, fit, fitted, whitened
from ddlib.jobs import condense as condense_job
from ddlib.jobs import evaluate as evaluate_job
from ddlib.methods.driver import condense
from ddlib.methods.room import left
from ddlib.plan import Plan
from ddlib.pool.member import MemberTraining
from ddlib.project import SCHEMA
from ddlib.sets.dataset import stored_colours, true_colours
from ddlib.sets.export import export
from ddlib.sets.init import initial_images
from ddlib.sets.packing import FILLS, decode
from ddlib.sets.preview import preview
from ddlib.sets.synthetic import SyntheticSet, merge
from ddlib.streams import Streams
from ddlib.train.evaluate import evaluate
from ddlib.train.lessons import lessons

HOW = {"kind": "zca", "eps": 0.1, "whitening": 1}


@functools.cache
def by() -> Whitening:
    """A fit on some of the digits."""
    data = digits()
    return fit(data.images, 0.1, data.scale, "digest of the fit")


@functools.cache
def white(test: bool = False) -> RealData:
    return whitened(digits(test=test), by())


def set_of(method: str = "random", stored: bool = True, **over: Any) -> SyntheticSet:
    """A set condensed from whitened digits, two images a class, as the jobs make it; `stored`: with its fit."""
    asked = problem(data=white())
    made = condense(recipe(method, asked, **over), asked)
    spec = {"classes": list(range(10)), "stage": 0}
    part = condense_job._set(spec, asked.data, recipe(method, asked, **over), 2, made.learned, None)
    return merge([part]).with_fit(by()) if stored else part


# ---- the fit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", parity.count("zca", "n_case"))
def test_the_fit_is_the_reference(case: int) -> None:
    golden = parity.load("zca")
    named = {name: golden[f"case{case}_{name}"] for name in ("fit_x", "new_x", "mean", "matrix", "inverse")}
    x, new = parity.tensor(named["fit_x"]), parity.tensor(named["new_x"])
    made = fit(x, float(golden[f"case{case}_eps"]))
    for name in ("mean", "matrix", "inverse"):
        assert parity.error(getattr(made, name), named[name]) < 1e-8
    assert parity.error(made.apply(x), golden[f"case{case}_white_fit"]) < 1e-8
    assert parity.error(made.apply(new), golden[f"case{case}_white_new"]) < 1e-8
    assert parity.error(made.invert(made.apply(new)), golden[f"case{case}_back_new"]) < 1e-8
    assert parity.error(made.invert(made.apply(new)), new) < 1e-8


def test_chunks_and_bytes_do_not_change_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits()
    monkeypatch.setattr(whitening, "AT_ONCE", 7)
    made = fit(data.images, 0.1, data.scale)
    shares = data.images.double() / data.scale
    for name in ("mean", "matrix", "inverse"):
        torch.testing.assert_close(getattr(made, name), getattr(by(), name), rtol=0, atol=1e-11)
        torch.testing.assert_close(getattr(made, name), getattr(fit(shares, 0.1), name), rtol=0, atol=1e-11)
    torch.testing.assert_close(made.apply(shares), by().apply(shares), rtol=0, atol=1e-11)


@pytest.mark.parametrize("images, eps", [(1, 0.1), (5, 0.0)])
def test_a_fit_that_cannot_be_is_refused(images: int, eps: float) -> None:
    with pytest.raises(ValueError, match=f"at least 2 images with eps above 0, not on {images} with {eps}"):
        fit(torch.rand(images, 1, 2, 2), eps)


def test_a_fit_leaves_out_held_out_images_and_is_made_once_for_equal_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataclasses.replace(digits(), heldout=torch.arange(120) % 4 == 0)
    made, path = fitted(data, HOW, tmp_path / "a")
    assert path == tmp_path / "a" / "whitening.safetensors"
    torch.testing.assert_close(made.matrix, fit(data.images[~data.heldout], 0.1, data.scale).matrix, rtol=0, atol=0)
    other, _ = fitted(digits(), HOW, tmp_path / "b")
    assert made.fitted != other.fitted != fitted(digits(), {**HOW, "eps": 0.2}, tmp_path / "c")[0].fitted
    calls: list[int] = []
    monkeypatch.setattr(whitening, "fit", lambda *given: (calls.append(1), fit(*given))[1])
    for folder in ("a", "d"):  # from its own folder, and from that of another data set
        again, path = fitted(data, HOW, tmp_path / folder)
        assert (again.fitted, torch.equal(again.inverse, made.inverse), len(calls)) == (made.fitted, True, 0)
        assert Whitening.load(path).fitted == made.fitted
    for name in ("a", "d"):
        path = tmp_path / name / "whitening.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
        with pytest.raises(ArtifactError, match="is damaged"):
            Whitening.load(path)
    with pytest.warns(UserWarning, match=r"whitening\.safetensors is damaged.* It is not used"):
        anew = fitted(data, HOW, tmp_path / "a")[0]
    assert torch.equal(anew.matrix, made.matrix)
    assert len(calls) == 1
    with pytest.raises(ValueError, match="whitening is zca, not 'pca'"):
        fitted(data, {**HOW, "kind": "pca"}, tmp_path / "a")


# ---- the configuration -----------------------------------------------------------------------------------------------


def planned(**entry: Any) -> Plan:
    changed = merged(CONFIG, {"datasets": {"digits_zca": {"source": "digits", "classes": 10, **entry}}})
    return Plan(resolve(changed, read(SCHEMA)))


def test_only_a_whitened_data_set_has_another_specification() -> None:
    plan = planned(whitening="zca")
    assert plan.dataset("digits") == {**SPEC, "version": registry.SOURCES["digits"].version}
    assert plan.dataset("digits_zca") == {**plan.dataset("digits"), "mean": [0.0], "std": [1.0], "whitening": HOW}
    assert json.dumps(plan.dataset("digits")) == json.dumps(planned().dataset("digits_zca"))
    assert "whitening" not in json.dumps(plan.spec("prepare_data", {"dataset": "digits"}))
    assert {"digits_zca__random", "digits_zca__whole"} <= plan.experiments.keys()
    assert presets.WHITENING["zca"]["eps"] == HOW["eps"]
    with pytest.raises(ConfigError, match=r"datasets\.digits_zca\.whitening: 'pca' is not one of zca"):
        planned(whitening="pca")


def test_disk_is_planned_with_the_pixels_and_the_matrices() -> None:
    plan = planned(whitening="zca")
    plain, more = (left("prepare_data", {"dataset": plan.dataset(n)}, (100, 20), 0) for n in ("digits", "digits_zca"))
    assert (plain, more) == (120 * 64, 120 * 64 * 5 + 2 * 8 * 64**2)
    plain, more = (
        left("merge", {"dataset": plan.dataset(n), "method": "idc"}, (100, 20), 1) for n in ("digits", "digits_zca")
    )
    assert more - plain == 4 * 64**2


# ---- real data -------------------------------------------------------------------------------------------------------


def test_pixels_are_whitened_by_the_train_fit() -> None:
    train, test = white(), white(test=True)
    for data in (train, test):
        shares = data.images.double() / data.scale
        torch.testing.assert_close(data.pixels(slice(None)), by().apply(shares).float(), rtol=0, atol=1e-6)
        assert data.pixels(torch.tensor([3, 1])).dtype == torch.float32
        assert (data.space, data.whitening, data.mean, data.std) == ("whitened", "digest of the fit", (0.0,), (1.0,))
        assert torch.equal(data.normalise(data.pixels(slice(0, 9))), data.pixels(slice(0, 9)))
    spread = torch.cov(train.pixels(slice(None)).flatten(1).double().T)
    variances = torch.linalg.eigvalsh(torch.cov((train.images.double() / train.scale).flatten(1).T))
    torch.testing.assert_close(torch.linalg.eigvalsh(spread), variances / (variances + 0.1), rtol=0, atol=1e-6)
    assert (digits().space, digits().whitening) == ("unit", None)
    marked = dataclasses.replace(train, heldout=train.labels == 3)
    assert torch.equal(marked.heldout_part().pixels(slice(None)), train.pixels(train.of_class(3)))
    assert len(marked.fit().pixels(slice(None))) == 108


def test_whitened_data_are_stored_with_their_fit(tmp_path: Path) -> None:
    by().save(tmp_path / whitening.FILE)
    for part, data in (("train", white()), ("test", white(test=True))):
        path = data.save(tmp_path, part, SPEC, tmp_path / whitening.FILE)
        manifest, again = read_manifest(path), RealData.load(path)
        assert manifest["result"]["whitening"] == again.whitening == "digest of the fit"
        entry = manifest["files"]["whitening"]
        assert torch.equal(Whitening.load(tmp_path / entry["path"], entry["sha256"]).matrix, by().matrix)
        assert torch.equal(again.pixels(slice(None)), data.pixels(slice(None)))
        assert (again.space, again.mean) == ("whitened", (0.0,))
    plain = read_manifest(digits().save(tmp_path / "plain", "train", SPEC))
    assert plain["files"].keys() == {"tensors"}
    assert "whitening" not in plain["result"]


def test_halves_of_a_whitening_are_refused() -> None:
    with pytest.raises(ValueError, match="pixels and the digest of their whitening go together"):
        dataclasses.replace(digits(), whitening="x")
    with pytest.raises(ValueError, match=r"whitened pixels are \[3, 1, 8, 8\], the images \[120, 1, 8, 8\]"):
        dataclasses.replace(white(), whitened=torch.zeros(3, 1, 8, 8))


# ---- from whitened data to a set -------------------------------------------------------------------------------------


def test_images_begin_in_whitened_space() -> None:
    data, streams = white(), Streams(0, "x")
    found = initial_images("first", data, [3], 2, 1, streams)
    assert torch.equal(found, data.pixels(data.of_class(3)[:2]))
    packed = initial_images("mix", data, [3], 2, 2, streams)
    assert torch.equal(packed[0, :, :4, :4], data.pixels(data.of_class(3)[:1])[0, :, ::2, ::2])
    noise = initial_images("noise", data, [3], 50, 1, streams)
    assert (abs(float(noise.mean())), float(noise.std())) == pytest.approx((0, 1), abs=0.05)
    assert float(initial_images("noise", digits(), [3], 50, 1, streams).min()) >= 0


def test_nothing_is_clamped_in_whitened_space() -> None:
    asked = problem(data=white())
    for method in ("idc", "acc_dd", "drop2sparse"):
        wanted = recipe(method, asked, factor=1, init="first")
        assert wanted.range == "free"
        made = condense(wanted, asked)
        assert torch.equal(made.initial["images"][:2], white().pixels(white().of_class(0)[:2]))
        assert float(made.images.min()) < -0.1
        assert bool((made.images != made.initial["images"]).any())
    assert recipe("idc").range == "clamped"


def test_missing_lines_are_filled_with_the_mean_image_in_whitened_space() -> None:
    x = torch.full((1, 1, 4, 4), 0.7)
    for space, fill in FILLS.items():
        corner = decode(x, 3, space=space)[-1, 0]  # of 6 x 6 padded: all of it is fill
        assert torch.equal(corner, torch.full((4, 4), fill))
    assert FILLS["unit"] == 0.5


def test_a_set_keeps_its_whitening(tmp_path: Path) -> None:
    part, made = set_of(stored=False), set_of()
    assert (part.space, part.whitening, part.unwhiten) == ("whitened", "digest of the fit", None)
    assert made.mean == (0.0,)
    read_back = SyntheticSet.load(tmp_path / "a", made.save(tmp_path / "a"))
    for each in (read_back, made.split(1), made.upto(0), merge([made])):
        assert each.facts() == made.facts()
        assert torch.equal(each.unwhiten, by().inverse.float())
        assert torch.equal(each.whitening_mean, by().mean.float())
    shares = (digits(test=True).images / digits().scale).float()
    torch.testing.assert_close(read_back.whitened(shares), white(test=True).pixels(slice(None)), rtol=0, atol=1e-5)
    torch.testing.assert_close(made.unwhitened(read_back.whitened(shares)), shares, rtol=0, atol=1e-5)


def test_what_is_not_whitened_alike_is_not_mixed() -> None:
    part, made = set_of(stored=False), set_of()
    with pytest.raises(ValueError, match=r"whitened by fit digest of th\.\., the data now there by another\.\."):
        part.with_fit(dataclasses.replace(by(), fitted="another"))
    moved = {"stage": part.stage + 1}
    with pytest.raises(ValueError, match="they differ in whitening"):
        merge([part, dataclasses.replace(part, **moved, whitening="another")])
    with pytest.raises(ValueError, match="they differ in whitening"):
        merge([dataclasses.replace(part, **moved, whitening=None), part])
    with pytest.raises(ValueError, match="only some have unwhiten, whitening_mean"):
        merge([made, dataclasses.replace(part, **moved)])
    with pytest.raises(ValueError, match="a set of unit pixels has no whitening"):
        dataclasses.replace(part, space="unit")
    for wrong in (part.unwhitened, part.whitened):
        with pytest.raises(ValueError, match=r"are whitened and the matrix is not in the file.*decode"):
            wrong(part.images)
    with pytest.raises(ValueError, match="unit pixels: there is no whitening to apply"):
        dataclasses.replace(part, space="unit", whitening=None).whitened(part.images)


# ---- what comes out --------------------------------------------------------------------------------------------------


def originals(count: int) -> torch.Tensor:
    """The first `count` digits of each class, as shares."""
    data = digits()
    return torch.cat([data.pixels(data.of_class(label)[:count]) for label in range(10)])


def test_real_images_come_back_in_true_colours(tmp_path: Path) -> None:
    made = set_of("initial", init="first", factor=1)
    torch.testing.assert_close(true_colours(made, made.images), originals(2), rtol=0, atol=1e-3)
    made.save(tmp_path / "set.safetensors")
    torch.testing.assert_close(ddlib.load(tmp_path).images, originals(2), rtol=0, atol=1e-3)
    assert torch.equal(ddlib.load(tmp_path, normalised=True).images, made.images)
    for stored in (False, True):
        export(made, "npz", tmp_path / f"npz{stored}", stored)
        with np.load(tmp_path / f"npz{stored}" / "set.npz") as found:
            want = originals(2).mul(255).permute(0, 2, 3, 1).numpy()
            assert np.abs(found["images"].astype(float) - want).max() <= 0.5 + 0.255


def test_packed_images_have_colours_image_by_image() -> None:
    made = set_of("initial", init="mix", factor=2)
    data = digits()
    smaller = torch.cat([data.pixels(data.of_class(label)[:1])[:, :, ::2, ::2] for label in range(10)])
    found = stored_colours(made)[::2, :, :4, :4]  # of every first image the first cell
    assert found.shape == smaller.shape
    near = [float((cell - want).square().mean()) for cell, want in zip(found, smaller, strict=True)]
    far = [float((cell - smaller.flip(0)[i]).square().mean()) for i, cell in enumerate(found)]
    assert sum(near) < 0.25 * sum(far)


def test_the_picture_of_a_whitened_set_is_that_of_the_images(tmp_path: Path) -> None:
    made = set_of("initial", init="first", factor=1)
    plain = dataclasses.replace(
        made, images=originals(2), space="unit", whitening=None, whitening_mean=None, unwhiten=None
    )
    pictures = []
    for name, each in (("whitened", made), ("plain", plain)):
        preview(each, each, tmp_path / f"{name}.png", "title")
        pictures.append(np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"), dtype=float))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1.5
    assert pictures[0].std() > 20


def test_a_pool_and_students_learn_whitened_digits(tmp_path: Path) -> None:
    data, test = (whitened(digits(60, test=part), by()) for part in (False, True))
    spec = {"network": NETWORK, "snapshots": [0, 4], "seed": 0, "training": {**TRAINING, "epochs": 4, "lr": 0.1}}
    member = MemberTraining(spec, 0, data, tmp_path).run()
    assert member["last"]["train_clean"] > 0.6
    protocol = {**PROTOCOL, "whole_steps": 120, "lr": 0.1, "repeats": 1}
    (row,) = evaluate(data, test, {"a": NETWORK}, protocol, (1, 8, 8), 10, seed=0, whole=True)
    assert row["accuracy"] > 0.6


def test_only_test_data_whitened_alike_score_a_set(tmp_path: Path) -> None:
    job: Any = SimpleNamespace(device="cpu")

    def source(made: SyntheticSet, test: RealData) -> Any:
        made.save(tmp_path / "set.safetensors")
        write_manifest(tmp_path / "card.json", "set", {}, {"set": tmp_path / "set.safetensors"}, made.facts())
        spec = {"set": "set", "protocol": PROTOCOL, "labels": "hard"}
        given = Namespace(spec=spec, source=tmp_path / "card.json", labels=None, teacher=None)
        return lessons(evaluate_job._source(given, job, test)[0], PROTOCOL)

    made, test = set_of(), white(test=True)
    (lesson,) = source(made, test)
    assert torch.equal(lesson.source.images, made.decode()[0])
    assert (lesson.source.mean, lesson.source.std) == ((0.0,), (1.0,))
    with pytest.raises(ValueError, match=r"holds whitened pixels, the test data of digits unit ones"):
        source(made, digits(test=True))
    plain = dataclasses.replace(
        made, images=originals(2), space="unit", whitening=None, whitening_mean=None, unwhiten=None
    )
    with pytest.raises(ValueError, match=r"holds unit pixels, the test data of digits whitened ones"):
        source(plain, test)
    with pytest.raises(ValueError, match=r"whitened by fit digest of th\.\. and the test data by fit another\.\."):
        source(made, dataclasses.replace(test, whitening="another"))
    with pytest.raises(ValueError, match=r"by fit digest of th\.\. and the test data by fit another\.\."):
        evaluate_job._check_space(Path("train.json"), white(), dataclasses.replace(test, whitening="another"))
