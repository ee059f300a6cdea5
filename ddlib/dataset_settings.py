"""Checks of the data sets of a configuration. Nothing here imports torch or looks at files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from .registry import SOURCES

OF_FOLDERS = (
    "path", "size", "class_seed", "class_list", "test_folder", "test_share", "test_resize", "skip_corrupt", "cache",
)  # fmt: skip


def dataset_problems(where: str, entry: Mapping[str, Any]) -> list[str]:
    """What does not fit together in a data set whose source is known."""
    source, facts = entry["source"], SOURCES[entry["source"]].facts
    found = []
    if entry.get("order", "official") not in facts["orders"]:
        found.append(f"{where}.order: {source} comes in the order {', '.join(facts['orders'])} only")
    if "whitening" in entry and "normalisation" in entry:
        found.append(f"{where}.normalisation: whitened pixels are not normalised besides: leave one of the two out")
    if entry.get("normalisation") == "imagenet" and facts["channels"] != 3:
        found.append(f"{where}.normalisation: imagenet has 3 channels, {source} has {facts['channels']}")
    if facts.get("folder"):
        return found + _folder_problems(where, entry, facts)
    found += [
        f"{where}.{key}: for image folders; {source} is none" for key in OF_FOLDERS if key in entry and key != "size"
    ]
    if entry.get("size", facts["size"]) != facts["size"]:
        found.append(f"{where}.size: {source} has images of {facts['size']} px, not {entry['size']}: leave it out")
    if entry["classes"] != facts["classes"]:
        found.append(f"{where}.classes: {source} has {facts['classes']} classes, not {entry['classes']}")
    return found


def _folder_problems(where: str, entry: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Those of an image folder."""
    source, classes, found = entry["source"], entry["classes"], []
    needed = [key for key, known in (("path", "paths"), ("size", "size")) if key not in entry and known not in facts]
    says = {"path": "the folder with the images, in machine.data_dir", "size": "what images are resized to, in pixels"}
    found += [f"{where}: key {key!r} is missing: {says[key]}" for key in needed]
    if "whitening" in entry:
        found.append(f"{where}.whitening: it is for the small images of the archives, not for image folders")
    if "path" in entry and ".." in PurePath(entry["path"]).parts:
        found.append(
            f"{where}.path: {entry['path']!r} leads out of machine.data_dir: set data_dir, or an absolute path"
        )
    if "class_list" in entry and "class_seed" in entry:
        found.append(f"{where}.class_seed: class_list names the classes already: give one of the two")
    if len(entry.get("class_list", range(classes))) != classes:
        found.append(f"{where}.classes: class_list names {len(entry['class_list'])} classes, not {classes}")
    if "classes" in facts and "class_list" not in entry:
        there, fewer = facts["classes"], "class_seed" in entry
        if classes > there or (classes < there and not fewer):
            hint = "" if classes > there else ": to take some of them set class_seed (0: the first ones) or class_list"
            found.append(f"{where}.classes: {source} has {there} classes, not {classes}{hint}")
    size = entry.get("size", facts.get("size", 0))
    if entry.get("test_resize", size) < size:
        found.append(f"{where}.test_resize: {entry['test_resize']} px is less than the size cut out of it, {size}")
    return found
