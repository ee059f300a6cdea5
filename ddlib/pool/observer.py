"""Observers: trained networks that judge images (RDED's crops) and label them (as teachers), checked before they do.

Whoever downloads a network and has class folders in another order gets labels that mean other classes, and accuracies a
third of what is published (issues 1, 3, 4 and 6 of LINs-lab/RDED). So nothing is ranked or labelled before the
observer's confusion matrix, on real training images (those held out, if any; never test images), has the identity as
its best assignment of predictions to classes, and its accuracy is near what it is known to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddlib import nn as networks
from ddlib.artifacts import ArtifactError, check_file, load_file, read_manifest, read_table
from ddlib.data.real import RealData
from ddlib.train.compiler import EAGER, Compiler, decide, forward_flops
from ddlib.train.loop import State
from ddlib.train.scoring import Scorer


@dataclass
class Observer:
    """A trained network: `net` and its `state`, on a device; `digest` of its weights' file; the `class_order_hash` and
    image size (pixels) it was trained with. Called with images [n, C, size, size], normalised as its data set is, it
    gives logits [n, classes], in evaluation mode and without gradients."""

    net: nn.Module
    state: State
    digest: str
    class_order_hash: str
    size: int
    precision: str = "fp32"
    compiler: Compiler = EAGER

    def __post_init__(self) -> None:
        device = next(iter(self.state.params.values())).device
        self._scorer = Scorer(self.net, device, self.compiler, self.precision)

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self._scorer.forward(self.state.params, self.state.buffers, x)

    def fits(self, data: Any, path: str) -> None:
        """ValueError unless `data` (real or synthetic images, with `class_order_hash` and `name`) has the classes, in
        the order, and the size this observer was trained with. `path`: what to call it."""
        if self.class_order_hash != data.class_order_hash:
            raise ValueError(
                f"{path} was trained on other classes, or another order of them, than those of {data.name} "
                f"({', '.join(data.class_names[:3])}, ..): its labels would mean other classes"
            )
        size = data.images.shape[2]
        if size != self.size:
            raise ValueError(f"{path} was trained on images of {self.size} px, those of {data.name} have {size}")

    @classmethod
    def load(
        cls,
        manifest_path: str | Path,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        compile_mode: str = "never",
        images: int = 0,
    ) -> Observer:
        """The observer that the rule `observe` checked and wrote. `compile_mode`: auto, always or never, for so many
        `images` it will see, in batches of one size."""
        path = Path(manifest_path)
        manifest = read_manifest(path, "observer")
        spec, facts = manifest["spec"], manifest["result"]
        tensors, _ = load_file(path, manifest, "weights")
        digest = manifest["files"]["weights"]["sha256"]
        net = build(spec["network"], spec["dataset"])
        state = State.from_tensors(tensors, device)
        size = spec["dataset"]["size"]
        flops = images * forward_flops(net, (spec["dataset"]["channels"], size, size)) if images else 0.0
        compiler = decide(compile_mode, torch.device(device).type, flops)
        return cls(net, state, digest, facts["class_order_hash"], size, precision, compiler)


def build(network: Mapping[str, Any], dataset: Mapping[str, Any]) -> nn.Module:
    """The network of a specification for images of a data set, its weights not yet those of the observer."""
    options = {key: value for key, value in network.items() if key != "version"}
    shape = {"channels": dataset["channels"], "size": dataset["size"], "classes": dataset["classes"]}
    return networks.build(options, **shape, seed=0)


def confusion(observer: Observer, data: RealData, most: int) -> np.ndarray:
    """int64 [classes, classes]: how many of (at most `most` of) each class of `data` are taken for which."""
    rows = torch.cat([data.of_class(label)[:most] for label in range(data.classes)])
    found = np.zeros((data.classes, data.classes), dtype=np.int64)
    mean, std = (torch.tensor(v, device=data.labels.device).reshape(1, -1, 1, 1) for v in (data.mean, data.std))
    for part in torch.split(rows, 100):
        told = observer((data.pixels(part) - mean) / std).argmax(1)
        np.add.at(found, (data.labels[part].cpu().numpy(), told.cpu().numpy()), 1)
    return found


def check(
    found: np.ndarray, names: Sequence[str], expected: float | None, within: float, what: str, on: str
) -> dict[str, Any]:
    """What an observer's confusion matrix says of it: {"accuracy", "images"}.

    `expected`: its known accuracy on such images (share 0-1; None: not known), from which it may be `within` apart and
    three deviations of the estimate besides. ValueError naming the pairs of classes that were exchanged, or both
    accuracies.
    """
    from scipy.optimize import linear_sum_assignment

    shares = found / np.maximum(found.sum(1, keepdims=True), 1)
    _, best = linear_sum_assignment(-shares)
    images, accuracy = int(found.sum()), float(np.trace(found) / found.sum())
    moved = [(label, int(other)) for label, other in enumerate(best) if label != other]
    # Ties (an observer that knows little) are no exchange.
    if moved and shares[np.arange(len(best)), best].sum() > np.trace(shares) + 1e-9:
        said = ", ".join(f"{names[label]!r} is taken for {names[other]!r}" for label, other in moved[:4])
        raise ValueError(
            f"{what} numbers its classes otherwise than {on}: {said}{' ..' if len(moved) > 4 else ''} (accuracy "
            f"{accuracy:.1%} of {images} images; {shares[np.arange(len(best)), best].mean():.1%} with classes "
            "reassigned). Were class folders exchanged or renamed since it was trained? Put them back, or train anew."
        )
    if expected is None:
        return {"accuracy": round(accuracy, 6), "images": images}
    margin = within + 3 * float(np.sqrt(expected * (1 - expected) / images))
    if abs(accuracy - expected) > margin:
        raise ValueError(
            f"{what} has an accuracy of {accuracy:.1%} on {images} images of {on}, it is known to have {expected:.1%} "
            f"(more than {100 * margin:.1f} points apart). Are the images prepared as those it was trained on? "
            "If all is as it should be, set `accuracy` or `within` of the observer."
        )
    return {"accuracy": round(accuracy, 6), "expected": round(expected, 6), "images": images}


def from_block(block: Path, member: int, epoch: int) -> tuple[dict[str, Tensor], float | None, float | None]:
    """(tensors, accuracy on clean training images, accuracy on those held out) of a checkpoint of a pool; None where
    it was not measured. ArtifactError where the block does not have it."""
    manifest = read_manifest(block, "block")
    name = f"member{member}/epoch{epoch}"
    if name not in manifest["files"]:
        kept = ", ".join(sorted(key for key in manifest["files"] if key.startswith(f"member{member}/epoch")))
        raise ArtifactError(f"{block} has no checkpoint of member {member} at epoch {epoch}; it has {kept or 'none'}")
    tensors, _ = load_file(block, manifest, name)
    curve = read_table(check_file(block, manifest, f"member{member}/metrics"))
    row = next(row for row in curve if int(row["epoch"]) == epoch)
    clean, heldout = (float(row[key]) if row[key] else None for key in ("train_clean", "heldout"))
    return tensors, clean, heldout
