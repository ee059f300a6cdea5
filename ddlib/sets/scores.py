"""The score table: of many real images, the crop an observer finds most typical of its class, from best to worst.

Scoring is what RDED takes its time for; any number of images per class with ipc x factor^2 <= mipc is cut from one
table without scoring again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddlib.artifacts import ArtifactError, load_tensors, save_tensors

FORMAT = 1
FACTS = ("dataset", "observer", "mipc", "crops", "size", "factor", "seed")


@dataclass(frozen=True, eq=False)
class Crops:
    """Crops of real images: `file` int64 [n], rows of the training part before its `fit()`, and `box` int32 [n, 4] =
    (top, left, height, width) in pixels of the native image."""

    file: Tensor
    box: Tensor


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """The best crop of each of `mipc` images of each class, ascending by score within a class.

    `file` int64 [classes, mipc], `box` int32 [classes, mipc, 4] as in :class:`Crops`, `score` float32 [classes, mipc]:
    the observer's cross entropy (lower is more typical); ties stand in the order images were drawn. `classes`: the
    label of each row. `dataset`, `observer`: digests of what was scored and by what; `crops` tried per image, of side
    `size` // `factor`; `seed` of all draws.
    """

    file: Tensor
    box: Tensor
    score: Tensor
    classes: tuple[int, ...]
    mipc: int
    crops: int
    size: int
    factor: int
    seed: int
    dataset: str = ""
    observer: str = ""

    def __post_init__(self) -> None:
        rows = (len(self.classes), self.mipc)
        if (self.file.shape, self.box.shape, self.score.shape) != (rows, (*rows, 4), rows):
            raise ValueError(
                f"a score table of {rows[0]} classes and mipc {self.mipc} holds files and scores {list(rows)} and "
                f"boxes {[*rows, 4]}, not {list(self.file.shape)}, {list(self.score.shape)} and {list(self.box.shape)}"
            )

    def check(self, size: int, factor: int) -> None:
        """ValueError unless it is of crops for images of side `size` that hold factor x factor of them."""
        if (self.size, self.factor) != (size, factor):
            raise ValueError(
                f"the score table is of crops for {self.size} px at factor {self.factor}, asked for were {size} px at "
                f"factor {factor}: score them anew"
            )

    def cut(self, label: int, n: int, exclude: Tensor | None = None) -> Crops:
        """The `n` best crops of class `label`, best first, without those of the images `exclude` (int64 [m]).

        ValueError where there are fewer: n is at most mipc.
        """
        if label not in self.classes:
            raise ValueError(f"the score table has no class {label}, only {', '.join(map(str, self.classes[:9]))} ..")
        row = self.classes.index(label)
        free = torch.ones(self.mipc, dtype=torch.bool)
        if exclude is not None:
            free = ~torch.isin(self.file[row], exclude.cpu())
        chosen = torch.nonzero(free).flatten()[:n]
        if len(chosen) < n:
            taken = "" if exclude is None else f", {self.mipc - int(free.sum())} of them used before"
            raise ValueError(
                f"{n} crops (ipc x factor^2) of class {label} were asked for; the score table has one of each of "
                f"{self.mipc} images (mipc){taken}. Raise mipc, or lower ipc or factor."
            )
        return Crops(self.file[row, chosen], self.box[row, chosen])

    def save(self, path: str | Path) -> str:
        """Write one safetensors file; return its SHA-256."""
        facts = {name: getattr(self, name) for name in FACTS}
        tensors = {"file": self.file, "box": self.box, "score": self.score}
        return save_tensors(path, tensors, {"format": FORMAT, "classes": list(self.classes), **facts})

    @classmethod
    def load(cls, path: str | Path, sha256: str | None = None) -> ScoreTable:
        """Read what :meth:`save` wrote."""
        tensors, facts = load_tensors(path, sha256)
        if facts.get("format") != FORMAT or "score" not in tensors:
            raise ArtifactError(f"{path} is no score table of format {FORMAT}")
        named: dict[str, Any] = {**tensors, **{name: facts[name] for name in FACTS}}
        return cls(**named, classes=tuple(facts["classes"]))
