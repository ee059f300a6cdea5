"""Pool members: networks trained on real data, with snapshots along the way, written as they train.

A member is a folder: ``epoch{e}.safetensors`` (weights and buffers; epoch 0 is before training), ``metrics.csv`` (loss
and accuracy by epoch) and, where asked for, ``events.safetensors`` (per-example forgetting counts and error norms).

The training recipes (ddlib/presets.py) are those IDC and Acc-DD pretrain with (official pretrain.py: SGD, augmentation
without cutout, CutMix), the one of Drop2Sparse (official train.py), and the one of MTT's experts (official buffer.py:
SGD without momentum, augmentation in MTT's dialect). Members of a pool differ by seed, and in the settings the
specification says. Where `score_snapshots` is off (experts: their trajectories are matched, nothing is chosen by their
accuracy) no pass is made to measure a snapshot: clean accuracy and all of epoch 0 are empty.

**Differs**: the official codes choose the checkpoint on the test set; here a member never sees test data, and its
accuracy is on training images (augmented, clean) and on a held-out slice where the data set has one. MTT's code also
scores the test set after every epoch, and stores all snapshots of ten experts in one pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddlib import nn as networks
from ddlib.artifacts import save_tensors, write_table
from ddlib.checkpoints import Checkpoint
from ddlib.data.real import RealData
from ddlib.events import NullEvents
from ddlib.pool import METRICS
from ddlib.pool_settings import kept_epochs
from ddlib.progress import progress
from ddlib.streams import Batches, Streams
from ddlib.train.compiler import Compiler, decide, forward_flops
from ddlib.train.loop import Learning, State, Trainer
from ddlib.train.schedules import rate
from ddlib.train.scoring import Scorer


@dataclass
class Events:
    """What happens to each training example: Toneva et al. 2019 (forgetting), Paul et al. 2021 (EL2N).

    `correct` int8 [N]: right when last trained on (-1: never yet); `forgotten` int64 [N]: times it went from right to
    wrong; `error` float32 [N]: norm of softmax - one-hot on clean images, summed over `passes` epochs.
    """

    correct: Tensor
    forgotten: Tensor
    error: Tensor
    passes: int = 0

    @classmethod
    def none(cls, count: int, device: torch.device) -> Events:
        """Before training on `count` examples."""
        zeros = torch.zeros(count, dtype=torch.int64, device=device)
        return cls(torch.full_like(zeros, -1, dtype=torch.int8), zeros, torch.zeros(count, device=device))

    def seen(self, index: Tensor, correct: Tensor) -> None:
        """A batch was trained on."""
        self.forgotten[index] += (self.correct[index] == 1) & ~correct
        self.correct[index] = correct.to(torch.int8)

    def add_errors(self, logits: Tensor, labels: Tensor) -> None:
        """Error norms of one clean pass."""
        target = torch.nn.functional.one_hot(labels, logits.shape[1])
        self.error += (logits.softmax(1) - target).norm(dim=1)
        self.passes += 1


@dataclass
class MemberTraining:
    """One member in training: everything its epochs need."""

    spec: Mapping[str, Any]
    member: int
    data: RealData
    folder: Path
    compile_mode: str = "never"
    precision: str = "fp32"
    events: NullEvents = field(default_factory=NullEvents)
    purpose: str = "pool"

    def __post_init__(self) -> None:
        self.training = {**self.spec["training"], **self.spec.get("differs", {}).get(str(self.member), {})}
        self.scores = self.training.get("score_snapshots", True)
        self.streams = Streams(self.spec["seed"], self.purpose)
        self.fit = self.data.fit()
        self.heldout = self.data.heldout_part()
        network = {key: value for key, value in self.spec["network"].items() if key != "version"}
        shape = (self.data.channels, self.data.height, self.data.width)
        seed = self.streams.integer("member", self.member)
        self.net = networks.build(network, channels=shape[0], size=shape[1], classes=self.data.classes, seed=seed)
        self.batches = Batches(
            self.streams, "batches", len(self.fit.labels), self.training["batch"], index=(self.member,)
        )
        flops = 3.0 * self.training["epochs"] * len(self.fit.labels) * forward_flops(self.net, shape)
        self.compiler: Compiler = decide(self.compile_mode, self.data.labels.device.type, flops)
        learning = Learning.of(self.training)
        self.trainer = Trainer(self.net, learning, self.fit, self.streams, "pool", self.compiler, self.precision)
        self.scorer = Scorer(self.net, self.data.labels.device, self.compiler, self.precision)

    def run(self, checkpoint: Checkpoint | None = None, initial: Callable[[], State] | None = None) -> dict[str, Any]:
        """Train from the start (a new network, or `initial`) or the checkpoint; return {"files":
        name -> path, "last": accuracies, "epochs": kept}."""
        epochs = self.training["epochs"]
        kept = kept_epochs(self.spec["snapshots"], epochs)
        state, rows, happened = self._begin(checkpoint, kept, initial)
        first = rows[-1]["epoch"]
        todo = progress(range(first, epochs), f"member {self.member}", "epochs", self.events, first=first)
        for epoch in todo:
            factor = rate(self.training, epoch, epochs)
            state, found = self._pass(state, epoch, factor, happened)
            rows.append(self._finish({"epoch": epoch + 1, **found}, state, epoch + 1 in kept, happened))
            if checkpoint is not None and (checkpoint.due or epoch + 1 == epochs):
                self._save(checkpoint, state, rows, happened)
        return self._result(kept, rows, happened)

    def _pass(
        self, state: State, turn: int, factor: float, happened: Events | None = None
    ) -> tuple[State, dict[str, float]]:
        """One pass over the augmented data, and the loss and accuracy met on the way.

        Draws are those of `turn`, -1 before the first; the order of the images is that of the first then.
        """
        many = self.batches.per_pass
        batches = self.batches.batches(max(turn, 0) * many, many)
        seen = happened.seen if happened else None
        state, totals = self.trainer.run(state, batches, (self.member, turn), lambda _: factor, seen)
        loss, correct = float(totals.loss) / totals.count, float(totals.correct) / totals.count
        return state, {"loss": loss, "train_augmented": correct}

    def _begin(
        self, checkpoint: Checkpoint | None, kept: list[int], initial: Callable[[], State] | None
    ) -> tuple[State, list[dict[str, Any]], Events | None]:
        device = self.data.labels.device
        found = checkpoint.load() if checkpoint else None
        if found is not None and "rows" in found[1] and self._complete(kept, found[1]["rows"][-1]["epoch"]):
            tensors, facts = found
            names = ("correct", "forgotten", "error")
            held = {name: tensors.pop(f"events/{name}").to(device) for name in names if f"events/{name}" in tensors}
            happened = Events(**held, passes=facts["passes"]) if held else None
            return State.from_tensors(tensors, device), facts["rows"], happened
        happened = Events.none(len(self.fit.labels), device) if self.training["record_events"] else None
        state = State.of(self.net.to(device), self.trainer.learning.optimiser)
        if initial is not None:
            begun = initial()
            state = State(begun.params, begun.buffers, state.velocity)
        untold = dict.fromkeys(("loss", "train_augmented"), float("nan"))
        # Measured by a pass at rate 0, whose state is left behind; its draws are no epoch's.
        measured = self._pass(state, -1, 0.0)[1] if 0 in kept and self.scores else untold
        return state, [self._finish({"epoch": 0, **measured}, state, 0 in kept, None)], happened

    def _complete(self, kept: list[int], epoch: int) -> bool:
        """Whether the snapshots of a checkpoint's past are there: a pool deleted by hand is trained anew."""
        return all(self._snapshot(past).is_file() for past in kept if past <= epoch)

    def _finish(self, row: dict[str, Any], state: State, keep: bool, happened: Events | None) -> dict[str, Any]:
        """After an epoch: the clean and held-out accuracy (of kept epochs), the snapshot, the curve's point."""
        row["train_clean"] = row["heldout"] = float("nan")
        if (keep and self.scores) or happened:
            logits = self.scorer.logits(state, self.fit)
            if self.scores:
                row["train_clean"] = float((logits.argmax(1) == self.fit.labels).double().mean())
            if happened:
                happened.add_errors(logits, self.fit.labels)
        if keep:
            if len(self.heldout.labels):
                row["heldout"] = self.scorer.accuracy(state, self.heldout)
            named = {f"params/{name}": value for name, value in state.params.items()}
            named |= {f"buffers/{name}": value for name, value in state.buffers.items()}
            save_tensors(self._snapshot(row["epoch"]), named, {"member": self.member, "epoch": row["epoch"]})
        values = {f"member{self.member}/{key}": row[key] for key in row if key != "epoch" and row[key] == row[key]}
        if values:
            self.events.metric(row["epoch"], **values)
        return row

    def _snapshot(self, epoch: int) -> Path:
        return self.folder / f"member{self.member}" / f"epoch{epoch}.safetensors"

    def _save(self, checkpoint: Checkpoint, state: State, rows: list[dict[str, Any]], happened: Events | None) -> None:
        tensors = state.tensors()
        if happened:
            parts = {"correct": happened.correct, "forgotten": happened.forgotten, "error": happened.error}
            tensors |= {f"events/{name}": value for name, value in parts.items()}
        plain = [{key: None if value != value else value for key, value in row.items()} for row in rows]
        checkpoint.save(tensors, {"rows": plain, "passes": happened.passes if happened else 0})

    def _result(self, kept: list[int], rows: list[dict[str, Any]], happened: Events | None) -> dict[str, Any]:
        folder = self.folder / f"member{self.member}"
        curve = [[row["epoch"], *(_measured(row[name]) for name in ("loss", *METRICS))] for row in rows]
        write_table(folder / "metrics.csv", ["epoch", "loss", *METRICS], curve)
        files = {f"member{self.member}/epoch{epoch}": self._snapshot(epoch) for epoch in kept}
        files[f"member{self.member}/metrics"] = folder / "metrics.csv"
        if happened:
            path = folder / "events.safetensors"
            mean_error = happened.error / max(1, happened.passes)
            save_tensors(path, {"forgotten": happened.forgotten, "el2n": mean_error})
            files[f"member{self.member}/events"] = path
        last = {name: _measured(rows[-1][name]) for name in METRICS}
        shown = {name: None if value is None else round(value, 6) for name, value in last.items()}
        return {"files": files, "last": shown, "epochs": kept}


def _measured(value: float | None) -> float | None:
    """A number of the curve (None where it was not measured: not a number, or None after a checkpoint)."""
    return None if value is None or value != value else float(value)
