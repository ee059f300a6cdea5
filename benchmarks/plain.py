"""The plain formulation: IDC's inner iteration as its official code goes about it. The baseline of `make bench`.

Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, arXiv 2205.14959; the
habits of snu-mllab/Efficient-Dataset-Condensation (ceac95a), in our own words: eager, class after class, a second
derivative by ``create_graph``, ``nn.GroupNorm``, batches stacked from lists of single float images, augmentation by
index grids, one optimiser over all synthetic images stepped once a class, and numbers fetched from the device (`.item`)
in every step. It computes what ddlib computes: tests/test_benchmarks.py compares loss, gradient and steps in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain_augment import Draws, colour, crop, cutout, decode, draw


class PlainConvNet(nn.Module):
    """ConvNet with instance norm as GroupNorm of one channel a group; names of tensors as in ddlib's ConvNet."""

    def __init__(self, channels: int, size: int, classes: int, depth: int, width: int) -> None:
        super().__init__()
        inputs = [channels] + [width] * (depth - 1)
        convs = nn.ModuleList(nn.Conv2d(n, width, 3, padding=1) for n in inputs)
        norms = nn.ModuleList(nn.GroupNorm(width, width) for _ in inputs)
        self.layers = nn.ModuleDict({"conv": convs, "norm": norms})
        self.classifier = nn.Linear(width * (size // 2**depth) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.layers["conv"].children(), self.layers["norm"].children(), strict=True):
            x = F.avg_pool2d(F.relu(norm(conv(x))), 2)
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


class Plain:
    """`settings`: ddlib/presets.py; `images`, `labels`: real data as lists; `synthetic` [classes * ipc, C, H, W]."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        images: list[Tensor],
        labels: list[int],
        mean: Tensor,
        std: Tensor,
        net: nn.Module,
        synthetic: Tensor,
        image_lr: float,
        seed: int = 0,
    ) -> None:
        self.settings, self.images, self.labels, self.mean, self.std = settings, images, labels, mean, std
        self.net, self.synthetic = net.train(), synthetic.clone().requires_grad_()
        self.rng = np.random.default_rng(seed)
        self.members: list[list[int]] = [[] for _ in range(max(labels) + 1)]
        for index, label in enumerate(labels):
            self.members[label].append(index)
        self.ipc = len(synthetic) // len(self.members)
        self.moves = torch.optim.SGD([self.synthetic], lr=image_lr, momentum=settings["image_momentum"])
        rates = {key: settings[f"network_{key}"] for key in ("lr", "momentum", "weight_decay")}
        self.learns = torch.optim.SGD(self.net.parameters(), **rates)
        self.criterion = nn.CrossEntropyLoss()

    def batch(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Real images and labels, stacked one by one."""
        x = torch.stack([self.images[i] for i in chosen])
        return x, torch.tensor([self.labels[i] for i in chosen], device=x.device)

    def match(self, label: int, chosen: Sequence[int], draws: Draws | None = None) -> float:
        """One class: the distance of its gradients, and a step of the optimiser of all synthetic images."""
        real, real_labels = self.batch(chosen)
        stored = self.synthetic[label * self.ipc : (label + 1) * self.ipc]
        decoded = decode(stored, self.settings["factor"])
        both = (torch.cat([real, decoded]) - self.mean) / self.std
        draws = draw(self.rng, both, each=False) if draws is None else draws
        both = cutout(crop(colour(both, draws), draws), draws)
        real, decoded = both[: len(real)], both[len(real) :]
        weights = list(self.net.parameters())
        target = torch.autograd.grad(self.criterion(self.net(real), real_labels), weights)
        labels = torch.full((len(decoded),), label, device=decoded.device)
        own = torch.autograd.grad(self.criterion(self.net(decoded), labels), weights, create_graph=True)
        loss = torch.zeros((), device=decoded.device)
        for a, b in zip(target, own, strict=True):
            if a.ndim > 2:
                loss = loss + ((a.detach() - b) ** 2).sum()
        self.moves.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.moves.step()
        return float(loss.item())

    def matching(self) -> float:
        """Every class once, on real images drawn at random: the sum of losses."""
        many, total = self.settings["real_batch"], 0.0
        for label, own in enumerate(self.members):
            total += self.match(label, [own[i] for i in torch.randperm(len(own))[:many].tolist()])
        return total

    def training(self) -> float:
        """The network's steps between two rounds of matching: the mean of their losses."""
        batch, losses = self.settings["network_batch"], []
        order = torch.randperm(len(self.labels)).tolist()
        for step in range(-(-self.settings["network_samples"] // batch)):
            first = step * batch % max(1, len(order) - batch + 1)
            losses.append(self.train(order[first : first + batch])[0])
        return sum(losses) / len(losses)

    def train(self, chosen: Sequence[int], draws: Draws | None = None, mix: Draws | None = None) -> tuple[float, ...]:
        """One step of the network: (loss, share right, share right among the first five)."""
        x, y = self.batch(chosen)
        with torch.no_grad():
            x = (x - self.mean) / self.std
            draws = draw(self.rng, x, each=True) if draws is None else draws
            x = crop(colour(x, draws), draws)
        mix = self._mix(x) if mix is None else mix
        if mix:
            r0, c0, r1, c1 = mix["box"]
            x[:, :, r0:r1, c0:c1] = x[mix["permutation"], :, r0:r1, c0:c1]
            logits = self.net(x)
            other = self.criterion(logits, y[mix["permutation"]])
            loss = mix["ratio"] * self.criterion(logits, y) + (1 - mix["ratio"]) * other
        else:
            logits = self.net(x)
            loss = self.criterion(logits, y)
        self.learns.zero_grad()
        loss.backward()
        self.learns.step()
        hits = logits.detach().topk(min(5, logits.shape[1]))[1] == y[:, None]
        return loss.item(), hits[:, :1].float().sum().item() / len(y), hits.float().sum().item() / len(y)

    def _mix(self, x: Tensor) -> Draws:
        """CutMix of this batch, or nothing."""
        if self.rng.random() >= self.settings["network_mix_probability"]:
            return {}
        height, width = x.shape[2:]
        share = np.sqrt(1 - self.rng.beta(1.0, 1.0))
        centre = int(self.rng.integers(height)), int(self.rng.integers(width))
        half = int(height * share) // 2, int(width * share) // 2
        r0, r1 = (int(np.clip(centre[0] + sign * half[0], 0, height)) for sign in (-1, 1))
        c0, c1 = (int(np.clip(centre[1] + sign * half[1], 0, width)) for sign in (-1, 1))
        ratio = 1 - (r1 - r0) * (c1 - c0) / (height * width)
        return {"box": (r0, c0, r1, c1), "permutation": torch.randperm(len(x)).to(x.device), "ratio": ratio}
