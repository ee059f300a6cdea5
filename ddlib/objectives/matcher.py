"""The two halves of matching a chunk of classes: what real images give, and synthetic images against it.

The first half is done once however many budgets are matched against it, the second once for each. Both are pure
functions of tensors, each compiled by itself or not, and a single budget takes the same way: so images condensed
beside other budgets are those condensed alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ddlib.augment.siamese import Augmentation
from ddlib.data.real import RealData
from ddlib.nn.chance import refuse_dropout
from ddlib.nn.functional import Params, functional, functional_features, matched_names, split
from ddlib.nn.norm import frozen_statistics
from ddlib.objectives.gradient import class_gradients, match_means, match_target, mean_features
from ddlib.sets.packing import decode
from ddlib.train.compiler import Compiler
from ddlib.train.loop import State

Target = tuple[Tensor, ...]


class Matcher:
    """Matching at a network shaped like `net`, as `settings` (ddlib/presets.py) say.

    `classes`: 1, or how many at once (then every tensor of a class has a leading axis of so many); `variants`: how many
    kinds of budget and operation there will be, each of which is compiled.
    """

    def __init__(
        self,
        net: nn.Module,
        data: RealData,
        settings: Mapping[str, Any],
        classes: int,
        compiler: Compiler,
        precision: str,
        variants: int = 1,
    ) -> None:
        refuse_dropout(net)
        self.device = data.labels.device
        self.net, self.settings, self.bf16 = net.to(self.device).train(), settings, precision == "bf16"
        self.augment, self.metric = Augmentation(settings["match_augment"]), settings["metric"]
        self.names, self.call = matched_names(net, settings["matched"]), functional(net)
        self.features = functional_features(net) if settings["match"] == "feature" else None
        self.mean, self.std = (
            torch.tensor(values, device=self.device).reshape(1, -1, 1, 1) for values in (data.mean, data.std)
        )
        self.space = data.space
        self.block = self._last_block(data) if self.features else 0
        if compiler.enabled and variants > torch._dynamo.config.recompile_limit:
            torch._dynamo.config.recompile_limit = variants
        self._target, self._match = (compiler(_over(function, classes)) for function in (self._real, self._synthetic))

    def target(self, network: State, parts: Params, choice: str | None) -> Target:
        """What is matched: gradients (or mean feature maps) of `real` images [n, C, H, W] of the class `label` (0-d).

        `parts`: these two and the class's draws ``aug/*``; `choice`: the operation picked (:class:`Augmentation`).
        """
        with frozen_statistics(self.net):
            found: Target = self._target(network.params, network.buffers, choice, parts)
        return found

    def match(self, network: State, parts: Params, target: Target, choice: str | None) -> tuple[Tensor, Tensor]:
        """(loss 0-d, gradient [n, C, H, W]) of the images `stored` of a class, whose `rows` are seen if given.

        `parts`: these, `label` and the draws of :meth:`target`.
        """
        with frozen_statistics(self.net):
            found: tuple[Tensor, Tensor] = self._match(network.params, network.buffers, choice, parts, target)
        return found

    def _real(self, params: Params, buffers: Params, choice: str | None, parts: Params) -> Target:
        real = self._seen(parts["real"], parts, choice)
        if self.features is not None:
            return mean_features(self._maps(buffers), params, real, self.block, self.block)
        labels = parts["label"].expand(real.shape[0])
        return class_gradients(self._logits(buffers), params, self.names, real, labels)

    def _synthetic(
        self, params: Params, buffers: Params, choice: str | None, parts: Params, target: Target
    ) -> tuple[Tensor, Tensor]:
        def prepare(x: Tensor) -> Tensor:
            factor, kind, limit = (self.settings[name] for name in ("factor", "decode", "decode_limit"))
            x = decode(x, factor, kind, limit, self.space)
            return self._seen(x[parts["rows"]] if "rows" in parts else x, parts, choice)

        if self.features is not None:
            maps, block = self._maps(buffers), self.block
            return match_means(maps, params, prepare, parts["stored"], target, block, block)
        call, label = self._logits(buffers), parts["label"]
        return match_target(call, params, self.names, prepare, parts["stored"], target, label, self.metric)

    def _seen(self, x: Tensor, parts: Params, choice: str | None) -> Tensor:
        """Images as the network sees them: normalised and augmented."""
        draws = {name[4:]: value for name, value in parts.items() if name.startswith("aug/")}
        return self.augment.apply((x - self.mean) / self.std, draws, choice)

    def _logits(self, buffers: Params) -> Any:
        def call(params: Params, x: Tensor) -> Tensor:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
                return self.call(params, buffers, x)

        return call

    def _maps(self, buffers: Params) -> Any:
        def maps(params: Params, x: Tensor) -> list[Tensor]:
            assert self.features is not None
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
                found = self.features(params, buffers, x)
            return [held.to(x.dtype) for held in found]

        return maps

    def _last_block(self, data: RealData) -> int:
        assert self.features is not None
        params, buffers = split(self.net)
        return len(self.features(params, buffers, data.pixels(torch.zeros(2, dtype=torch.int64)))) - 1


def _over(function: Any, classes: int) -> Any:
    """`function` of one class's tensors (all arguments after the third), over `classes` at once."""

    def one(params: Params, buffers: Params, choice: str | None, *parts: Any) -> Any:
        return function(params, buffers, choice, *parts)

    def many(params: Params, buffers: Params, choice: str | None, *parts: Any) -> Any:
        return torch.func.vmap(lambda *parts: function(params, buffers, choice, *parts))(*parts)

    return one if classes == 1 else many
