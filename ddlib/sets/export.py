"""A synthetic set for other programs: a folder of PNGs by class, or one NumPy file. Both are 8-bit, without pickle."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ddlib.artifacts import write_json
from ddlib.sets.dataset import DistilledImages, stored_colours
from ddlib.sets.synthetic import SyntheticSet

KINDS = ("imagefolder", "npz")
ABOUT, ARRAYS = "about.json", "set.npz"


def export(made: SyntheticSet, kind: str, output: str | Path, stored: bool = False) -> int:
    """Write `made` to the folder `output`, all or nothing; return the number of images.

    `kind`: "imagefolder" (<class>/<image>.png, as torchvision's ImageFolder reads them: folders sort in label order) or
    "npz" (set.npz: images uint8 [N, H, W, C], labels int64 [N], class_names); `stored`: images as stored, not decoded.
    Both hold about.json: the set's facts. ValueError where `output` has something in it.
    """
    if kind not in KINDS:
        raise ValueError(f"a set is exported as {' or '.join(KINDS)}, not {kind!r}")
    images, labels = _arrays(made, stored)
    with _new_folder(Path(output).resolve()) as folder:
        if kind == "npz":
            names = np.array(made.class_names, dtype=np.str_)
            np.savez_compressed(folder / ARRAYS, images=images, labels=labels, class_names=names)
        else:
            _write_pictures(images, labels, made.class_names, folder)
        facts = {**made.facts(), "images": len(labels), "decoded": not stored, "tensors_as": kind}
        write_json(folder / ABOUT, facts)
    return len(labels)


def class_folder(label: int, name: str) -> str:
    """A folder name for a class that sorts by label and is safe whatever the class is called: `00003_cat`."""
    safe = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:60]
    return f"{label:05d}_{safe}" if safe else f"{label:05d}"


def _arrays(made: SyntheticSet, stored: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, C] and labels int64 [N]."""
    if stored:
        images, labels = stored_colours(made), made.labels
    else:
        decoded = DistilledImages(made)
        images, labels = decoded.images, decoded.labels
    pixels = images.mul(255).round().byte().permute(0, 2, 3, 1)
    return pixels.contiguous().numpy(), labels.numpy()


def _write_pictures(images: np.ndarray, labels: np.ndarray, names: tuple[str, ...], folder: Path) -> None:
    channels = images.shape[3]
    if channels not in (1, 3):
        raise ValueError(f"a PNG has 1 or 3 channels, these images have {channels}: export them as npz")
    for label, name in enumerate(names):
        (folder / class_folder(label, name)).mkdir()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        picture = Image.fromarray(image[:, :, 0] if channels == 1 else image)
        picture.save(folder / class_folder(int(label), names[int(label)]) / f"{number:06d}.png", format="PNG")


@contextlib.contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output` that becomes `output` on success and is removed on any error."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not an empty folder: name another one, or delete it first")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
