"""Image folders: an index of their files, and their images in one working size.

For any folder of class folders (docs/your-own-data.md), and for ImageNet and its published parts, ImageNette, ImageWoof
and Tiny-ImageNet. The user's folder is only read. Images are decoded in threads, a handful at a time, and go straight
to the file of working-size images (ddlib/data/cache.py), so that memory does not grow with the data set.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddlib.artifacts import save_tensors, write_manifest
from ddlib.data import cache
from ddlib.data.decode import Unreadable, decode
from ddlib.data.index import Indexed, read_bytes, write_index
from ddlib.data.layout import File, Found, find, root_of
from ddlib.data.real import RealData, stratified
from ddlib.data.resize import working

AT_ONCE = 16  # images in memory a thread
SAY_SECONDS = 10.0


@dataclass
class _Part:
    """What became of the files of train or test: those indexed, those skipped, and the colours of each image (sums over
    its pixels and over their squares, 2 lists of 3; numbers, as kept tensors would scatter the heap)."""

    index: list[Indexed] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    colours: list[list[list[int]]] = field(default_factory=list)

    @property
    def labels(self) -> np.ndarray:
        return np.array([file.label for file in self.index], dtype=np.int64)


def prepare(
    told: Mapping[str, Any], machine: Mapping[str, Any], train: Path, test: Path, say: Callable[[str], None] = print
) -> None:
    """Write the manifests `train` and `test` of the data set `told["dataset"]`, with what they name beside them.

    `machine`: data_dir, threads, cache_gb. ValueError names the file or folder that is not as it should be and says
    what to do; `skip_corrupt` of the data set leaves out (and counts) files that cannot be decoded.
    """
    spec = told["dataset"]
    root = root_of(spec, machine)
    found = find(spec, root)
    parts = _split(spec, found)
    say(f"{root}: {len(parts[0])} images to train on, {len(parts[1])} to test on, of {len(found.classes)} classes")
    size, keep = int(spec["size"]), bool(spec.get("cache", True))
    cache.check_room(train.parent, keep * sum(map(len, parts)) * 3 * size * size, float(machine["cache_gb"]))
    normalisation: tuple[list[float], list[float]] | None = None
    for files, manifest in zip(parts, (train, test), strict=True):
        part = _read(spec, root, files, found, manifest, int(machine["threads"]), say)
        share = float(spec["heldout"]) if manifest is train else 0.0
        heldout = torch.from_numpy(stratified(part.labels, share, "heldout"))
        if normalisation is None:
            normalisation = _normalisation(spec, part, heldout)
        _write(told, found, part, heldout, normalisation, manifest)
        if part.skipped:
            say(f"{manifest.stem}: {len(part.skipped)} files skipped, such as {part.skipped[0]}")


def _split(spec: Mapping[str, Any], found: Found) -> tuple[Sequence[File], Sequence[File]]:
    """The files of train and test: those found, or a share of each class of train, always the same."""
    if found.test is not None:
        return found.train, found.test
    marks = stratified(np.array([label for _, label in found.train]), float(spec["test_share"]), "test")
    apart = list(zip(found.train, marks, strict=True))
    return [file for file, mark in apart if not mark], [file for file, mark in apart if mark]


def _read(
    spec: Mapping[str, Any],
    root: Path,
    files: Sequence[File],
    found: Found,
    manifest: Path,
    threads: int,
    say: Callable[[str], None],
) -> _Part:
    """Decode the files of a part into its index and (`cache`) its working-size images."""
    size, name = int(spec["size"]), manifest.stem
    shorter = int(spec.get("test_resize", size)) if name == "test" else size
    part, path, began, said = _Part(), cache.place(manifest.parent, name), time.monotonic(), time.monotonic()
    keep = bool(spec.get("cache", True))
    if not keep:
        path.unlink(missing_ok=True)
    with cache.writer(path, (3, size, size)) if keep else nullcontext() as images:
        for done, (file, read) in enumerate(_decoded(root, files, size, shorter, threads), 1):
            if isinstance(read, Unreadable):
                _skip(spec, part, file, read)
            else:
                part.index.append(Indexed(file[0], *read.facts[:2], file[1], *read.facts[2:], found.wnids[file[1]]))
                part.colours.append(read.colours)
                if images is not None:
                    images.add(read.image)
            if time.monotonic() - said > SAY_SECONDS:
                said = time.monotonic()
                say(f"{name}: {done} of {len(files)} images, {done / (said - began):.0f} a second")
    there = np.bincount(part.labels, minlength=len(found.classes)) if part.index else np.zeros(1)
    if not there.all():
        raise ValueError(f"{name}: every image of class {found.classes[int(there.argmin())]} is unreadable")
    return part


@dataclass(frozen=True)
class _Image:
    """An image in its working size, (bytes, sha256, native width, native height), and its colours."""

    image: Tensor
    facts: tuple[int, str, int, int]
    colours: list[list[int]]


def _decoded(
    root: Path, files: Sequence[File], size: int, shorter: int, threads: int
) -> Iterator[tuple[File, _Image | Unreadable]]:
    """The files in order, each with its image or why it has none; a few are read ahead."""

    def one(file: File) -> _Image | Unreadable:
        data = read_bytes(root, file[0])
        try:
            native = decode(data, str(root / file[0]))
        except Unreadable as error:
            return error
        image = working(native, size, shorter)
        wide = image.flatten(1).long()
        facts = (len(data), hashlib.sha256(data).hexdigest(), native.shape[2], native.shape[1])
        return _Image(image, facts, [wide.sum(1).tolist(), (wide * wide).sum(1).tolist()])

    with ThreadPoolExecutor(max(1, threads)) as pool:
        step = AT_ONCE * max(1, threads)
        for some in (files[first : first + step] for first in range(0, len(files), step)):
            yield from zip(some, pool.map(one, some), strict=True)


def _skip(spec: Mapping[str, Any], part: _Part, file: File, error: Unreadable) -> None:
    if not spec.get("skip_corrupt"):
        raise ValueError(
            f"{error}. Replace or delete it; or set the data set's `skip_corrupt: true`, which leaves such files out "
            "and counts them"
        ) from None
    part.skipped.append(file[0])


def _normalisation(spec: Mapping[str, Any], part: _Part, heldout: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, as shares: those of the specification, or (`normalisation: own`) of the
    working-size training images that are not held out."""
    if spec.get("normalisation") != "own":
        return list(spec["mean"]), list(spec["std"])
    sums, squares = torch.tensor(part.colours)[~heldout].sum(0).double()
    count = int((~heldout).sum()) * int(spec["size"]) ** 2
    mean = sums / count
    std = (squares / count - mean**2).clamp_min(0).sqrt()
    if not bool((std > 0).all()):
        raise ValueError("normalisation: own: all training images have one and the same colour. Set imagenet instead")
    return [round(float(v) / 255, 6) for v in mean], [round(float(v) / 255, 6) for v in std]


