"""Where the images of a folder are: its classes, and which files train and test have. Nothing is written to it.

Understood: `train` with `val`, `validation`, `valid` or `test` beside it, each with one folder per class (torchvision's
ImageFolder: names, WordNet ids, or five digits); Tiny-ImageNet's `val/images` with `val_annotations.txt`; and folders
of classes alone, of which a share is kept for testing. Files may lie deeper within a class folder; hidden ones and
those that are no images are passed over. No torch here: planning counts files.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ddlib import registry
from ddlib.artifacts import canonical
from ddlib.data.classes import chosen
from ddlib.data.walk import class_folders, images_in, inside, within

TESTS = ("val", "validation", "valid", "test")
ANNOTATIONS = "val_annotations.txt"

File = tuple[str, int]
"""A path relative to the data set's folder, and a label."""


@dataclass(frozen=True)
class Found:
    """What a folder holds: `classes` by label, the files of train, and those of test with the name of their folder
    (None: it has none, and a share of train is to be taken)."""

    classes: tuple[str, ...]
    train: tuple[File, ...]
    test: tuple[File, ...] | None
    tested: str

    @property
    def wnids(self) -> tuple[str, ...]:
        """WordNet ids by label; empty for classes that are called otherwise."""
        return tuple(name if re.fullmatch(r"n\d{8}", name) else "" for name in self.classes)


def root_of(spec: Mapping[str, Any], machine: Mapping[str, Any]) -> Path:
    """The folder of a data set: `spec["path"]` (or the usual names of its source) in `machine["data_dir"]`.

    ValueError if there is none, naming where it was looked for.
    """
    if not machine.get("data_dir"):
        raise ValueError(f"machine.data_dir is not set: name the folder that holds the images of {spec['source']}")
    base = Path(machine["data_dir"]).expanduser()
    names: list[str] = [spec["path"]] if "path" in spec else list(registry.SOURCES[spec["source"]].facts["paths"])
    for name in names:
        if (base / name).is_dir():
            return (base / name).resolve()
    tried = ", ".join(str(base / name) for name in names)
    raise ValueError(
        f"no folder with the images of {spec['source']}: looked for {tried}. Put it there, or set machine.data_dir and "
        "the data set's `path`"
    )


def find(spec: Mapping[str, Any], root: Path) -> Found:
    """The classes and files of the folder `root` that the specification asks for, class by class, sorted by path.

    ValueError where folders are missing, superfluous or empty, where `test_share` is missing or one too many, and where
    a link leads out of `root`.
    """
    train = inside(root / "train", root) if (root / "train").is_dir() else root
    there = class_folders(train, root, but=TESTS if train == root else ())
    if train == root and any((root / name).is_dir() for name in TESTS):
        raise ValueError(f"{root} has a folder to test on and no folder `train` beside it: name it so")
    classes = chosen(spec, tuple(there), train)
    files = tuple(
        (path, label) for label, name in enumerate(classes) for path in images_in(there[name], root, f"class {name}")
    )
    tested = _test_folder(spec, root, set(there)) if train != root else ""
    if bool(tested) is ("test_share" in spec):
        raise ValueError(
            f"{root} has the folder {tested!r} to test on, and the configuration takes a test_share of train: leave "
            "test_share out"
            if tested
            else f"{root} has no folder to test on ({', '.join(TESTS)}): add one, or set the data set's test_share: "
            "0.2 to keep a fifth of every class for testing"
        )
    test = _tested(root / tested, root, classes, set(there)) if tested else None
    return Found(classes, files, test, tested)


def _counts(spec: Mapping[str, Any], found: Found) -> tuple[int, int]:
    """How many files train (held-out ones among them) and test have."""
    if found.test is not None:
        return len(found.train), len(found.test)
    per_class = Counter(label for _, label in found.train)
    test = sum(round(spec["test_share"] * many) for many in per_class.values())
    return len(found.train) - test, test


