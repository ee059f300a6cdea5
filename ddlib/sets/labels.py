"""What a teacher says of a synthetic set, kept beside it: students are then taught without the teacher.

RDED (arXiv 2312.03526; LINs-lab/RDED @ 3f6453d) asks its teacher about every augmented and mixed batch while a student
trains; SRe2L (arXiv 2306.13092; VILA-Lab/SRe2L @ 8d00cba) writes such logits to files first, which only a patched
PyTorch reads. Here a store is

- ``static``: logits of each decoded image, as it is;
- ``per_view``: logits of every view of so many epochs, and what these views are: order, crops, flips, patches, partner
  and box. Students that train on it see what they would have seen with the teacher beside them, to the bit where
  logits are kept in fp32; what is kept for fewer epochs than they train for begins again.

Logits are kept whole or, with `top_k`, the largest of each and the log of the sum of exponentials of the others, which
come back as equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddlib.artifacts import ArtifactError, content_hash, digest, load_tensors, save_tensors
from ddlib.augment.showing import Drawing, Replay
from ddlib.sets.synthetic import SyntheticSet

FORMAT = 1
KINDS = ("static", "per_view")
# What of a protocol decides which views there are.
SHOWING = ("batch", "augment", "dialect", "grid", "crop_area", "mix", "mix_probability", "mix_beta")


def set_digest(made: SyntheticSet) -> str:
    """SHA-256 of what students see of a set: images, classes, how it is decoded and normalised."""
    facts = {key: made.facts()[key] for key in ("factor", "space", "mean", "std", "class_order_hash")}
    return digest([content_hash({"images": made.images, "labels": made.labels}), facts, made.grid])


@dataclass(frozen=True, eq=False)
class LabelStore:
    """`facts`: kind, set (its digest), teacher, classes, images (decoded), seed, precision, top_k, and of views epochs,
    showing (the protocol's settings that decide them) and choices (operations picked one of). `tensors`, of views
    [epochs, ...]: `logits` [.., images, classes], or `top` and `top_index` [.., images, k] and `rest` [.., images];
    `order` [epochs, images]; `draw/<name>` [epochs, batches, batch, ...]; `mix/<name>` [epochs, batches, ...]."""

    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def kind(self) -> str:
        """static or per_view."""
        return str(self.facts["kind"])

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(value.numel() * value.element_size() for value in self.tensors.values())

    def check(self, made: SyntheticSet, protocol: Mapping[str, Any]) -> None:
        """ValueError unless these are the labels of this set and, of views, of those a protocol shows."""
        if self.facts["set"] != (found := set_digest(made)):
            raise ValueError(
                f"these labels were made for another set of {made.name} (digest {self.facts['set'][:12]}.., this one's "
                f"is {found[:12]}..): make them anew for this one"
            )
        if self.kind == "static":
            return
        wanted, held = showing_of(protocol), self.facts["showing"]
        if other := [key for key in SHOWING if wanted[key] != held[key]]:
            said = ", ".join(f"{key} {held[key]!r} where the protocol has {wanted[key]!r}" for key in other)
            raise ValueError(f"these labels are of other views: {said}. Make them anew by this protocol.")

    def logits(self, turn: int = 0, images: int | None = None) -> Tensor:
        """Logits float32 [images, classes] on the CPU: of the decoded images, or of the first views of a pass."""
        held = {name: self.tensors[name] for name in ("logits", "top", "top_index", "rest") if name in self.tensors}
        if self.kind == "per_view":
            held = {name: value[turn % self.facts["epochs"], :images] for name, value in held.items()}
        return unpacked(held, self.facts["classes"])

    def batches(self, turn: int) -> list[np.ndarray]:
        """int64 indices of the decoded images, batch by batch, in pass `turn` (0, 1, ... without end)."""
        order = self.tensors["order"][turn % self.facts["epochs"]].to(torch.int64).numpy()
        size = min(self.facts["showing"]["batch"], len(order))
        return [order[first : first + size] for first in range(0, len(order), size)]

    def replay(self, turn: int, many: int, device: str | torch.device) -> Replay:
        """How the first `many` batches of pass `turn` were shown, and what was said of them, on `device`."""
        epoch, images = turn % self.facts["epochs"], sum(map(len, self.batches(turn)[:many]))
        parts: dict[str, dict[str, Tensor]] = {"draw": {}, "mix": {}}
        for key, value in self.tensors.items():
            part, _, name = key.partition("/")
            if name:
                taken = value[epoch, :many].to(device)
                parts[part][name] = taken if taken.is_floating_point() else taken.to(torch.int64)
        choices: list[str | None] = [None] * many
        if "choice" in parts["mix"]:
            choices = [self.facts["choices"][place] for place in parts["mix"].pop("choice").tolist()]
        return Replay(Drawing(parts["draw"], parts["mix"], choices), self.logits(turn, images).to(device))

    def save(self, path: str | Path) -> str:
        """Write one safetensors file; return its SHA-256. Equal stores give equal bytes."""
        return save_tensors(path, self.tensors, {"format": FORMAT, **self.facts})

    @classmethod
    def load(cls, path: str | Path, sha256: str | None = None) -> LabelStore:
        """Read what :meth:`save` wrote."""
        tensors, facts = load_tensors(path, sha256)
        if facts.pop("format", None) != FORMAT or facts.get("kind") not in KINDS:
            raise ArtifactError(f"{path} holds no labels of format {FORMAT}")
        return cls(facts, tensors)


def showing_of(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What of a protocol decides which views there are."""
    others = {"dialect": "idc", "grid": "none", "crop_area": [], "mix": "cutmix"}
    return {key: protocol.get(key, others[key]) if key in others else protocol[key] for key in SHOWING}


def unpacked(held: Mapping[str, Tensor], classes: int) -> Tensor:
    """Logits float32 [n, classes] of what is kept: those that are not are equal and have the sum that is."""
    if "logits" in held:
        return held["logits"].float()
    top = held["top"].float()
    each = held["rest"] - math.log(classes - top.shape[1])
    return each[:, None].repeat(1, classes).scatter(1, held["top_index"].to(torch.int64), top)
