"""A teacher asked about a synthetic set: how the label stores of ddlib/sets/labels.py are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddlib.augment.showing import Showing
from ddlib.checkpoints import Checkpoint
from ddlib.events import NullEvents
from ddlib.label_bytes import kept_as, logit_bytes, passes_of
from ddlib.progress import progress
from ddlib.sets.labels import KINDS, LabelStore, set_digest, showing_of
from ddlib.sets.synthetic import SyntheticSet
from ddlib.streams import Batches, Streams

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
# Images a teacher is asked about at once, where it is not a batch.
AT_ONCE = 100

Observe = Callable[[Tensor], Tensor]


def make(
    kind: str,
    made: SyntheticSet,
    observe: Observe,
    protocol: Mapping[str, Any],
    *,
    seed: int,
    teacher: str,
    epochs: int = 0,
    precision: str = "",
    top_k: int = 0,
    device: str | torch.device = "cpu",
    events: NullEvents | None = None,
    piece: Callable[[int], Checkpoint] | None = None,
) -> LabelStore:
    """The labels of a set by a teacher.

    `observe`: normalised images [n, C, H, W] -> logits [n, classes]; `teacher`: its digest, which is kept; `protocol`:
    resolved, as students are trained by; `seed`: the distillation seed, whose first student's draws these are; `epochs`
    of views (0: as many as students see); `precision`: fp16 or fp32 (fp32 if static, else fp16); `top_k` 0: all logits;
    `piece(first)`: the checkpoint of the views of epoch `first` and some after it: killed, it goes on from there.
    ValueError for another kind, and for a teacher with another number of classes or whose logits are no numbers.
    """
    if kind not in KINDS:
        raise ValueError(f"no labels that are kept are called {kind!r}: there are {' and '.join(KINDS)}")
    precision = precision or ("fp32" if kind == "static" else "fp16")
    logit_bytes(classes := len(made.class_names), precision, top_k)
    images, _ = made.decode()
    facts = {"kind": kind, "set": set_digest(made), "teacher": teacher, "classes": classes, "images": len(images)}
    facts |= {"seed": seed, "precision": precision, "top_k": top_k}
    asked = _Asked(images.to(device), made, observe, precision, top_k)
    if kind == "static":
        parts = torch.split(torch.arange(len(images), device=asked.x.device), AT_ONCE)
        return LabelStore(facts, asked.kept([asked(asked.normalised(part)) for part in parts]))
    epochs = epochs or passes_of(protocol, len(images))
    showing = Showing(**Showing.options(protocol, grid=made.grid))
    facts |= {"epochs": epochs, "showing": showing_of(protocol), "choices": list(showing.augment.choices)}
    streams = Streams(seed, "evaluate")
    views = _Views(epochs, piece)
    for turn in progress(range(views.done, epochs), "labels", "epochs", events, first=views.done):
        views.add(_pass(turn, asked, showing, streams))
    return LabelStore(facts, views.held)


class _Views:
    """The views of `epochs` passes, each tensor [epochs, ...] held once; `done`: how many passes there are.

    A piece of them is written whenever its checkpoint is due, and never again: they may be gigabytes.
    """

    def __init__(self, epochs: int, piece: Callable[[int], Checkpoint] | None) -> None:
        self.epochs, self.piece, self.done, self.held = epochs, piece, 0, dict[str, Tensor]()
        self._next()
        while self.checkpoint is not None and self.done < epochs and (found := self.checkpoint.load()):
            self._put(found[0])
            self._next()

    def _next(self) -> None:
        self.written = self.done
        self.checkpoint = self.piece(self.done) if self.piece else None

    def _put(self, views: Mapping[str, Tensor]) -> None:
        for name, value in views.items():
            if name not in self.held:
                self.held[name] = value.new_empty((self.epochs, *value.shape[1:]))
            self.held[name][self.done : self.done + len(value)] = value
        self.done += len(next(iter(views.values())))

    def add(self, views: Mapping[str, Tensor]) -> None:
        """Those of one more pass."""
        self._put({name: value[None] for name, value in views.items()})
        if self.checkpoint is not None and self.checkpoint.due and self.done < self.epochs:
            self.checkpoint.save({name: value[self.written : self.done] for name, value in self.held.items()}, {})
            self._next()


def _pass(turn: int, asked: _Asked, showing: Showing, streams: Streams) -> dict[str, Tensor]:
    """The views of a pass over the images, those of the first student of an evaluation, and what is said of them."""
    index = (0,)
    source = Batches(streams, "student_batches", len(asked.x), showing.batch, index=index)
    batches = source.batches(turn * source.per_pass, source.per_pass)
    sides = (int(asked.x.shape[2]), int(asked.x.shape[3]))
    drawing = showing.draw(streams, "student", (*index, turn), len(batches), sides, asked.x.device)
    said = []
    for step, batch in enumerate(batches):
        x = asked.x[torch.from_numpy(batch).to(asked.x.device)]
        draws, mix, choice = drawing.of(step, len(batch))
        said.append(asked(showing.show(x, asked.mean, asked.std, draws, mix, choice)))
    kept = {"order": _small("order", torch.from_numpy(np.concatenate(batches)), False), **asked.kept(said)}
    crops, choices = showing.augment.of_pixels, showing.augment.choices
    if choices:
        picked = torch.tensor([choices.index(str(choice)) for choice in drawing.choices])
        kept["mix/choice"] = _small("choice", picked, crops)
    for part, held in (("draw", drawing.draws), ("mix", drawing.mix)):
        kept |= {f"{part}/{name}": _small(name, value, crops) for name, value in held.items()}
    return kept


def _small(name: str, value: Tensor, crops: bool) -> Tensor:
    """A draw in the type it is kept in."""
    wanted: torch.dtype = getattr(torch, kept_as(name, crops)[0])
    small = value.cpu().to(wanted)
    if not torch.equal(small.to(value.dtype), value.cpu()):
        raise ValueError(f"draws of {name} are too large to be kept as {wanted}")
    return small


class _Asked:
    """A teacher that is asked about the decoded images `x` [N, C, H, W] of a set."""

    def __init__(self, x: Tensor, made: SyntheticSet, observe: Observe, precision: str, top_k: int) -> None:
        self.x, self.observe, self.classes = x, observe, len(made.class_names)
        self.dtype, self.top_k = DTYPES[precision], 0 if top_k == self.classes else top_k
        self.mean, self.std = (torch.tensor(v, device=x.device).reshape(1, -1, 1, 1) for v in (made.mean, made.std))

    def normalised(self, index: Tensor) -> Tensor:
        """Images as networks see them."""
        return (self.x[index] - self.mean) / self.std

    def __call__(self, x: Tensor) -> Tensor:
        """Logits float32 [n, classes], checked."""
        with torch.no_grad():
            logits = self.observe(x).float()
        if logits.shape != (len(x), self.classes):
            raise ValueError(
                f"the teacher gives logits of shape {list(logits.shape)} for {len(x)} images of {self.classes} "
                "classes: use one trained on these classes"
            )
        if not bool(torch.isfinite(logits.to(self.dtype)).all()):
            raise ValueError(f"the teacher's logits are not finite, or too large for {self.dtype}: keep them in fp32")
        return logits

    def kept(self, said: list[Tensor]) -> dict[str, Tensor]:
        """Logits of many batches as they are kept, on the CPU."""
        logits = torch.cat(said)
        if not self.top_k:
            return {"logits": logits.to(self.dtype).cpu()}
        top, index = logits.topk(self.top_k, dim=1)
        rest = logits.scatter(1, index, -math.inf).logsumexp(1)
        small = torch.int16 if self.classes <= 2**15 else torch.int32
        return {"top": top.to(self.dtype).cpu(), "top_index": index.to(small).cpu(), "rest": rest.float().cpu()}
