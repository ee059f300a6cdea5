"""A synthetic set as a PyTorch data set: decoded, labelled, in true colours, its class order checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddlib.artifacts import ArtifactError, read_manifest
from ddlib.data.real import class_order_hash
from ddlib.sets.packing import decode_labels, pack
from ddlib.sets.synthetic import SyntheticSet

CARD, TENSORS = "card.json", "set.safetensors"


class DistilledImages(Dataset[tuple[Tensor, int]]):
    """(image float32 [C, H, W], label) of every decoded image of a set.

    `images` [N, C, H, W] and `labels` int64 [N] are all of them, `soft` [N, classes] or None their soft labels,
    `class_names` the classes by label, `set` the set as stored. Images are shares 0-1 or, where `normalised`, as
    networks take them: (image - mean) / std, or whitened (whiten test images by `set.whitened`).
    """

    def __init__(self, made: SyntheticSet, normalised: bool = False) -> None:
        images, self.labels = made.decode()
        self.images = _in_space(made, images, normalised)
        self.soft = None if made.soft is None else decode_labels(made.soft, made.factor)
        self.set, self.class_names = made, made.class_names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


def open_set(path: str | Path, class_order: Sequence[str] | str | None = None) -> SyntheticSet:
    """The set at `path`: its folder, card.json or safetensors file. Checked against the card's hash where there is one.

    `class_order`: class names in the order of your labels, or their hash; ValueError if the set's order is another.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in (CARD, TENSORS) if (path / name).is_file()), path)
    if path.is_dir() or not path.is_file():
        raise ArtifactError(
            f"there is no synthetic set at {path}: name a folder with {CARD} or {TENSORS} (such as "
            "results/sets/<experiment>/ipc10/seed0), or one of these files."
        )
    made = _from_card(path) if path.suffix == ".json" else SyntheticSet.load(path, _hash_in_card(path))
    if class_order is not None:
        _check_order(made, class_order)
    return made


def true_colours(made: SyntheticSet, images: Tensor) -> Tensor:
    """Decoded images [N, C, H, W] of the set's pixel space as shares 0-1 (clipped)."""
    return _in_space(made, images, normalised=False)


def stored_colours(made: SyntheticSet) -> Tensor:
    """The images as stored [N, C, H, W] as shares 0-1 (clipped).

    Whitening goes by place: whitened images that hold several have colours once these are decoded, and are packed anew.
    """
    if made.space != "whitened" or made.factor == 1:
        return true_colours(made, made.pixels)
    return pack(true_colours(made, made.decode()[0]), len(made.images), made.factor, "area")


def _from_card(card: Path) -> SyntheticSet:
    entry = read_manifest(card, "set")["files"]["set"]
    return SyntheticSet.load(card.parent / entry["path"], entry["sha256"])


def _hash_in_card(tensors: Path) -> str | None:
    """What the card beside the file says of its bytes; None where there is no card, or it is another file's."""
    card = tensors.with_name(CARD)
    if not card.is_file():
        return None
    entry = read_manifest(card, "set")["files"]["set"]
    return str(entry["sha256"]) if entry["path"] == tensors.name else None


def _in_space(made: SyntheticSet, images: Tensor, normalised: bool) -> Tensor:
    """From the set's pixel space to shares 0-1 or to normalised pixels."""
    if made.space == "whitened":
        return images if normalised else made.unwhitened(images).clamp(0, 1)
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1).to(images) for values in (made.mean, made.std))
    if normalised:
        return images if made.space == "normalised" else (images - mean) / std
    return (images * std + mean if made.space == "normalised" else images).clamp(0, 1)


def _check_order(made: SyntheticSet, wanted: Sequence[str] | str) -> None:
    """ValueError unless `wanted` (names, or their hash) is the set's class order."""
    names = made.class_names
    if isinstance(wanted, str):
        if not re.fullmatch(r"[0-9a-f]{64}", wanted):
            raise ValueError(f"class_order is a list of class names or a class_order_hash (64 hex digits): {wanted!r}")
        if wanted != made.class_order_hash:
            raise ValueError(
                f"the set numbers its classes {_shown(names)} (class_order_hash {made.class_order_hash[:12]}..), yours "
                f"is {wanted[:12]}..: give the names in your order to see which class differs first."
            )
        return
    if class_order_hash(list(wanted)) == made.class_order_hash:
        return
    pairs = enumerate(zip(names, wanted, strict=False))
    place = next((i for i, (own, other) in pairs if own != other), min(len(names), len(wanted)))
    own, other = (repr(order[place]) if place < len(order) else "missing" for order in (names, wanted))
    raise ValueError(
        f"class {place} is {own} in the set and {other} in your class order ({len(names)} and {len(wanted)} classes): "
        "its labels would mean other classes. Number your classes as set.class_names does."
    )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", .." if len(names) > 3 else "")
