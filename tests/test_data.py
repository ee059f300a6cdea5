"""Real data: the digits split, the CIFAR readers on tiny archives of the real layout, saving and loading."""

from __future__ import annotations

import hashlib
import os
import pickle  # CIFAR's own format: only the test makes such files, and ddlib checks their MD5 before torchvision opens them
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from ddlib import artifacts, registry
from ddlib.data import cifar, digits
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


def cifar_spec(classes: int = 10, **changes: Any) -> dict[str, Any]:
    base = {"source": f"cifar{classes}", "classes": classes, "size": 32, "channels": 3, "order": "official"}
    return {**base, "heldout": 0.0, "mean": [0.5] * 3, "std": [0.25] * 3, "flip": True, **changes}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_batch(path: Path, labels: list[int], key: str, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    path.write_bytes(pickle.dumps({"data": images, key: labels}))


@pytest.fixture
def fake10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data_dir with CIFAR-10 in its layout, 20 images a batch, whose MD5 torchvision is told to expect."""
    folder = tmp_path / "data" / datasets.CIFAR10.base_folder
    folder.mkdir(parents=True)
    lists: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
    for key in lists:
        for number, (name, _) in enumerate(getattr(datasets.CIFAR10, key)):
            write_batch(folder / name, [9 - i % 10 for i in range(20)], "labels", number + 7 * (key == "test_list"))
            lists[key].append([name, md5(folder / name)])
        monkeypatch.setattr(datasets.CIFAR10, key, lists[key])
    names = [f"thing {i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": md5(folder / "batches.meta")})
    return tmp_path / "data"


@pytest.fixture
def fake100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data_dir with CIFAR-100 in its layout; `official` files stand beside as *.official, in place are reordered ones."""
    folder = tmp_path / "data" / datasets.CIFAR100.base_folder
    folder.mkdir(parents=True)
    known: dict[str, str] = {}
    for name, key in (("train", "train_list"), ("test", "test_list")):
        write_batch(folder / f"{name}.official", [i % 100 for i in range(200)], "fine_labels", 1)
        monkeypatch.setattr(datasets.CIFAR100, key, [[name, md5(folder / f"{name}.official")]])
        write_batch(folder / name, [99 - i % 100 for i in range(200)], "fine_labels", 2)
        known[name] = md5(folder / name)
    monkeypatch.setitem(cifar.REORDERED, "cifar100", known)
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"thing {i}" for i in range(100)]}))
    monkeypatch.setattr(datasets.CIFAR100, "meta", {**datasets.CIFAR100.meta, "md5": md5(folder / "meta")})
    return tmp_path / "data"


def test_digits_split_is_stratified_fixed_and_in_source_order() -> None:
    from sklearn.datasets import load_digits

    train, test = digits.load(DIGITS, {})
    assert (train.images.shape, test.images.shape) == ((1438, 1, 8, 8), (359, 1, 8, 8))
    assert torch.bincount(test.labels).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert hashlib.sha256(train.images.numpy().tobytes()).hexdigest().startswith("TRAINHASH")
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


def test_cifar10_is_read_in_file_order(fake10: Path) -> None:
    train, test = cifar.load(cifar_spec(), {"data_dir": str(fake10)})
    assert (train.images.shape, test.images.shape) == ((100, 3, 32, 32), (20, 3, 32, 32))
    raw = pickle.loads((fake10 / "cifar-10-batches-py" / "data_batch_2").read_bytes())["data"]
    assert (train.images[20:40].numpy() == raw.reshape(20, 3, 32, 32)).all()
    assert train.labels[:11].tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 9]
    assert train.class_names[9] == "thing 9"
    assert (train.scale, train.flip, train.name) == (255.0, True, "cifar10")


def test_cifar_damaged_and_missing_files_are_named(fake10: Path) -> None:
    machine = {"data_dir": str(fake10), "download": False}
    damaged = fake10 / "cifar-10-batches-py" / "data_batch_3"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"data_batch_3 is damaged or unknown .*download: true, or put cifar-10-python"):
        cifar.load(cifar_spec(), machine)
    damaged.unlink()
    with pytest.raises(ValueError, match=r"data_batch_3 is missing\. Set machine: download: true"):
        cifar.load(cifar_spec(), machine)
    with pytest.raises(ValueError, match=r"machine\.data_dir is not set"):
        cifar.load(cifar_spec(), {"data_dir": ""})


def test_cifar_archive_in_data_dir_is_unpacked(fake10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "elsewhere"
    root.mkdir()
    archive = root / datasets.CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(fake10 / "cifar-10-batches-py", "cifar-10-batches-py")
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz is damaged or unknown"):
        cifar.load(cifar_spec(), {"data_dir": str(root), "download": False})
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive))
    train, _ = cifar.load(cifar_spec(), {"data_dir": str(root), "download": False})
    assert len(train.labels) == 100


def test_cifar_download_is_asked_for_and_its_failure_explained(
    fake10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    machine = {"data_dir": str(tmp_path / "none"), "download": True}
    with pytest.raises(ValueError, match=r"downloading http://127\.0\.0\.1:9/.* failed: .*put cifar-10-python\.tar\.gz"):
        cifar.load(cifar_spec(), machine)


def test_cifar100_order_is_checked_and_named(fake100: Path) -> None:
    machine = {"data_dir": str(fake100), "download": True}  # even so, a good copy is never overwritten
    train, _ = cifar.load(cifar_spec(100, order="reordered"), machine)
    assert train.labels[:3].tolist() == [99, 98, 97]
    with pytest.raises(ValueError, match=r"train is the reordered copy, .*Set order: reordered to use it"):
        cifar.load(cifar_spec(100), machine)
    folder = fake100 / "cifar-100-python"
    for name in ("train", "test"):
        (folder / f"{name}.official").replace(folder / name)
    assert cifar.load(cifar_spec(100), machine)[0].labels[:3].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"train is the official copy, .*Set order: official to use it"):
        cifar.load(cifar_spec(100, order="reordered"), machine)
    (folder / "test").unlink()
    with pytest.raises(ValueError, match=r"test is missing\. Put the reordered copy into .* or get the original"):
        cifar.load(cifar_spec(100, order="reordered"), machine)


def test_cifar_classes_are_verified(fake10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="cifar10 has classes 10, the configuration says 100"):
        cifar.load(cifar_spec(classes=100, source="cifar10"), {"data_dir": str(fake10)})
    with pytest.raises(ValueError, match="order official, the configuration says 'reordered'"):
        cifar.load(cifar_spec(order="reordered"), {"data_dir": str(fake10)})
    meta = fake10 / "cifar-10-batches-py" / "batches.meta"
    meta.write_bytes(pickle.dumps({"label_names": ["only", "two"]}))
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": md5(meta)})
    with pytest.raises(ValueError, match="says classes: 10, the file names 2"):
        cifar.load(cifar_spec(), {"data_dir": str(fake10)})


@pytest.mark.skipif(not os.environ.get("DDLIB_DATA_DIR"), reason="set DDLIB_DATA_DIR to the folder of the real CIFAR files")
def test_the_real_cifar10_has_its_published_mean() -> None:
    train, test = cifar.load(cifar_spec(), {"data_dir": os.environ["DDLIB_DATA_DIR"]})
    assert torch.bincount(train.labels).tolist() == [5000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    means = [float(train.images[:, c].double().mean()) / 255 for c in range(3)]
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    assert train.class_names[:2] == ("airplane", "automobile")
