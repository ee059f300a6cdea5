"""Networks conditioned on the earlier stages of a progressive distillation: trained on them in sequence.

Chen et al., "Data Distillation Can Be Like Vodka: Distilling More Times For Better Quality" (PDD), 2023, arXiv
2310.06982; VITA-Group/ProgressiveDD @ 844fa9a. Stage p + 1 begins with networks that were trained on U_1, then U_2,
..., U_p, where U_q is the union of the images of the stages 1 to q, each time with an optimiser at rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddlib.artifacts import load_tensors
from ddlib.checkpoints import Checkpoint
from ddlib.data.real import RealData
from ddlib.events import NullEvents
from ddlib.pool.draw import Fresh
from ddlib.pool.member import MemberTraining
from ddlib.sets.synthetic import SyntheticSet
from ddlib.streams import Batches, Streams
from ddlib.train.compiler import decide, forward_flops
from ddlib.train.evaluate import train_student
from ddlib.train.lessons import lessons
from ddlib.train.loop import Learning, State, Trainer
from ddlib.train.sgd import zero_velocity


class Conditioning:
    """Trains networks shaped like `net` on the stages of `earlier`, as `protocol` (CONDITION in ddlib/presets.py) says.

    On soft labels where it has them; at the learned step size of each stage, with `learned_lr`. `times`: how many
    networks will be trained, by which it is decided whether to compile. Draws are keyed by (index, stage).
    """

    def __init__(
        self,
        earlier: SyntheticSet,
        protocol: Mapping[str, Any],
        streams: Streams,
        net: nn.Module,
        device: torch.device,
        compile_mode: str = "never",
        precision: str = "fp32",
        times: int = 1,
    ) -> None:
        # Each union anew, with an optimiser at rest, whatever a protocol of evaluation does.
        self.protocol = {**protocol, "schedule": "in_sequence"}
        self.taught = lessons(earlier, self.protocol, "own", device)
        learning = Learning.of(protocol)
        flops = 3.0 * times * sum(lesson.steps for lesson in self.taught) * learning.batch
        shape = tuple(earlier.images.shape[1:])
        compiler = decide(compile_mode, device.type, flops * forward_flops(net, shape))
        self.trainer = Trainer(net, learning, self.taught[0].source, streams, "condition", compiler, precision)

    def __call__(
        self,
        state: State,
        index: int,
        stages: Iterable[int] | None = None,
        first: int = 0,
        passed: Callable[[State, int], object] = lambda state, passes: None,
    ) -> State:
        """The network after training on the unions up to `stages` in turn (all there are), at rest.

        `first`: passes over the first of them that `state` has behind it; `passed` is told the state after each.
        """
        for stage in range(len(self.taught)) if stages is None else stages:
            lesson = self.taught[stage]
            source, steps, trainer = lesson.source, lesson.steps, self.trainer.on(lesson.source, lesson.lr)
            if not first:
                state = State(state.params, state.buffers, zero_velocity(state.params))
            where = (index, stage)
            batches = Batches(
                trainer.streams, "condition_batches", len(source.labels), trainer.learning.batch, index=where
            )
            passes = range(first, -(-steps // batches.per_pass))
            state = train_student(trainer, state, passes, steps, batches, self.protocol, passed=passed)
            first = 0
        return State(state.params, state.buffers, zero_velocity(state.params))


class ConditionedMember:
    """Member `member` of the networks of a stage: one stage before it, or new, then trained on the last union before
    the stage, and on real data where `spec` (of the rule `condition`) says how.

    `start`: file and sha256 of the network it goes on from (None: it begins anew). Its snapshots and curve lie where a
    pool's would: epoch 0 is the network before any real data.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        member: int,
        data: RealData,
        earlier: SyntheticSet,
        start: Mapping[str, Any] | None,
        folder: Path,
        compile_mode: str = "never",
        precision: str = "fp32",
        events: NullEvents | None = None,
    ) -> None:
        self.start, self.member, self.stage = start, member, int(spec["stage"])
        streams = Streams(spec["seed"], f"condition{self.stage}")
        self.fresh = Fresh(
            spec["network"],
            (data.channels, data.height, data.width),
            data.classes,
            Streams(spec["seed"], "conditioned"),
            data.labels.device,
        )
        idle = {**spec["condition"], "epochs": 0, "record_events": False, "score_snapshots": False}
        training = spec["training"] or idle
        if training["epochs"] > (last := max(spec["snapshots"])) and not training["decay_at"]:
            training = {**training, "epochs": last}  # a constant rate: what comes after the last snapshot is of no use
        own = {**spec, "training": training}
        how = compile_mode, precision, events or NullEvents()
        self.real = MemberTraining(own, member, data, folder, *how, purpose=f"condition{self.stage}")
        self.conditioning = Conditioning(
            earlier, spec["condition"], streams, self.fresh.net, data.labels.device, compile_mode, precision
        )
        self.compiler = self.real.compiler

    def run(self, checkpoint: Checkpoint | None = None) -> dict[str, Any]:
        """As :meth:`MemberTraining.run`."""
        return self.real.run(checkpoint, lambda: self._conditioned(checkpoint))

    def _conditioned(self, checkpoint: Checkpoint | None) -> State:
        """The network before any real data."""

        def passed(state: State, passes: int) -> None:
            if checkpoint is not None and checkpoint.due:
                checkpoint.save(state.tensors(), {"conditioned": passes})

        tensors, facts = (checkpoint.load() if checkpoint else None) or ({}, {})
        if "conditioned" in facts:
            state, first = State.from_tensors(tensors, self.fresh.device), facts["conditioned"]
        else:
            state, first = self._begun(), 0
        # The earlier ones are behind a network that comes from one stage before.
        return self.conditioning(state, self.member, [self.stage - 1], first, passed)

    def _begun(self) -> State:
        """The network before it is trained on the last union."""
        if self.start is None:
            return self.fresh.draw(self.member)
        held = load_tensors(self.start["file"], self.start["sha256"])[0]
        return State.from_tensors(held, self.fresh.device)
