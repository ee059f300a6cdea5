"""Small image folders for tests, and data sets prepared from them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddlib import registry
from ddlib.data.folder import prepare
from ddlib.data.real import RealData

MACHINE: dict[str, Any] = {"threads": 1, "cache_gb": 1, "resident_mb": 4000}


def picture(seed: int, width: int = 20, height: int = 16) -> Image.Image:
    """A smooth picture, always the same for a seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def write(path: Path, seed: int = 0, kind: str = "PNG", **size: int) -> Path:
    """A picture in a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture(seed, **size), kind))
    return path


def folder(root: Path, parts: Mapping[str, int], classes: tuple[str, ...] = ("ant", "bee", "cat")) -> Path:
    """`root`/{part}/{class}/{number}.png, as many a class as `parts` says; a part called "" lies in `root` itself."""
    for p, (part, count) in enumerate(parts.items()):
        for c, name in enumerate(classes):
            for i in range(count):
                write(root / part / name / f"{i}.png", seed=1000 * p + 100 * c + i)
    return root


def spec(**changes: Any) -> dict[str, Any]:
    """The specification of a data set in the folder `images`."""
    source = registry.SOURCES[changes.get("source", "folder")]
    facts = {key: value for key, value in source.facts.items() if key not in registry.UNTOLD}
    base = {"source": "folder", "classes": 3, "size": 8, "path": "images", "heldout": 0.0, "order": "official"}
    return {**facts, **base, **changes, "version": 1}


def prepared(tmp_path: Path, **changes: Any) -> tuple[RealData, RealData]:
    """Train and test of `tmp_path`/images, prepared in `tmp_path`/data and read again."""
    machine = {**MACHINE, "data_dir": str(tmp_path), **changes.pop("machine", {})}
    paths = [tmp_path / "results" / "mine" / f"{part}.json" for part in ("train", "test")]
    prepare({"dataset": spec(**changes)}, machine, *paths, say=lambda text: None)
    train, test = (RealData.load(path, "cpu", machine) for path in paths)
    return train, test


def pixels(path: Path) -> torch.Tensor:
    """uint8 [3, H, W] of a file as Pillow reads it."""
    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy())
