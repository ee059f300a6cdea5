"""Real data: the split of the digits, held-out slices, pixels, saving and loading."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddlib import artifacts, registry
from ddlib.data import digits
from ddlib.data.real import RealData, class_order_hash, stratified

DIGITS = {
    "source": "digits",
    "classes": 10,
    "size": 8,
    "channels": 1,
    "order": "official",
    "heldout": 0.0,
    "mean": [0.3039],
    "std": [0.3753],
    "flip": False,
}


def test_digits_split_is_stratified_fixed_and_in_source_order() -> None:
    from sklearn.datasets import load_digits

    train, test = digits.load(DIGITS, {})
    assert (train.images.shape, test.images.shape) == ((1438, 1, 8, 8), (359, 1, 8, 8))
    assert torch.bincount(test.labels).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert hashlib.sha256(train.images.numpy().tobytes()).hexdigest().startswith("6564de81c85f00d6")
    source = load_digits().images.astype(np.uint8).reshape(1797, 64)
    places = {row.tobytes(): place for place, row in enumerate(source)}  # no two scans are equal
    assert len(places) == 1797
    found = [[places[image.tobytes()] for image in part.images.numpy().reshape(-1, 64)] for part in (train, test)]
    assert all(part == sorted(part) for part in found)
    assert sorted(found[0] + found[1]) == list(range(1797))
    assert (int(train.images.max()), train.scale, train.classes, train.class_names[3]) == (16, 16.0, 10, "3")


def test_registered_normalisation_is_that_of_the_train_split() -> None:
    train, _ = digits.load(DIGITS, {})
    pixels = train.images.double() / train.scale
    facts = registry.SOURCES["digits"].facts
    assert facts["mean"] == pytest.approx([float(pixels.mean())], abs=1e-4)
    assert facts["std"] == pytest.approx([float(pixels.std(correction=0))], abs=1e-4)


def test_changed_digits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"not the known ones .* install scikit-learn again"):
        digits.load(DIGITS, {})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"classes": 9}, "digits has classes 10, the configuration says 9: set classes: 10"),
        ({"size": 28}, "digits has size 8, the configuration says 28"),
        ({"channels": 3}, "digits has channels 1"),
        ({"order": "reordered"}, "comes in the order official, the configuration says 'reordered'"),
        ({"mean": [0.1, 0.2]}, r"mean of digits must be 1 share\(s\)"),
        ({"std": [0.0]}, r"std of digits must be"),
        ({"heldout": 1.0}, "heldout: the share 1.0 must be at least 0 and below 1"),
        ({"heldout": 0.001}, r"heldout: a share of 0.001 of the \d+ images of class 0 is 0 images"),
    ],
)
def test_a_wrong_specification_is_explained(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        digits.load({**DIGITS, **change}, {})


def test_heldout_is_stratified_and_only_in_train() -> None:
    train, test = digits.load({**DIGITS, "heldout": 0.25}, {})
    apart = train.heldout_part()
    expected = [round(0.25 * n) for n in torch.bincount(train.labels).tolist()]
    assert torch.bincount(apart.labels).tolist() == expected
    assert len(train.fit().labels) == len(train.labels) - sum(expected)
    assert not test.heldout.any()
    assert not train.fit().heldout.any()
    again, _ = digits.load({**DIGITS, "heldout": 0.25}, {})
    assert torch.equal(again.heldout, train.heldout)


def test_stratified_marks_do_not_depend_on_other_classes() -> None:
    labels = np.array([0] * 10 + [1] * 20)
    both, alone = stratified(labels, 0.3, "x"), stratified(labels[:10], 0.3, "x")
    assert (both[:10] == alone).all()
    assert (both[:10].sum(), both[10:].sum()) == (3, 6)
    assert (stratified(labels, 0.3, "y") != both).any()


def test_pixels_normalise_and_classes() -> None:
    train, _ = digits.load(DIGITS, {})
    index = train.of_class(4)
    assert (train.labels[index] == 4).all()
    assert index.tolist() == sorted(index.tolist())
    x = train.pixels(index[:5])
    assert (x.dtype, x.shape) == (torch.float32, (5, 1, 8, 8))
    assert torch.equal(x * 16, train.images[index[:5]].float())
    assert torch.equal(train.pixels(index[:5].numpy()), x)
    assert torch.equal(train.pixels(slice(0, 3)), train.images[:3] / 16)
    assert torch.allclose(train.normalise(x.double()) * 0.3753 + 0.3039, x.double(), rtol=0, atol=1e-12)
    assert train.normalise(x).dtype == torch.float32


def test_save_and_load_are_equal_and_bytes_repeat(tmp_path: Path) -> None:
    spec = {**DIGITS, "heldout": 0.1}
    train, _ = digits.load(spec, {})
    path = train.save(tmp_path / "a", "train", spec)
    again = RealData.load(path)
    for name in ("images", "labels", "heldout"):
        assert torch.equal(getattr(again, name), getattr(train, name))
    for name in ("class_names", "scale", "mean", "std", "flip", "name", "class_order_hash"):
        assert getattr(again, name) == getattr(train, name)
    other = again.save(tmp_path / "b", "train", spec)
    assert other.read_bytes() == path.read_bytes()
    result = artifacts.read_manifest(path, "data")["result"]
    assert (result["count"], result["shape"]) == (1438, [1438, 1, 8, 8])
    assert sum(result["per_class"]) == 1438
    assert result["class_order_hash"] == class_order_hash([str(i) for i in range(10)])


def test_changed_tensors_are_refused(tmp_path: Path) -> None:
    _, test = digits.load(DIGITS, {})
    path = test.save(tmp_path, "test", DIGITS)
    tensors = tmp_path / "test.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x01")
    with pytest.raises(artifacts.ArtifactError, match=r"test\.safetensors is not the file its manifest describes"):
        RealData.load(path)
    with pytest.raises(ValueError, match="must be train or test, not 'valid'"):
        test.save(tmp_path, "valid", DIGITS)


def test_class_order_changes_the_hash() -> None:
    assert class_order_hash(["cat", "dog"]) != class_order_hash(["dog", "cat"])
