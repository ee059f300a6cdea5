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
from ddlib.nn.functional import Params, functional, functional_features, matched_names
from ddlib.nn.norm import frozen_statistics
from ddlib.objectives.draws import MatchDraws
from ddlib.objectives.gradient import match_class, match_features
from ddlib.pool.draw import Start
from ddlib.sets.packing import decode, decoded_count
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

    `data`: real images on the device; `classes`: those matched here (a phase), of all `data.classes`; `ipc`: stored
    images per class; `settings`: as in ddlib/presets.py; `start` gives the network of each outer iteration.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        data: RealData,
        classes: Sequence[int],
        ipc: int,
        start: Start,
        streams: Streams,
        execution: Execution,
    ) -> None:
        self.settings, self.data, self.classes, self.ipc = settings, data, list(classes), ipc
        self.start, self.streams, self.execution = start, streams, execution
        self.inner_steps = int(settings["inner_steps"])
        self.device = data.labels.device
        self._check()
        self.batches = Batches(streams, "network_batches", len(data.labels), settings["network_batch"])
        self.decoding = (settings["factor"], settings["decode"], settings["decode_limit"])
        self.decoded = decoded_count(ipc, *self.decoding)
        self.draws = MatchDraws(settings, data, classes, self.decoded, streams)
        self.augment = self.draws.augment
        self.compiler = self._decide()
        self.chunk = self._chunk()
        learning = Learning.of(settings, "network_")
        self.trainer = Trainer(start.net, learning, data, streams, "network", self.compiler, execution.precision)
        self.match = self._matcher()

    # ---- one outer iteration -----------------------------------------------------------------------------------

    def begin(self, outer: int, cursor: int) -> Inner:
        """The network of outer iteration `outer`, pretrained for whole epochs where the settings say so."""
        inner = Inner(outer, self.start.draw(outer), cursor)
        for epoch in range(self.settings["pretrain_epochs"]):
            batches = self.batches.batches(inner.cursor, self.batches.per_pass)
            network, _ = self.trainer.run(inner.network, batches, (outer, -1 - epoch))
            inner = Inner(outer, network, inner.cursor + len(batches))
        return inner

    def gradient(self, images: Tensor, inner: Inner, step: int) -> tuple[Tensor, Tensor]:
        """(mean loss over classes 0-d, gradient [N, C, H, W]) of inner step `step` at the current network."""
        draws = self.draws.of(inner.outer)
        stored = images.reshape(len(self.classes), self.ipc, *images.shape[1:])
        number = inner.outer * self.inner_steps + step
        real = torch.stack([self.data.pixels(self.draws.real(label, number)) for label in self.classes])
        names = torch.tensor(self.classes, device=self.device)
        parts = {"stored": stored, "real": real, "label": names}
        parts |= {name: values[step] for name, values in draws.tensors.items()}
        losses, gradients = [], []
        for first in range(0, len(self.classes), self.chunk):
            choice = draws.choices[step][first] if draws.choices else None
            loss, gradient = self._chunk_gradient(parts, first, inner.network, choice)
            losses.append(loss)
            gradients.append(gradient)
        return torch.cat(losses).mean(), torch.cat(gradients).reshape(images.shape)

    def advance(self, inner: Inner) -> Inner:
        """The network after it has trained on `network_samples` more real images."""
        many = self.batches.until(inner.cursor, self.settings["network_samples"])
        if not many:
            return inner
        batches = self.batches.batches(inner.cursor, many)
        network, _ = self.trainer.run(inner.network, batches, (inner.cursor,))
        return dataclasses.replace(inner, network=network, cursor=inner.cursor + many)

    # ---- matching ----------------------------------------------------------------------------------------------

    def _chunk_gradient(
        self, parts: Mapping[str, Tensor], first: int, network: State, choice: str | None
    ) -> tuple[Tensor, Tensor]:
        """Losses [n] and gradients [n, ipc, C, H, W] of the classes from `first`, a chunk padded at the tail."""
        last = min(first + self.chunk, len(self.classes))
        take = [*range(first, last), *[last - 1] * (self.chunk - (last - first))]
        if self.chunk == 1:
            one = {name: values[first] for name, values in parts.items()}
            loss, gradient = self.match(network.params, network.buffers, one, choice)
            return loss[None], gradient[None]
        many = {name: values[take] for name, values in parts.items()}
        loss, gradient = self.match(network.params, network.buffers, many, choice)
        return loss[: last - first], gradient[: last - first]

    def _matcher(self) -> Any:
        """fn(params, buffers, parts of one class or a chunk, choice) -> (loss, gradient)."""
        net = self.start.net.to(self.device).train()
        names = matched_names(net, self.settings["matched"])
        apply = functional(net)
        mean, std = (
            torch.tensor(values, device=self.device).reshape(1, -1, 1, 1) for values in (self.data.mean, self.data.std)
        )
        bf16 = self.execution.precision == "bf16"
        metric = self.settings["metric"]
        featured = self.settings["match"] == "feature"
        features = functional_features(net) if featured else None
        block = len(features(*_params(net), self.data.pixels(torch.zeros(2, dtype=torch.int64)))) - 1 if features else 0

        def match(params: Params, buffers: Params, parts: Params, choice: str | None) -> tuple[Tensor, Tensor]:
            draws = {name[4:]: value for name, value in parts.items() if name.startswith("aug/")}

            def seen(x: Tensor) -> Tensor:
                return self.augment.apply((x - mean) / std, draws, choice)

            def prepare(x: Tensor) -> Tensor:
                x = decode(x, *self.decoding)
                return seen(x[parts["rows"]] if "rows" in parts else x)

            def call(params: Params, x: Tensor) -> Tensor:
                with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
                    return apply(params, buffers, x)

            def maps(params: Params, x: Tensor) -> list[Tensor]:
                assert features is not None
                with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
                    found = features(params, buffers, x)
                return [held.to(x.dtype) for held in found]

            real = seen(parts["real"])
            if features is not None:
                return match_features(maps, params, prepare, parts["stored"], real, block, block)
            return match_class(call, params, names, prepare, parts["stored"], real, parts["label"], metric)

        def guarded(params: Params, buffers: Params, parts: Params, choice: str | None) -> tuple[Tensor, Tensor]:
            if self.chunk == 1:
                return match(params, buffers, parts, choice)
            return torch.func.vmap(lambda parts: match(params, buffers, parts, choice))(parts)

        compiled = self.compiler(guarded)

        def matcher(params: Params, buffers: Params, parts: Params, choice: str | None) -> tuple[Tensor, Tensor]:
            with frozen_statistics(net):
                return compiled(params, buffers, parts, choice)

        return matcher

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
        images = (3.0 * settings["real_batch"] + 9.0 * min(self.decoded, settings["synthetic_batch"])) * len(
            self.classes
        )
        images += 3.0 * settings["network_samples"]
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


def _params(net: torch.nn.Module) -> tuple[Params, Params]:
    return dict(net.named_parameters()), dict(net.named_buffers())
