"""What users take away: `ddlib.load` and the export, from a set as the workflow writes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small import digits, problem, recipe, synthetic
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

import ddlib
from ddlib.artifacts import ArtifactError, write_manifest
from ddlib.methods.driver import condense
from ddlib.sets.dataset import open_set
from ddlib.sets.export import class_folder, export
from ddlib.sets.synthetic import SyntheticSet

HOSTILE = ("../../x", "a/b", "; rm -rf", "/etc", ".", "..", "", "café \0\n'\"$(x)", "x" * 500, "a/b")


def written(made: SyntheticSet, folder: Path) -> Path:
    """A set with its card, as the merge job writes them; its folder."""
    made.save(folder / "set.safetensors")
    write_manifest(folder / "card.json", "set", {}, {"set": folder / "set.safetensors"}, made.facts())
    return folder


@pytest.fixture(scope="module")
def real_digits() -> SyntheticSet:
    """Ten real digits a class."""
    data = digits()
    images = condense(recipe("random", problem(ipc=10)), problem(ipc=10)).images
    labels = torch.arange(10).repeat_interleave(10)
    facts = {"mean": data.mean, "std": data.std, "class_names": data.class_names, "name": data.name}
    return SyntheticSet(images=images, labels=labels, stage=torch.zeros_like(labels), factor=1, **facts)


def test_a_plain_network_trains_on_it_in_ten_lines(tmp_path: Path, real_digits: SyntheticSet) -> None:
    folder = written(real_digits, tmp_path)
    torch.manual_seed(0)
    images = ddlib.load(folder)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, len(images.class_names)))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(30):
        for x, y in DataLoader(images, batch_size=25, shuffle=True):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
    test = digits(test=True)
    assert (net(test.pixels(slice(None))).argmax(1) == test.labels).float().mean() > 0.7


@pytest.mark.parametrize("factor", [1, 2])
def test_items_are_decoded_true_colours_with_their_labels(tmp_path: Path, factor: int) -> None:
    made = synthetic(factor=factor)
    images = ddlib.load(written(made, tmp_path))
    decoded, labels = made.decode()
    assert len(images) == len(decoded) == 6 * factor**2
    assert torch.equal(torch.stack([image for image, _ in images]), decoded)
    assert [label for _, label in images] == labels.tolist()
    assert images.class_names == ("cat", "dog", "emu")
    assert torch.equal(images.set.images, made.images)
    normalised = ddlib.load(tmp_path, normalised=True).images
    torch.testing.assert_close(normalised, (decoded - 0.3) / 0.4)


def test_normalised_sets_come_in_true_colours_and_whitened_ones_are_refused(tmp_path: Path) -> None:
    plain = synthetic(channels=3)
    stored = (plain.images - 0.3) / 0.4
    made = synthetic(channels=3, images=stored, space="normalised")
    folder = written(made, tmp_path / "normalised")
    torch.testing.assert_close(ddlib.load(folder).images, plain.images)
    assert torch.equal(ddlib.load(folder, normalised=True).images, stored)
    whitened = written(synthetic(space="whitened"), tmp_path / "whitened")
    with pytest.raises(ValueError, match=r"made_up are whitened.*decode"):
        ddlib.load(whitened)


def test_folder_card_and_file_are_the_same_and_the_card_is_checked(tmp_path: Path) -> None:
    made = synthetic()
    folder = written(made, tmp_path)
    for path in (folder, str(folder), folder / "card.json", folder / "set.safetensors"):
        assert torch.equal(ddlib.load(path).images, made.images)
    synthetic(ipc=1).save(folder / "set.safetensors")
    for path in (folder, folder / "card.json", folder / "set.safetensors"):
        with pytest.raises(ArtifactError, match="not the file its manifest describes"):
            ddlib.load(path)
    (folder / "card.json").unlink()
    assert len(ddlib.load(folder)) == len(ddlib.load(folder / "set.safetensors")) == 3
    with pytest.raises(ArtifactError, match=r"no synthetic set at .*nowhere.*card.json or set.safetensors"):
        ddlib.load(folder / "nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(ArtifactError, match="no synthetic set at"):
        ddlib.load(folder / "empty")


def test_another_class_order_is_refused(tmp_path: Path) -> None:
    folder = written(synthetic(), tmp_path)
    same = ddlib.load(folder, ["cat", "dog", "emu"])
    assert ddlib.load(folder, same.set.class_order_hash).class_names == ("cat", "dog", "emu")
    with pytest.raises(ValueError, match=r"class 1 is 'dog' in the set and 'emu' in your class order"):
        ddlib.load(folder, class_order=["cat", "emu", "dog"])
    with pytest.raises(ValueError, match=r"class 2 is 'emu' in the set and missing .*\(3 and 2 classes\)"):
        ddlib.load(folder, class_order=("cat", "dog"))
    with pytest.raises(ValueError, match=r"class 3 is missing in the set and 'fox' in your"):
        ddlib.load(folder, class_order=["cat", "dog", "emu", "fox"])
    with pytest.raises(ValueError, match=r"numbers its classes cat, dog, emu.*yours is 000000000000\.\."):
        ddlib.load(folder, class_order="0" * 64)
    with pytest.raises(ValueError, match="64 hex digits"):
        ddlib.load(folder, class_order="cat")


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_folder_holds_the_same_images(tmp_path: Path, channels: int, stored: bool) -> None:
    made = synthetic(factor=2, channels=channels)
    images, labels = (made.images, made.labels) if stored else made.decode()
    assert export(made, "imagefolder", tmp_path / "out", stored) == len(labels)
    read = ImageFolder(str(tmp_path / "out"))
    assert read.classes == ["00000_cat", "00001_dog", "00002_emu"]
    order = torch.argsort(labels, stable=True)
    assert read.targets == labels[order].tolist()
    want = images[order].mul(255).round().byte()
    for (picture, _), pixels in zip(read, want, strict=True):
        got = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        assert torch.equal(got[:channels], pixels)
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert about["class_names"] == ["cat", "dog", "emu"]
    assert about["decoded"] is not stored


def test_npz_holds_the_same_images_without_pickle(tmp_path: Path) -> None:
    made = synthetic(factor=2, channels=3)
    export(made, "npz", tmp_path / "a")
    export(made, "npz", tmp_path / "b")
    images, labels = made.decode()
    with np.load(tmp_path / "a" / "set.npz", allow_pickle=False) as found:
        assert sorted(found.files) == ["class_names", "images", "labels"]
        assert found["images"].dtype == np.uint8
        assert np.abs(found["images"] / 255 - images.permute(0, 2, 3, 1).numpy()).max() <= 0.5 / 255 + 1e-6
        assert found["labels"].tolist() == labels.tolist()
        assert found["class_names"].dtype.kind == "U"
        assert found["class_names"].tolist() == ["cat", "dog", "emu"]
    assert (tmp_path / "a" / "set.npz").read_bytes() == (tmp_path / "b" / "set.npz").read_bytes()


@pytest.mark.parametrize("kind", ["imagefolder", "npz"])
def test_hostile_class_names_stay_in_the_folder(tmp_path: Path, kind: str) -> None:
    labels = torch.arange(len(HOSTILE))
    images = torch.rand(len(HOSTILE), 1, 6, 6)
    made = synthetic(images=images, labels=labels, stage=labels * 0, class_names=HOSTILE)
    output = tmp_path / "in" / "out"
    export(open_set(written(made, tmp_path / "set")), kind, output)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(output)]
    assert {path.name for path in files} == {"card.json", "set.safetensors"}
    assert json.loads((output / "about.json").read_text())["class_names"] == list(HOSTILE)
    if kind == "imagefolder":
        assert [target for _, target in ImageFolder(str(output))] == labels.tolist()
    for label, name in enumerate(HOSTILE):
        folder = class_folder(label, name)
        assert os.path.basename(folder) == folder
        assert len(folder) < 80
        assert folder.isascii()
        assert not set(folder) & set("./\\ ;$\0\n")


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, output = synthetic(), tmp_path / "out"
    output.mkdir()
    (output / "mine").write_text("kept")
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        export(made, "npz", output)
    assert (output / "mine").read_text() == "kept"
    (output / "mine").unlink()
    monkeypatch.setattr("ddlib.sets.export.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(made, "imagefolder", output)
    assert list(tmp_path.iterdir()) == [output]
    assert not list(output.iterdir())
    monkeypatch.undo()
    export(made, "imagefolder", output)
    assert len(list(output.rglob("*.png"))) == 6
    with pytest.raises(ValueError, match="as imagefolder or npz, not 'tar'"):
        export(made, "tar", tmp_path / "other")
    with pytest.raises(ValueError, match="has 1 or 3 channels, these images have 2"):
        export(synthetic(channels=2), "imagefolder", tmp_path / "other")
    assert list(tmp_path.iterdir()) == [output]


def test_the_job_exports_and_explains(tmp_path: Path) -> None:
    folder = written(synthetic(factor=2), tmp_path / "set")

    def job(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ddlib.jobs.export", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)

    done = job(folder, "--to", "npz", "--output", tmp_path / "out", "--stored")
    assert done.returncode == 0, done.stderr
    assert "6 images in" in done.stderr
    with np.load(tmp_path / "out" / "set.npz", allow_pickle=False) as found:
        assert found["images"].shape == (6, 6, 6, 1)
    again = job(folder / "card.json", "--to", "npz", "--output", tmp_path / "out")
    assert again.returncode == 1
    assert again.stderr.startswith("error: ")
    assert "not an empty folder" in again.stderr
