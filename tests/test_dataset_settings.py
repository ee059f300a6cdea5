"""Data sets of the configuration: what an image folder may say, what nothing else may, and what jobs are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ddlib.config import ConfigError, read, resolve
from ddlib.plan import Plan
from ddlib.settings import size_problems

ROOT = Path(__file__).resolve().parents[1]
CONFIG, SCHEMA = read(ROOT / "config.yaml"), read(ROOT / "workflow" / "schemas" / "config.schema.yaml")


def planned(text: str) -> Plan:
    """The plan of config.yaml with data sets of YAML besides."""
    return Plan(resolve({**CONFIG, "datasets": {**CONFIG["datasets"], **yaml.safe_load(text)}}, SCHEMA))


def told(entry: str) -> dict[str, Any]:
    return planned(f"mine: {{{entry}}}").dataset("mine")


def test_four_lines_are_a_data_set() -> None:
    assert told("source: folder, path: my_images, classes: 5, size: 64") == {
        "source": "folder",
        "path": "my_images",
        "classes": 5,
        "size": 64,
        "base_size": 64,
        "channels": 3,
        "flip": True,
        "heldout": 0.0,
        "order": "official",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "version": 1,
    }


def test_published_folders_know_their_size_and_take_another() -> None:
    assert (told("source: imagenette, classes: 10")["size"], told("source: tiny_imagenet, classes: 200")["size"]) == (
        224,
        64,
    )
    small = told("source: imagenette, classes: 10, size: 128")
    assert (small["size"], small["base_size"], "list" in small, "paths" in small) == (128, 224, False, False)


def test_what_is_not_said_changes_no_specification() -> None:
    plan = planned("{}")
    assert sorted(plan.dataset("cifar10")) == [
        "base_size", "channels", "classes", "flip", "heldout", "mean", "order", "size", "source", "std", "version",
    ]  # fmt: skip


def test_normalisation_is_a_choice_of_every_source() -> None:
    cifar = told("source: cifar10, classes: 10, normalisation: imagenet")
    assert (cifar["mean"], cifar["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert told("source: cifar10, classes: 10, normalisation: own")["mean"] == [0.4914, 0.4822, 0.4465]
    mine = told("source: folder, path: x, classes: 2, size: 8, normalisation: own")
    assert (mine["mean"], mine["std"]) == (None, None)


def test_class_folders_called_by_digits_stay_text() -> None:
    entry = "source: folder, path: '2024', classes: 2, size: 8, class_list: ['00001', '00000']"
    assert (told(entry)["class_list"], told(entry)["path"]) == (["00001", "00000"], "2024")


@pytest.mark.parametrize(
    "entry, message",
    [
        ("source: folder, classes: 5, size: 64", "key 'path' is missing: the folder with the images"),
        ("source: folder, classes: 5, path: x", "key 'size' is missing: what images are resized to"),
        ("source: folder, classes: 5, path: ../x, size: 8", "'../x' leads out of machine.data_dir"),
        ("source: folder, classes: 5, path: x, size: 8, whitening: zca", "not for image folders"),
        ("source: folder, classes: 3, path: x, size: 8, class_list: [a, b]", "names 2 classes, not 3"),
        ("source: folder, classes: 2, path: x, size: 8, class_list: [a, b], class_seed: 1", "give one of the two"),
        ("source: folder, classes: 2, path: x, size: 8, test_resize: 6", "6 px is less than the size cut out of it, 8"),
        ("source: folder, classes: 2, path: x, size: 8, test_share: 1.0", "test_share: 1.0 is greater than or equal"),
        ("source: folder, classes: 2, path: x, size: 8, order: reordered", "comes in the order official only"),
        ("source: folder, classes: 2, path: x, size: 8, skip_corupt: true", "did you mean 'skip_corrupt'?"),
        ("source: imagenet100, classes: 10", "has 100 classes, not 10: to take some of them set class_seed"),
        ("source: imagenet10, classes: 100", "imagenet10 has 10 classes, not 100"),
        ("source: imagenete, classes: 10", "did you mean 'imagenette'?"),
        ("source: cifar10, classes: 10, path: x", "mine.path: for image folders; cifar10 is none"),
        ("source: cifar10, classes: 10, size: 64", "cifar10 has images of 32 px, not 64"),
        ("source: cifar10, classes: 10, whitening: zca, normalisation: own", "whitened pixels are not normalised"),
        ("source: digits, classes: 10, normalisation: imagenet", "imagenet has 3 channels, digits has 1"),
    ],
)
def test_what_does_not_fit_is_explained(entry: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        told(entry)
    assert message in str(caught.value)


def test_networks_are_compared_with_the_size_asked_for() -> None:
    vgg = {"v": {"architecture": "vgg"}}
    assert size_problems("x", vgg, {"source": "folder", "size": 64}) == []
    assert "those of folder have 16" in size_problems("x", vgg, {"source": "folder", "size": 16})[0]
    assert size_problems("x", vgg, {"source": "imagenette"}) == []