def _write(
    told: Mapping[str, Any],
    found: Found,
    part: _Part,
    heldout: Tensor,
    normalisation: tuple[list[float], list[float]],
    manifest: Path,
) -> None:
    """The manifest of a part and the files it names."""
    spec, name = told["dataset"], manifest.stem
    labels = torch.from_numpy(part.labels)
    shape = [len(labels), 3, int(spec["size"]), int(spec["size"])]
    files = {"tensors": manifest.parent / f"{name}.safetensors", "index": manifest.parent / f"index_{name}.csv"}
    save_tensors(files["tensors"], {"labels": labels, "heldout": heldout}, {"part": name})
    write_index(files["index"], part.index)
    if bool(spec.get("cache", True)):
        files["images"] = cache.place(manifest.parent, name)
    data = RealData(
        images=torch.zeros(1, dtype=torch.uint8).expand(shape),  # described, not looked at
        labels=labels,
        class_names=found.classes,
        scale=255.0,
        mean=tuple(normalisation[0]),
        std=tuple(normalisation[1]),
        flip=bool(spec["flip"]),
        name=str(spec["source"]),
        heldout=heldout,
    )
    facts = {"tested": found.tested or f"a share of {spec['test_share']}", "skipped": part.skipped}
    write_manifest(manifest, "data", told, files, {**data.facts(), **facts})
