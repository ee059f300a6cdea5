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
from ddlib.data.whitening import Whitening, unwhiten, whiten
from ddlib.sets.packing import decode, decode_labels, to_shares

FORMAT = 1
SPACES = ("unit", "normalised", "whitened")
# Tensors that are not of each image.
OF_THE_SET = ("step_size", "whitening_mean", "unwhiten")


@dataclass(frozen=True, eq=False)
class SyntheticSet:
    """A distilled data set.

    `images` [N, C, H, W] as stored, float32 or, of unit space, uint8 (a share is a byte / 255); `labels` int64 [N];
    `stage` int64 [N]; `soft` [N, classes] or None; `grid`: cells a side of stitched images, which students see whole;
    `origin` int64 [N, cells] or None: the real image (row of the training part before its `fit()`) each cell shows;
    `factor`: a stored image decodes to factor^2; `step_size` [stages it has] or None (learned step size); `space`: unit
    (shares 0-1), normalised or whitened; `mean`, `std` per channel; `class_names` in label order; `name` of the data
    set. A whitened set has `whitening`, the digest of the fit, and once merged the fit itself: `whitening_mean` [D] and
    `unwhiten` [D, D] float32, D = C * H * W: a flattened image is its pixels @ unwhiten + whitening_mean.
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
    whitening: str | None = None
    whitening_mean: Tensor | None = None
    unwhiten: Tensor | None = None
    grid: int = 1
    origin: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or not len(self.images) == len(self.labels) == len(self.stage):
            raise ValueError(
                f"a synthetic set needs as many images [N,C,H,W], labels and stages, not {list(self.images.shape)}, "
                f"{list(self.labels.shape)} and {list(self.stage.shape)}"
            )
        if self.space not in SPACES:
            raise ValueError(f"pixel space is one of {', '.join(SPACES)}, not {self.space!r}")
        if self.images.dtype == torch.uint8 and self.space != "unit":
            raise ValueError(f"bytes are shares 0-1, not {self.space} pixels: store these as float32")
        if self.grid < 1 or (self.origin is not None and len(self.origin) != len(self.images)):
            raise ValueError(f"a set has a grid of at least 1 and an origin of each image, not {self.grid}")
        whitening = (self.whitening, self.whitening_mean, self.unwhiten)
        if self.space != "whitened" and any(held is not None for held in whitening):
            raise ValueError(f"a set of {self.space} pixels has no whitening")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.class_names):
            raise ValueError(f"labels must lie in 0-{len(self.class_names) - 1}, the classes of {self.name}")

    @property
    def class_order_hash(self) -> str:
        """SHA-256 of the class names in order: a set and test data with another order don't mix."""
        return class_order_hash(self.class_names)

    @property
    def pixels(self) -> Tensor:
        """The images as stored, as float32 [N, C, H, W] in the set's space."""
        return to_shares(self.images)

    @property
    def image_bytes(self) -> int:
        """Bytes of the images as stored."""
        return self.images.numel() * self.images.element_size()

    def decode(self) -> tuple[Tensor, Tensor]:
        """(images [N * factor^2, C, H, W], labels): what students train on.

        **Differs**: IDC's official code, and those built on it, train on pixels a little outside 0-1 (images are
        clamped at the beginning of each outer iteration, not after the last); such a set is clamped when it is made, so
        that what is stored can be shown. Pixels of methods that never clamp (MTT) are as they were learned.
        """
        return decode(self.pixels, self.factor, space=self.space), decode_labels(self.labels, self.factor)

    def with_fit(self, fit: Whitening) -> SyntheticSet:
        """The set with the whitening it was made in. ValueError if it was another one."""
        if self.whitening != fit.fitted:
            raise ValueError(
                f"this set of {self.name} was whitened by fit {str(self.whitening)[:12]}.., the data now there by "
                f"{fit.fitted[:12]}..: condense it anew from these"
            )
        return dataclasses.replace(self, whitening_mean=fit.mean.float(), unwhiten=fit.inverse.float())

    def whitened(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] as shares 0-1, whitened as this set's are: so your test images, before a network trained
        on the set sees them."""
        mean, inverse = self._fit()
        return whiten(x, mean, torch.linalg.inv(inverse.double()))

    def unwhitened(self, x: Tensor) -> Tensor:
        """Decoded images [N, C, H, W] of this whitened set as shares, not clipped: their true colours."""
        return unwhiten(x, *self._fit())

    def _fit(self) -> tuple[Tensor, Tensor]:
        if self.space != "whitened":
            raise ValueError(f"this set of {self.name} holds {self.space} pixels: there is no whitening to apply")
        if self.whitening_mean is None or self.unwhiten is None:
            raise ValueError(
                f"the images of this set of {self.name} are whitened and the matrix is not in the file (it is in those "
                "that are merged), so they have no true colours here. Take made.decode() to train on them as they are."
            )
        return self.whitening_mean, self.unwhiten

    def decode_soft(self) -> Tensor | None:
        """The soft labels [N * factor^2, classes] of what :meth:`decode` gives (None: it has none)."""
        return None if self.soft is None else decode_labels(self.soft, self.factor)

    def upto(self, stage: int) -> SyntheticSet:
        """The images of stages 0, ..., `stage`. ValueError if there is no such stage."""
        return self._of([known for known in self._stages(stage) if known <= stage])

    def only(self, stage: int) -> SyntheticSet:
        """The images that `stage` added. ValueError if there is no such stage."""
        return self._of([known for known in self._stages(stage) if known == stage])

    def _stages(self, asked: int) -> list[int]:
        """The stages there are. ValueError if the one asked for is not among them."""
        there = sorted(set(self.stage.tolist()))
        if asked not in there:
            raise ValueError(f"this set of {self.name} has no stage {asked}: it has {there}")
        return there

    def _of(self, stages: list[int]) -> SyntheticSet:
        """The images of some of the stages, with their step sizes."""
        taken = self.take(torch.nonzero(torch.isin(self.stage, torch.tensor(stages))).flatten())
        if self.step_size is None:
            return taken
        places = [self._stages(stage).index(stage) for stage in stages]
        return dataclasses.replace(taken, step_size=self.step_size[places])

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
        return self.take(torch.nonzero(rank < ipc).flatten())

    def take(self, index: Tensor) -> SyntheticSet:
        """The images at `index` (int64 [n])."""
        parts: dict[str, Any] = {name: value[index] for name, value in self.tensors().items() if name not in OF_THE_SET}
        return dataclasses.replace(self, **parts)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name (those it has)."""
        names = ("images", "labels", "stage", "soft", "origin", *OF_THE_SET)
        named = {name: getattr(self, name) for name in names}
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
            **({"whitening": self.whitening} if self.whitening else {}),
            **({"grid": self.grid} if self.grid > 1 else {}),
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
        held: dict[str, Any] = {**tensors, **kept, "whitening": facts.get("whitening"), "grid": facts.get("grid", 1)}
        return cls(**held, mean=tuple(facts["mean"]), std=tuple(facts["std"]), class_names=names)


