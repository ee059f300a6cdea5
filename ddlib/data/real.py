"""Real images by class: bytes as they came, their labels, the names and order of the classes, the normalisation.

Images stay uint8 in the order of the source, so that index lists published for a data set apply and 60,000 CIFAR images
fit on any device. A whitened data set (ddlib/data/whitening.py) holds its pixels besides, as they were computed once
when it was prepared: for CIFAR-10 they take 0.7 GB of disk, a second to read, and are the same on every device, where
computing them would take a CPU core 13 s in every job, or more than that within one epoch. Images of a folder
(ddlib/data/folder.py) are memory-mapped, and stay on the host where they are more than the machine's `resident_mb`.
Train and test are separate files; only `evaluate` ever reads the test file. `heldout` marks an optional slice of train
that is kept apart for choices (0 in the papers' presets).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddlib.artifacts import ArtifactError, digest, load_file, read_manifest, save_tensors, write_manifest
from ddlib.data.host import HostImages, of_folder
from ddlib.streams import Streams


@dataclass(frozen=True, eq=False)
class RealData:
    """One part (train or test) of a data set.

    `images` uint8 [N, C, H, W], `labels` int64 [N], `heldout` bool [N]; a pixel is images / `scale`, a share 0-1
    (scale: 255, or 16 for the digits); `mean` and `std` per channel, as shares 0-1; `flip`: may be mirrored when
    augmented; `class_names`: by label. `images` may stay on the host (:class:`HostImages`) while the rest is on a
    device; :meth:`pixels` are always where `labels` are. Whitened data also have `whitened`, their pixels float32 [N,
    C, H, W], and `whitening`, the digest of the fit (that of the training part); then mean is 0 and std 1.
    """

    images: Tensor | HostImages
    labels: Tensor
    class_names: tuple[str, ...]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    name: str
    heldout: Tensor
    whitened: Tensor | None = None
    whitening: str | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise ValueError(
                f"images of {self.name} must be uint8 [N,C,H,W], not {self.images.dtype} {list(self.images.shape)}"
            )
        if not len(self.images) == len(self.labels) == len(self.heldout):
            raise ValueError(
                f"{self.name}: {len(self.images)} images, {len(self.labels)} labels, {len(self.heldout)} held-out marks"
            )
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"{self.name} has {self.channels} channels, mean has {len(self.mean)} values and std {len(self.std)}: "
                "give one per channel"
            )
        if (self.whitened is None) is not (self.whitening is None):
            raise ValueError(f"{self.name}: whitened pixels and the digest of their whitening go together")
        if self.whitened is not None and self.whitened.shape != self.images.shape:
            raise ValueError(
                f"{self.name}: whitened pixels are {list(self.whitened.shape)}, the images {list(self.images.shape)}"
            )

    @property
    def space(self) -> str:
        """Which space :meth:`pixels` are in: unit (shares 0-1) or whitened (about 0, without bounds)."""
        return "unit" if self.whitened is None else "whitened"

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """Colour channels C."""
        return self.images.shape[1]

    @property
    def height(self) -> int:
        """Rows H, in pixels."""
        return self.images.shape[2]

    @property
    def width(self) -> int:
        """Columns W, in pixels."""
        return self.images.shape[3]

    @property
    def class_order_hash(self) -> str:
        """SHA-256 of the canonical JSON list of the class names in order: sets and data with another order don't
        mix.
        """
        return class_order_hash(self.class_names)

    @cached_property
    def _normalisation(self) -> tuple[Tensor, Tensor]:
        shape = (1, self.channels, 1, 1)
        mean, std = (torch.tensor(v, dtype=torch.float64).reshape(shape) for v in (self.mean, self.std))
        return mean.to(self.labels.device), std.to(self.labels.device)

    def to(self, device: str | torch.device) -> RealData:
        """The same data on `device` (but for images that stay on the host)."""
        return self._each(lambda values: values if isinstance(values, HostImages) else values.to(device))

    def pixels(self, index: Tensor | np.ndarray | slice) -> Tensor:
        """Images at `index` (int64 [n], or a slice) as float32 [n, C, H, W], on the device of `labels`: shares 0-1, or
        whitened (see `space`)."""
        if isinstance(index, np.ndarray):
            index = torch.from_numpy(index)
        if isinstance(index, Tensor):
            index = index.to(self.images.device)
        if self.whitened is not None:
            return self.whitened[index]
        return self.images[index].to(self.labels.device).to(torch.float32) / self.scale

    def normalise(self, x: Tensor) -> Tensor:
        """Pixels [n, C, H, W] to (x - mean) / std, in the dtype and on the device of `x`."""
        mean, std = self._normalisation
        return (x - mean.to(x)) / std.to(x)

    def of_class(self, label: int) -> Tensor:
        """int64 indices [n] of the images of class `label`, in the order of the source."""
        return torch.nonzero(self.labels == label).flatten()

    def fit(self) -> RealData:
        """What training may see: without the held-out images."""
        return self if not bool(self.heldout.any()) else self._take(~self.heldout)

    def between(self, counts: Tensor, low: int, high: int | None) -> RealData:
        """The images whose count (int64 [N]) is at least `low` and, unless it is None, below `high`. ValueError where a
        class has none."""
        if len(counts) != len(self.labels):
            raise ValueError(
                f"{len(counts)} counts were given for the {len(self.labels)} training images of {self.name}"
            )
        keep = counts.to(self.labels.device) >= low
        if high is not None:
            keep &= counts.to(self.labels.device) < high
        there = torch.bincount(self.labels[keep], minlength=self.classes).tolist()
        if empty := [name for name, many in zip(self.class_names, there, strict=True) if not many]:
            asked = f"{low} times or more" if high is None else f"{low} to {high - 1} times"
            raise ValueError(
                f"no image of {len(empty)} classes of {self.name} ({empty[0]}, ..) was forgotten {asked} (most: "
                f"{int(counts.max())}). Lower the interval of `discard`, train the member that counts longer, or take "
                "fewer stages."
            )
        return self._take(keep)

    def heldout_part(self) -> RealData:
        """The held-out images alone (none unless the data set's `heldout` is set)."""
        return self._take(self.heldout)

    def _take(self, keep: Tensor) -> RealData:
        return self._each(lambda values: values.take(keep) if isinstance(values, HostImages) else values[keep])

    def _each(self, change: Callable[[Tensor | HostImages], Tensor | HostImages]) -> RealData:
        held = {name: getattr(self, name) for name in ("images", "labels", "heldout", "whitened")}
        changed: dict[str, Any] = {name: change(values) for name, values in held.items() if values is not None}
        return dataclasses.replace(self, **changed)

    def tensors(self) -> dict[str, Tensor]:
        """What it has of every image, by name; ValueError if its images stay on the host."""
        if isinstance(self.images, HostImages):
            raise ValueError(f"the images of {self.name} stay on the host: they are no tensor")
        held = {"images": self.images, "labels": self.labels, "heldout": self.heldout}
        return held if self.whitened is None else {**held, "whitened": self.whitened}

    def save(self, folder: str | Path, part: str, spec: Mapping[str, Any], whitening: str | Path | None = None) -> Path:
        """Write {part}.safetensors and the manifest {part}.json (kind "data") in `folder`; return the manifest's
        path. `whitening`: the file of the fit, which the manifest of whitened data names too.
        """
        if part not in ("train", "test"):
            raise ValueError(f"part of a data set must be train or test, not {part!r}")
        folder = Path(folder)
        tensors = folder / f"{part}.safetensors"
        save_tensors(tensors, self.tensors(), {"part": part})
        files = {"tensors": tensors} if whitening is None else {"tensors": tensors, "whitening": Path(whitening)}
        manifest = folder / f"{part}.json"
        write_manifest(manifest, "data", spec, files, self.facts())
        return manifest

    def facts(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {
            "name": self.name,
            "count": len(self.images),
            "heldout": int(self.heldout.sum()),
            "per_class": torch.bincount(self.labels, minlength=self.classes).tolist(),
            "class_names": list(self.class_names),
            "class_order_hash": self.class_order_hash,
            "shape": list(self.images.shape),
            "scale": self.scale,
            "mean": list(self.mean),
            "std": list(self.std),
            "flip": self.flip,
            **({"whitening": self.whitening} if self.whitening else {}),
        }

    @classmethod
    def load(
        cls,
        manifest_path: str | Path,
        device: str | torch.device = "cpu",
        machine: Mapping[str, Any] | None = None,
    ) -> RealData:
        """Read what `save`, or ddlib/data/folder.py, wrote (hash checked). ArtifactError if the tensors are not the
        manifest's.

        `machine`: its `resident_mb` says how many megabytes of images may be moved to `device`; data sets with
        `cache: false` also need `data_dir`, as their images are decoded from it.
        """
        manifest = read_manifest(manifest_path, "data")
        tensors: dict[str, Any] = dict(load_file(manifest_path, manifest, "tensors")[0])
        if "images" not in tensors:
            tensors["images"] = of_folder(Path(manifest_path), manifest, tensors["labels"], machine or {})
        facts = manifest["result"]
        data = cls(
            class_names=tuple(facts["class_names"]),
            scale=float(facts["scale"]),
            mean=tuple(facts["mean"]),
            std=tuple(facts["std"]),
            flip=bool(facts["flip"]),
            name=facts["name"],
            whitening=facts.get("whitening"),
            **tensors,
        )
        if data.class_order_hash != facts["class_order_hash"]:
            raise ArtifactError(
                f"{manifest_path} was edited: its class names don't give its class_order_hash. Delete it."
            )
        return data.to(device)


def class_order_hash(names: tuple[str, ...] | list[str]) -> str:
    """SHA-256 (hex) of the canonical JSON list of class names in label order."""
    return digest(list(names))


def stratified(labels: np.ndarray, share: float, purpose: str) -> np.ndarray:
    """Mark `share` (0 <= share < 1) of every class, always the same ones: bool [N].

    Drawn class by class from the fixed stream (seed 0, scope "data", `purpose`, class); a class of n gives round(share
    * n).
    """
    if not 0 <= share < 1:
        raise ValueError(f"{purpose}: the share {share} must be at least 0 and below 1")
    marks = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels) if share > 0 else ():
        places = np.flatnonzero(labels == label)
        many = round(share * len(places))
        if not 0 < many < len(places):
            raise ValueError(
                f"{purpose}: a share of {share} of the {len(places)} images of class {label} is {many} images"
            )
        marks[Streams(0, "data").at(purpose, int(label)).permutation(places)[:many]] = True
    return marks
