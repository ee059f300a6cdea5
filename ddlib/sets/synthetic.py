"""The synthetic set: images as stored, with all that is needed to use them, in one file that describes itself.

What users of other releases ask for most is which space the pixels are in and which class is which: a set here carries
its pixel space, normalisation, class names and order, multi-formation factor and labels, and decodes itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddlib.artifacts import ArtifactError, load_tensors, save_tensors
from ddlib.data.real import class_order_hash
from ddlib.sets.packing import decode, decode_labels

FORMAT = 1
SPACES = ("unit", "normalised", "whitened")


@dataclass(frozen=True, eq=False)
class SyntheticSet:
    """A distilled data set.

    `images` float32 [N, C, H, W] as stored; `labels` int64 [N]; `stage` int64 [N]; `soft` [N, classes] or None;
    `factor`: a stored image decodes to factor^2; `step_size` [stages] or None (learned step size); `space`: unit
    (shares 0-1), normalised or whitened; `mean`, `std` per channel; `class_names` in label order; `name` of the data
    set.
    """

    images: Tensor
    labels: Tensor
    stage: Tensor
    factor: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    name: str
    space: str = "unit"
    soft: Tensor | None = None
    step_size: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or not len(self.images) == len(self.labels) == len(self.stage):
            raise ValueError(
                f"a synthetic set needs as many images [N,C,H,W], labels and stages, not {list(self.images.shape)}, "
                f"{list(self.labels.shape)} and {list(self.stage.shape)}"
            )
        if self.space not in SPACES:
            raise ValueError(f"pixel space is one of {', '.join(SPACES)}, not {self.space!r}")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.class_names):
            raise ValueError(f"labels must lie in 0-{len(self.class_names) - 1}, the classes of {self.name}")

    @property
    def class_order_hash(self) -> str:
        """SHA-256 of the class names in order: a set and test data with another order don't mix."""
        return class_order_hash(self.class_names)

    @property
    def image_bytes(self) -> int:
        """Bytes of the images as stored."""
        return self.images.numel() * self.images.element_size()

    def decode(self) -> tuple[Tensor, Tensor]:
        """(images [N * factor^2, C, H, W], labels): what students train on, clipped to 0-1 in the unit space.

        **Differs**: the official code trains on pixels a little outside 0-1 (images are clamped at the beginning of
        each outer iteration, not after the last); a set is clamped when it is made, so that what is stored can be
        shown.
        """
        return decode(self.images, self.factor), decode_labels(self.labels, self.factor)

    def upto(self, stage: int) -> SyntheticSet:
        """The images of stages 0, ..., `stage`. ValueError if there is no such stage."""
        if stage not in self.stage:
            raise ValueError(f"this set of {self.name} has no stage {stage}: it has {sorted(set(self.stage.tolist()))}")
        return self._take(torch.nonzero(self.stage <= stage).flatten())

    def split(self, ipc: int) -> SyntheticSet:
        """The first `ipc` images of each class. ValueError where a class has fewer."""
        rank = torch.zeros_like(self.labels)
        for label in sorted(set(self.labels.tolist())):
            of_class = self.labels == label
            there = int(of_class.sum())
            if not 1 <= ipc <= there:
                raise ValueError(
                    f"{ipc} images of each class were asked for; class {label} ({self.class_names[label]}) of this set "
                    f"has {there}"
                )
            rank[of_class] = torch.arange(there)
        return self._take(torch.nonzero(rank < ipc).flatten())

    def _take(self, index: Tensor) -> SyntheticSet:
        soft = None if self.soft is None else self.soft[index]
        parts = {"images": self.images[index], "labels": self.labels[index], "stage": self.stage[index], "soft": soft}
        return dataclasses.replace(self, **parts)  # type: ignore[arg-type]

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name (those it has)."""
        named = {name: getattr(self, name) for name in ("images", "labels", "stage", "soft", "step_size")}
        return {name: value for name, value in named.items() if value is not None}

    def facts(self) -> dict[str, Any]:
        """Its other fields as JSON."""
        return {
            "format": FORMAT,
            "factor": self.factor,
            "space": self.space,
            "mean": list(self.mean),
            "std": list(self.std),
            "class_names": list(self.class_names),
            "class_order_hash": self.class_order_hash,
            "name": self.name,
        }

    def save(self, path: str | Path) -> str:
        """Write one safetensors file; return its SHA-256. Equal sets give equal bytes."""
        return save_tensors(path, self.tensors(), self.facts())

    @classmethod
    def load(cls, path: str | Path, sha256: str | None = None) -> SyntheticSet:
        """Read what :meth:`save` wrote."""
        tensors, facts = load_tensors(path, sha256)
        if facts.get("format") != FORMAT:
            raise ArtifactError(f"{path} is no synthetic set of format {FORMAT} (format {facts.get('format')!r})")
        return cls.of(tensors, facts)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> SyntheticSet:
        """From tensors and facts."""
        names = tuple(facts["class_names"])
        if class_order_hash(names) != facts["class_order_hash"]:
            raise ArtifactError(f"a synthetic set of {facts['name']}: its class names don't give its class_order_hash")
        kept = {key: facts[key] for key in ("factor", "space", "name")}
        held: dict[str, Any] = {**tensors, **kept}
        return cls(**held, mean=tuple(facts["mean"]), std=tuple(facts["std"]), class_names=names)


def merge(parts: Sequence[SyntheticSet]) -> SyntheticSet:
    """Parts (class phases, then stages) as one set: stage by stage, within a stage class by class.

    ValueError where parts differ in anything but their images, or two phases hold the same class in a stage.
    """
    if not parts:
        raise ValueError("there is nothing to merge")
    first = parts[0].facts()
    for part in parts[1:]:
        if differing := [key for key, value in part.facts().items() if value != first[key]]:
            raise ValueError(f"parts of different sets cannot be merged: they differ in {', '.join(differing)}")
        if other := part.tensors().keys() ^ parts[0].tensors().keys():
            raise ValueError(f"parts cannot be merged where only some have {', '.join(sorted(other))}")
    seen: set[tuple[int, int]] = set()
    for part in parts:
        own = {(int(s), int(c)) for s, c in zip(part.stage, part.labels, strict=True)}
        if twice := seen & own:
            raise ValueError(f"two parts hold the same class of the same stage (stage, class): {sorted(twice)[:3]}")
        seen |= own
    names = parts[0].tensors()
    joined = {name: torch.cat([part.tensors()[name] for part in parts]) for name in names if name != "step_size"}
    order = torch.argsort(joined["stage"] * len(parts[0].class_names) + joined["labels"], stable=True)
    tensors = {name: value[order] for name, value in joined.items()}
    if "step_size" in names:
        tensors["step_size"] = names["step_size"]
    return SyntheticSet.of(tensors, first)