def merge(parts: Sequence[SyntheticSet]) -> SyntheticSet:
    """Parts (class phases, then stages) as one set: stage by stage, within a stage class by class.

    ValueError where parts differ in anything but their images, or two phases hold the same class in a stage.
    """
    if not parts:
        raise ValueError("there is nothing to merge")
    first = parts[0].facts()
    for part in parts[1:]:
        own_facts = part.facts()
        if differing := [key for key in {**first, **own_facts} if own_facts.get(key) != first.get(key)]:
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
    joined = {name: torch.cat([part.tensors()[name] for part in parts]) for name in names if name not in OF_THE_SET}
    order = torch.argsort(joined["stage"] * len(parts[0].class_names) + joined["labels"], stable=True)
    tensors = {name: value[order] for name, value in joined.items()}
    tensors |= {name: names[name] for name in OF_THE_SET if name in names}
    if "step_size" in names:
        tensors["step_size"] = _step_sizes(parts)
    return SyntheticSet.of(tensors, first)


def _step_sizes(parts: Sequence[SyntheticSet]) -> Tensor:
    """The step size of each stage, in order. ValueError where parts of a stage have different ones."""
    found: dict[int, Tensor] = {}
    for part in parts:
        assert part.step_size is not None
        for stage, value in zip(sorted(set(part.stage.tolist())), part.step_size, strict=True):
            if not torch.equal(found.setdefault(stage, value), value):
                raise ValueError(f"parts of stage {stage} learned different step sizes: {found[stage]} and {value}")
    return torch.stack([found[stage] for stage in sorted(found)])