def expected(spec: Mapping[str, Any], machine: Mapping[str, Any]) -> tuple[int, int]:
    """How many images train (held-out ones among them) and test have, by the names of files, for plans.

    What is known is said of published data sets that are not there yet, and of ImageNet, whose files are not listed.
    ValueError if it is a folder of the user's own and not there, and as :func:`find`.
    """
    return _expected(canonical(dict(spec)), canonical({"data_dir": machine.get("data_dir")}))


@cache
def _expected(told: str, machine: str) -> tuple[int, int]:
    spec = json.loads(told)
    facts = registry.SOURCES[spec["source"]].facts
    whole = spec["classes"] == facts.get("classes")
    if whole and spec["source"] == "imagenet1k":
        return tuple(facts["images"])
    try:
        root = root_of(spec, json.loads(machine))
    except ValueError:
        if "paths" not in facts:
            raise
        per_class = (1300, 50)  # ImageNet's, about
        known = facts.get("images") or tuple(many * facts["classes"] for many in per_class)
        return tuple(round(many * spec["classes"] / facts["classes"]) for many in known)
    return _counts(spec, find(spec, root))


def _test_folder(spec: Mapping[str, Any], root: Path, known: set[str]) -> str:
    """The name of the folder to test on; empty if there is none."""
    if "test_folder" in spec:
        if not (root / spec["test_folder"]).is_dir():
            raise ValueError(f"{root} has no folder {spec['test_folder']!r}, which test_folder names")
        return str(spec["test_folder"])
    usable = [name for name in TESTS if (root / name).is_dir() and _labelled(root / name, root, known)]
    if len(usable) > 1:
        raise ValueError(
            f"{root} has {len(usable)} folders to test on, {' and '.join(usable)}: say which with the data set's "
            f"test_folder: {usable[0]}"
        )
    return usable[0] if usable else ""


def _labelled(folder: Path, root: Path, known: set[str]) -> bool:
    """Whether a folder has classes: those of train, or annotations (Tiny-ImageNet's `test` has neither)."""
    return (folder / ANNOTATIONS).is_file() or bool(known & set(class_folders(folder, root)))


def _tested(folder: Path, root: Path, classes: tuple[str, ...], known: set[str]) -> tuple[File, ...]:
    there = class_folders(inside(folder, root), root)
    if not known & set(there) and (folder / ANNOTATIONS).is_file():
        return _annotated(folder, root, classes, known)
    if missing := [name for name in classes if name not in there]:
        raise ValueError(
            f"{folder} has no folder for {len(missing)} of the classes of train: {', '.join(missing[:5])}"
            f"{', ..' if len(missing) > 5 else ''}. Are they called otherwise there?"
        )
    if strange := sorted(set(there) - known):
        raise ValueError(
            f"{folder} has class folders that train lacks: {', '.join(strange[:5])}{', ..' if len(strange) > 5 else ''}"
        )
    return tuple(
        (path, label) for label, name in enumerate(classes) for path in images_in(there[name], root, f"class {name}")
    )


def _annotated(folder: Path, root: Path, classes: tuple[str, ...], known: set[str]) -> tuple[File, ...]:
    """Files of `folder`/images by the class that the annotations give them (Tiny-ImageNet): class by class, by name."""
    labels = {name: label for label, name in enumerate(classes)}
    lines = (folder / ANNOTATIONS).read_text(encoding="utf-8").splitlines()
    named = dict(line.split("\t")[:2] for line in lines if line.count("\t"))
    there = {Path(path).name: path for path in images_in(folder / "images", root, "val")}
    if strange := sorted(set(named.values()) - known):
        raise ValueError(f"{folder / ANNOTATIONS} names classes that train lacks: {', '.join(strange[:5])}")
    for what, files in (("has no file for", set(named) - set(there)), ("does not name", set(there) - set(named))):
        if files:
            raise ValueError(f"{folder / ANNOTATIONS} {what} {len(files)} images, such as {min(files)}")
    found = [(there[name], labels[given]) for name, given in named.items() if given in labels]
    if missing := set(labels.values()) - {label for _, label in found}:
        raise ValueError(f"{folder / ANNOTATIONS} has no image of class {classes[min(missing)]}")
    return tuple(sorted(found, key=lambda file: (file[1], within(file[0]))))
