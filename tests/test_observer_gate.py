"""The gate in the real workflow: an observer that means other classes, or sees other images, judges nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import MACHINE, encoded, spec
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import Tiny

from ddlib import nn as networks
from ddlib import presets, project
from ddlib.artifacts import read_json, read_manifest
from ddlib.data.folder import prepare
from ddlib.jobs import observe, score

COLOURS = {"ant": (200, 60, 60), "bee": (60, 200, 60), "cat": (60, 60, 200)}
CLASSES, PER_CLASS = tuple(COLOURS), 12
DATA = "results/data/mine/train.json"
EXCHANGED = "'ant' is taken for 'bee', 'bee' is taken for 'ant'"


def coloured(root: Path) -> None:
    """Pictures whose class is seen at a glance."""
    rng = np.random.default_rng(0)
    for part, many in (("train", PER_CLASS), ("val", 3)):
        for name, colour in COLOURS.items():
            (root / part / name).mkdir(parents=True)
            for i in range(many):
                pixels = np.clip(rng.normal(colour, 30, (10, 12, 3)), 0, 255).astype(np.uint8)
                (root / part / name / f"{i}.png").write_bytes(encoded(Image.fromarray(pixels)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """An observer from a pool and, in a file, its weights; then two class folders are exchanged."""
    tiny = Tiny.new(tmp_path_factory.mktemp("gate") / "t")
    config, images = tiny.config, tiny.folder / "data" / "mine"
    coloured(images)
    config["datasets"] = {"mine": {"source": "folder", "path": "mine", "classes": 3, "size": 8}}
    training = {"epochs": 12, "batch": 8, "augment": "none"}
    config["pools"] = {"early": {"dataset": "mine", "network": "small", "training": training, "snapshots": "last"}}
    file = {"weights": "own.safetensors", "dataset": "mine", "network": "small"}
    config["observers"] = {"own": {"pool": "early"}, "file": {**file, "accuracy": 0.99}}
    picked = {"method": "rded", "dataset": "mine", "observer": "file", "settings": {"mipc": 4, "crops": 2}}
    picked |= {"ipc": [1], "seeds": [0], "protocols": ["quick"], "students": "group"}
    config["experiments"], config["suites"] = {"picked": picked}, {}
    config["default_suite"] = "picked"
    tiny.save()
    done = tiny.snakemake("results/observers/own/observer.json")
    assert done.returncode == 0, done.stdout + done.stderr
    weights = load_file(tiny.results / "observers/own/weights.safetensors")
    save_file({name.split("/")[1]: value for name, value in weights.items()}, tiny.folder / "own.safetensors")
    done = tiny.snakemake("results/observers/file/observer.json")
    assert done.returncode == 0, done.stdout + done.stderr
    one, other = images / "train" / "ant", images / "train" / "bee"
    one.rename(images / "train" / "x")
    other.rename(one)
    (images / "train" / "x").rename(other)
    return tiny


def run(tiny: Tiny, module: Any, told: dict[str, Any], output: str, **inputs: str) -> None:
    """A job as the workflow runs it, in this process."""
    machine = {**presets.MACHINE, **project.load(tiny.folder).config["machine"]}
    options = ["--spec", json.dumps(told), "--machine", json.dumps(machine), "--output", f"results/{output}.json"]
    options += ["--run", f"results/{output}.run.json"]
    for name, path in inputs.items():
        options += [f"--{name}", path]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tiny.folder)
        patched.setattr(sys, "argv", ["job", *options])
        module.main()


def test_the_observer_knows_its_classes(trained: Tiny) -> None:
    for name in ("own", "file"):
        said = read_json(trained.results / f"observers/{name}/observer.json")["result"]
        assert said["accuracy"] > 0.95
        assert said["images"] == 3 * PER_CLASS


def test_exchanged_class_folders_stop_the_run_and_are_named(trained: Tiny) -> None:
    wanted = "results/sets/picked/ipc1/seed0/card.json"
    done = trained.snakemake(wanted, "--forcerun", DATA)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert f"error: observer file numbers its classes otherwise than mine (training images): {EXCHANGED}" in said
    assert "Were class folders exchanged" in said
    assert "Traceback" not in Path(trained.results / "logs/observe/file.log").read_text()
    for made in ("scores", "sets/picked", "condensed/picked"):
        assert not list((trained.results / made).rglob("*.safetensors")), "nothing was ranked"
    told = project.load(trained.folder).spec("observe", {"observer": "own"})
    inputs = {"train": DATA, "block": "results/pool/early/block0.json", "table": "results/other/confusion.csv"}
    with pytest.raises(ValueError, match=EXCHANGED):
        run(trained, observe, told, "other/observer", **inputs)
    # The file's outputs put in the order that the classes now have: it judges again.
    told = {**project.load(trained.folder).spec("observe", {"observer": "file"}), "outputs": [1, 0, 2]}
    inputs = {"train": DATA, "weights": "own.safetensors", "table": "results/other/renumbered.csv"}
    run(trained, observe, told, "other/renumbered", **inputs)
    assert read_manifest(trained.results / "other/renumbered.json", "observer")["result"]["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("size", "classes", "said"),
    [
        (8, 4, r"other\.safetensors: it tells 4 classes apart, the network 3"),
        (16, 3, r"other\.safetensors: .* classifier\.weight: \(3, 256\).* another image size"),
    ],
)
def test_weights_of_other_classes_or_images_are_refused(trained: Tiny, size: int, classes: int, said: str) -> None:
    options = {"architecture": "convnet", "depth": 1, "width": 4}
    net = networks.build({**options, "norm": "instance"}, channels=3, size=size, classes=classes, seed=0)
    save_file(net.state_dict(), trained.folder / "other.safetensors")
    told = project.load(trained.folder).spec("observe", {"observer": "file"})
    with pytest.raises(ValueError, match=said):
        run(trained, observe, told, "other/x", train=DATA, weights="other.safetensors", table="results/other/x.csv")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 16}, "was trained on images of 8 px, those of folder have 16"),
        ({"classes": 2, "class_list": ["bee", "cat"]}, "was trained on other classes, or another order of them"),
    ],
)
def test_an_observer_of_other_images_scores_nothing(trained: Tiny, changes: dict[str, Any], said: str) -> None:
    told = spec(path="mine", **changes)
    paths = [trained.results / "elsewhere" / f"{part}.json" for part in ("train", "test")]
    prepare({"dataset": told}, {**MACHINE, "data_dir": str(trained.folder / "data")}, *paths, say=lambda text: None)
    asked = {"dataset": told, "mipc": 4, "crops": 2, "factor": 1, "seed": 0}
    with pytest.raises(ValueError, match=said):
        run(trained, score, asked, "x/s", train=str(paths[0]), observer="results/observers/own/observer.json")


def test_a_class_with_too_few_images_is_named(trained: Tiny) -> None:
    trained.config["experiments"]["picked"] |= {"observer": "own", "settings": {"mipc": 13, "crops": 2}}
    trained.save()
    done = trained.snakemake("results/condensed/picked/per1/seed0/stage0/phase0.json", "--forcerun", DATA)
    assert done.returncode == 1
    assert "error: class 0 (ant) has 12 training images, 13 were asked for (mipc" in done.stdout + done.stderr
