"""Gradient matching over the inner loop: match every class at the current network, then train the network on real data.

Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization" (IDC), ICML 2022, arXiv 2205.14959;
snu-mllab/Efficient-Dataset-Condensation @ ceac95a (condense.py). Order of an inner step: every class is matched at the
same network, then the network trains on `network_samples` real images (batches go on where they stopped, also over
outer iterations).

**Differs**: all draws of an outer iteration are made at once from keyed streams, for all classes of the data set, of
which a class phase takes its slice. A class with fewer images than the real batch is refused (the official code makes
its batch smaller for one sampler and crashes in the other).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddlib.data.real import RealData
from ddlib.nn.functional import Params
from ddlib.objectives.draws import MatchDraws
from ddlib.objectives.matcher import Matcher
from ddlib.pool.draw import Start
from ddlib.sets.packing import decoded_count
from ddlib.streams import Batches, Streams
from ddlib.train.compiler import Compiler, decide, forward_flops
from ddlib.train.loop import Learning, State, Trainer


@dataclass
class Inner:
    """Where the inner loop of an outer iteration is: the network, and how many real batches it has seen in all."""

    outer: int
    network: State
    cursor: int


@dataclass(frozen=True)
class Execution:
    """How the work is done on this machine; never what comes out, but for the last bits."""

    compile: str = "never"
    class_chunk: int = 0
    precision: str = "fp32"


class GradientMatching:
    """Steps of gradient (or feature) matching of the synthetic images of some classes.

    `data`: real images on the device; `classes`: those matched here (a phase), of all `data.classes`; `budgets`: stored
    images per class, of each set that is condensed (all at the same networks and against the same real gradients);
    `settings`: as in ddlib/presets.py; `start` gives the network of each outer iteration; `frozen`
    [classes, ipc, stages, C, H, W]: images of earlier stages that are matched together with those learned, as PDD has
    it (each image learned stands after those of its own number).
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        data: RealData,
        classes: Sequence[int],
        budgets: Sequence[int],
        start: Start,
        streams: Streams,
        execution: Execution,
        frozen: Tensor | None = None,
    ) -> None:
        self.settings, self.data, self.classes, self.budgets = settings, data, list(classes), tuple(budgets)
        self.start, self.streams, self.execution, self.frozen = start, streams, execution, frozen
        self.stages = 1 if frozen is None else frozen.shape[2] + 1
        self.inner_steps = int(settings["inner_steps"])
        self.device = data.labels.device
        self._check()
        self.batches = Batches(streams, "network_batches", len(data.labels), settings["network_batch"])
        decoding = (settings["factor"], settings["decode"], settings["decode_limit"])
        self.decoded = [decoded_count(self.stages * ipc, *decoding) for ipc in self.budgets]
        self.draws = MatchDraws(settings, data, classes, self.decoded, streams)
        self.augment = self.draws.augment
        self.compiler = self._decide()
        self.chunk = self._chunk()
        learning = Learning.of(settings, "network_")
        self.trainer = Trainer(start.net, learning, data, streams, "network", self.compiler, execution.precision)
        variants = len(self.budgets) * max(1, len(self.augment.choices))
        self.matcher = Matcher(start.net, data, settings, self.chunk, self.compiler, execution.precision, variants)

    # ---- one outer iteration -----------------------------------------------------------------------------------

    def begin(self, outer: int, cursor: int) -> Inner:
        """The network of outer iteration `outer`, pretrained for whole epochs where the settings say so."""
        inner = Inner(outer, self.start.draw(outer), cursor)
        for epoch in range(self.settings["pretrain_epochs"]):
            batches = self.batches.batches(inner.cursor, self.batches.per_pass)
            network, _ = self.trainer.run(inner.network, batches, (outer, -1 - epoch))
            inner = Inner(outer, network, inner.cursor + len(batches))
        return inner

    def gradient(self, learned: Params, inner: Inner, step: int) -> tuple[Tensor, Params]:
        """(mean loss over classes, of each budget [budgets]; {"images": gradient [N, C, H, W]}) of inner step `step`.

        Images lie budget after budget, in each class by class.
        """
        shared, own = self.shared(inner, step), self._own(learned["images"], inner.outer, step)
        losses: list[list[Tensor]] = [[] for _ in own]
        slopes: list[list[Tensor]] = [[] for _ in own]
        for first in range(0, len(self.classes), self.chunk):
            choice = self.choice(inner.outer, step, first)
            seen = self.taken(shared, first)
            target = self.matcher.target(inner.network, seen, choice)
            del seen["real"]
            left = len(self.classes) - first
            for budget, parts in enumerate(own):
                loss, slope = self.matcher.match(inner.network, {**seen, **self.taken(parts, first)}, target, choice)
                losses[budget].append(loss[None] if self.chunk == 1 else loss[:left])
                slopes[budget].append(slope[None] if self.chunk == 1 else slope[:left])
        means = torch.stack([torch.cat(found).mean() for found in losses])
        return means, {"images": torch.cat([newest(torch.cat(found), self.stages) for found in slopes])}

    def advance(self, inner: Inner) -> Inner:
        """The network after it has trained on `network_samples` more real images."""
        many = self.batches.until(inner.cursor, self.settings["network_samples"])
        if not many:
            return inner
        batches = self.batches.batches(inner.cursor, many)
        network, _ = self.trainer.run(inner.network, batches, (inner.cursor,))
        return dataclasses.replace(inner, network=network, cursor=inner.cursor + many)

    # ---- matching ----------------------------------------------------------------------------------------------

    def shared(self, inner: Inner, step: int) -> Params:
        """What all budgets are matched with, [classes, ...]: real images, labels, draws of the augmentation."""
        number = inner.outer * self.inner_steps + step
        real = torch.stack([self.data.pixels(self.draws.real(label, number)) for label in self.classes])
        parts = {"real": real, "label": torch.tensor(self.classes, device=self.device)}
        return parts | {name: values[step] for name, values in self.draws.of(inner.outer).tensors.items()}

    def choice(self, outer: int, step: int, first: int) -> str | None:
        """The operation of the augmentation picked for the class at `first`."""
        choices = self.draws.of(outer).choices
        return choices[step][first] if choices else None

    def _own(self, images: Tensor, outer: int, step: int) -> list[Params]:
        """What is each budget's own, [classes, ...]: its images as stored, and the decoded ones that are seen."""
        split = torch.split(images, [len(self.classes) * ipc for ipc in self.budgets])
        stored = [each.reshape(len(self.classes), -1, *images.shape[1:]) for each in split]
        parts = [{"stored": interleaved(self.frozen, each)} for each in stored]
        rows = self.draws.of(outer).rows
        return [part if row is None else part | {"rows": row[step]} for part, row in zip(parts, rows, strict=True)]

    def taken(self, parts: Params, first: int) -> Params:
        """The class at `first`, or the chunk of classes from there, padded at the tail with the last class."""
        if self.chunk == 1:
            return {name: values[first] for name, values in parts.items()}
        last = min(first + self.chunk, len(self.classes))
        take = [*range(first, last), *[last - 1] * (self.chunk - (last - first))]
        return {name: values[take] for name, values in parts.items()}

    # ---- how it is executed ------------------------------------------------------------------------------------

    def _check(self) -> None:
        """ValueError for settings that cannot be."""
        for name in ("inner_steps", "real_batch", "synthetic_batch", "network_batch"):
            if self.settings[name] < 1:
                raise ValueError(f"{name} is at least 1, not {self.settings[name]}")
        if self.settings["match"] not in ("gradient", "feature"):
            raise ValueError(f"match is gradient or feature, not {self.settings['match']!r}")
        for label in self.classes:
            if (there := len(self.data.of_class(label))) < self.settings["real_batch"]:
                raise ValueError(
                    f"class {label} ({self.data.class_names[label]}) has {there} training images, fewer than "
                    f"real_batch {self.settings['real_batch']}. Lower real_batch."
                )

    def _decide(self) -> Compiler:
        """Compile or not, by the operations of the whole condensation."""
        settings = self.settings
        shape = (self.data.channels, self.data.height, self.data.width)
        forward = forward_flops(self.start.net, shape)
        seen = sum(min(decoded, settings["synthetic_batch"]) for decoded in self.decoded)
        images = (3.0 * settings["real_batch"] + 9.0 * seen) * len(self.classes) + 3.0 * settings["network_samples"]
        work = forward * images * settings["outer_iterations"] * self.inner_steps
        return decide(self.execution.compile, self.device.type, work)

    def _chunk(self) -> int:
        """Classes matched at once: asked for, or 1 where compiled on a CPU, else all, up to 10."""
        if len(self.augment.choices) > 1:
            return 1
        asked = self.execution.class_chunk
        if not asked:
            asked = 1 if self.compiler.enabled and self.device.type == "cpu" else 10
        return min(asked, len(self.classes))


def interleaved(frozen: Tensor | None, images: Tensor) -> Tensor:
    """Images [classes, ipc, C, H, W] with the frozen ones [classes, ipc, stages, C, H, W] of its number before each:
    [classes, ipc x (stages + 1), C, H, W]."""
    return images if frozen is None else torch.cat([frozen, images[:, :, None]], 2).flatten(1, 2)


def newest(values: Tensor, stages: int) -> Tensor:
    """Of [classes, ipc x stages, C, H, W], as :func:`interleaved` makes them, the newest stage's [N, C, H, W]."""
    each = values.reshape(values.shape[0], -1, stages, *values.shape[2:])
    return each[:, :, -1].flatten(0, 1)
