"""The files of a folder that are images; links out of the data set's folder are refused."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

IMAGES = (".jpg", ".jpeg", ".jpe", ".png")
OTHER_IMAGES = (".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".heic", ".heif", ".ppm", ".pgm", ".jp2", ".jxl")


def class_folders(folder: Path, root: Path, but: Iterable[str] = ()) -> dict[str, Path]:
    """Name -> path of the folders in `folder`, sorted by name; without hidden ones and those called as in `but`."""
    entries = sorted(folder.iterdir(), key=lambda path: path.name)
    folders = (path for path in entries if not _hidden(path.name) and path.name not in tuple(but))
    return {path.name: inside(path, root) for path in folders if path.is_dir()}


def images_in(folder: Path, root: Path, what: str) -> list[str]:
    """Paths, relative to `root` and sorted, of the images in `folder` and below it.

    ValueError if there are none (`what` they are of stands in the message), if one is of a kind that is not read, and
    if a link leads out of `root`, round in a circle or nowhere.
    """
    if not folder.is_dir():
        raise ValueError(f"{what}: {folder} is missing")
    found: list[str] = []
    waiting, seen = [folder], {folder.resolve()}
    while waiting:
        for entry in os.scandir(waiting.pop()):
            path = Path(entry.path)
            if _hidden(entry.name):
                continue
            if entry.is_symlink():
                inside(path, root)
            if entry.is_dir():
                real = path.resolve()
                if real in seen:
                    raise ValueError(f"{path} leads to a folder that was read already: remove this link")
                seen.add(real)
                waiting.append(path)
            elif _is_image(path):
                found.append(path.relative_to(root).as_posix())
    if not found:
        raise ValueError(f"{what} has no images: {folder} holds no JPEG or PNG files")
    return sorted(found, key=within)


def within(path: str) -> tuple[str, ...]:
    """What paths are sorted by: their parts, so that a folder's files stay together."""
    return tuple(path.split("/"))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_image(path: Path) -> bool:
    """Whether a file is called as an image. ValueError if it is one of another kind, or no plain file."""
    suffix = path.suffix.lower()
    if suffix in OTHER_IMAGES:
        raise ValueError(f"{path} is a {suffix[1:].upper()} image: convert it to PNG or JPEG, or move it away")
    if suffix in IMAGES and not path.is_file():
        raise ValueError(f"{path} is no plain file: move it away")
    return suffix in IMAGES


def inside(path: Path, root: Path) -> Path:
    """`path`, if what it leads to is in `root` (an absolute path without links). ValueError if it is a link out."""
    if not path.is_symlink():
        return path
    if not path.exists():
        raise ValueError(f"{path} is a link that leads nowhere: remove it")
    if not path.resolve().is_relative_to(root):
        raise ValueError(
            f"{path} is a link to {path.resolve()}, out of the data set's folder {root}: links out of it are not "
            "followed. Copy what it leads to, or let the data set's `path` name the folder that holds all"
        )
    return path
