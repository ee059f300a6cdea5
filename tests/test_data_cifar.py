"""The CIFAR readers on tiny archives in the real layout; on the real files where DDLIB_DATA_DIR names them."""

from __future__ import annotations

import hashlib
import os
import pickle  # CIFAR's own format: tests make tiny ones; ddlib checks the MD5 before torchvision opens any
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from ddlib.data import cifar


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
    """A data_dir with CIFAR-100 in its layout; official files beside as *.official, reordered ones in place."""
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
    with pytest.raises(
        ValueError, match=r"data_batch_3 is damaged or unknown .*download: true, or put cifar-10-python"
    ):
        cifar.load(cifar_spec(), machine)
    damaged.unlink()
    with pytest.raises(ValueError, match=r"data_batch_3 is missing\. Set machine: download: true"):
        cifar.load(cifar_spec(), machine)
    with pytest.raises(ValueError, match=r"machine\.data_dir is not set"):
        cifar.load(cifar_spec(), {"data_dir": ""})


class Payload:
    """A pickle that leaves a file when it is opened."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_file_that_is_not_the_published_one_is_never_opened(fake10: Path, tmp_path: Path, name: str) -> None:
    hostile = pickle.dumps(Payload(tmp_path / "canary"))
    pickle.loads(hostile)
    (tmp_path / "canary").unlink()  # it works
    (fake10 / "cifar-10-batches-py" / name).write_bytes(hostile)
    with pytest.raises(ValueError, match="is damaged or unknown"):
        cifar.load(cifar_spec(), {"data_dir": str(fake10), "download": False})
    assert not (tmp_path / "canary").exists()


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
    with pytest.raises(
        ValueError, match=r"downloading http://127\.0\.0\.1:9/.* failed: .*put cifar-10-python\.tar\.gz"
    ):
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
    (folder / "train").unlink()
    with pytest.raises(ValueError, match=r"train is missing\. Put the reordered copy into .* or get the original"):
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


@pytest.mark.skipif(not os.environ.get("DDLIB_DATA_DIR"), reason="needs the real CIFAR files: DDLIB_DATA_DIR")
def test_the_real_cifar10_has_its_published_mean() -> None:
    train, test = cifar.load(cifar_spec(), {"data_dir": os.environ["DDLIB_DATA_DIR"]})
    assert torch.bincount(train.labels).tolist() == [5000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    means = [float(train.images[:, c].double().mean()) / 255 for c in range(3)]
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    assert train.class_names[:2] == ("airplane", "automobile")
