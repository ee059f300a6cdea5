"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009), read by
torchvision.

60,000 colour images of 32x32 pixels, 50,000 of them for training. Every file's MD5 is checked before it is opened (the
archives are pickles: nothing unknown is ever unpickled). `order: official` is the archive of the authors' page; `order:
reordered` is a copy of CIFAR-100 with the same images in another order, for places where the original cannot be had:
index lists published for the original do not apply to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddlib.data.real import RealData
from ddlib.data.source import part, verify

CLASSES = {"cifar10": 10, "cifar100": 100}
REORDERED = {"cifar100": {"train": "a981afb0a24a04c5241e0e565e35e848", "test": "3c4211a1b6b1b8bd96878c5aa30b1878"}}
"""MD5 of the files of the reordered copies."""


def load(spec: Mapping[str, Any], machine: Mapping[str, Any]) -> tuple[RealData, RealData]:
    """Read `spec["source"]` (cifar10 or cifar100) from `machine["data_dir"]`: (train, test), uint8 [N, 3, 32, 32], in
    file order.

    Uses the unpacked folder there; else the archive there; else downloads it, but only if `machine["download"]` is
    true. ValueError names the file that is missing or damaged and says how to get it, or what of `spec` does not fit.
    """
    source, order = str(spec["source"]), str(spec["order"])
    if source not in CLASSES:
        raise ValueError(f"this reader knows {' and '.join(CLASSES)}, not {source!r}")
    orders = ("official", "reordered") if source in REORDERED else ("official",)
    verify(spec, classes=CLASSES[source], size=32, channels=3, orders=orders)
    if not machine.get("data_dir"):
        raise ValueError(f"machine.data_dir is not set: name the folder with (or for) the files of {source}")
    root = Path(machine["data_dir"]).expanduser()
    reader = _reader(source, order)
    if _problem(reader, root, source, order) and order == "official":
        _unpack(reader, root, source, bool(machine.get("download")))
    if problem := _problem(reader, root, source, order):
        raise ValueError(f"{problem} {_remedy(reader, root, order)}")
    train, test = (_read(reader, root, train=wanted) for wanted in (True, False))
    if train[2] != test[2]:
        raise ValueError(f"{source}: train and test name different classes")
    return part(spec, *train, 255.0, train=True), part(spec, *test, 255.0, train=False)


def _reader(source: str, order: str) -> Any:
    """The torchvision class that checks and reads these files."""
    from torchvision import datasets

    official: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[source]
    if order == "official":
        return official
    known = REORDERED[source]
    lists = {key: [[name, known[name]] for name, _ in getattr(official, key)] for key in ("train_list", "test_list")}
    return type(f"Reordered{official.__name__}", (official,), lists)


def _files(reader: Any) -> list[tuple[str, str]]:
    meta = (reader.meta["filename"], reader.meta["md5"])
    return [(name, md5) for name, md5 in reader.train_list + reader.test_list] + [meta]


def _md5(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _problem(reader: Any, root: Path, source: str, order: str) -> str:
    """What is missing or damaged in the unpacked files; empty if nothing is. ValueError if they are the copy of the
    other order.
    """
    other = "reordered" if order == "official" else "official"
    others = dict(_files(_reader(source, other))) if source in REORDERED else {}
    for name, expected in _files(reader):
        path = root / reader.base_folder / name
        if not path.is_file():
            return f"{source}: {path} is missing."
        found = _md5(path)
        if found not in (expected, others.get(name)):
            return f"{source}: {path} is damaged or unknown (md5 {found}, expected {expected})."
        if found != expected:
            raise ValueError(
                f"{source}: {path} is the {other} copy, the configuration says order: {order}. "
                f"Set order: {other} to use it, or move it away and put the {order} one there."
            )
    return ""


def _remedy(reader: Any, root: Path, order: str) -> str:
    if order == "reordered":
        return f"Put the reordered copy into {root / reader.base_folder}, or get the original and set order: official."
    files = f"{reader.filename} (or its unpacked folder {reader.base_folder})"
    return f"Set machine: download: true, or put {files} into {root}."


def _unpack(reader: Any, root: Path, source: str, download: bool) -> None:
    """Unpack the archive in `root` (checked by its MD5), downloading it first if that is allowed; do nothing if
    neither can be.
    """
    archive = root / reader.filename
    intact = archive.is_file() and _md5(archive) == reader.tgz_md5
    if archive.is_file() and not intact and not download:
        raise ValueError(
            f"{source}: {archive} is damaged or unknown (md5 {_md5(archive)}, expected {reader.tgz_md5}). "
            "Delete it and copy it again, or set machine: download: true."
        )
    if not intact and not download:
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        reader(str(root), train=False, download=True)
    except (OSError, RuntimeError) as error:
        doing = f"unpacking {archive}" if intact else f"downloading {reader.url} into {root}"
        raise ValueError(
            f"{source}: {doing} failed: {error}. You can put {reader.filename} into {root} yourself."
        ) from None


def _read(reader: Any, root: Path, *, train: bool) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """(images uint8 [N, 3, 32, 32], labels int64 [N], class names); torchvision checks every MD5 once more."""
    data = reader(str(root), train=train, download=False)
    return data.data.transpose(0, 3, 1, 2), np.asarray(data.targets, dtype=np.int64), tuple(data.classes)
