"""docs/your-own-data.md does what it says: its folder, its configuration and its command, as they stand there."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from folders import folder, write
from tiny import ROOT, Tiny

from ddlib import presets, registry
from ddlib.artifacts import read_json
from ddlib.dataset_settings import OF_FOLDERS

PAGE = (ROOT / "docs" / "your-own-data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^    \.venv/bin/snakemake (.*)$", PAGE, flags=re.MULTILINE)


@pytest.fixture
def checkout(tmp_path: Path) -> Tiny:
    """A checkout with the configuration as delivered, and the images of the page."""
    made = Tiny.new(tmp_path)
    made.patience = 900
    shutil.copy(ROOT / "config.yaml", tmp_path / "config.yaml")
    local = yaml.safe_load(BLOCKS[0]) | {"machine": {"device": "cpu", "compile": "never", "tracking": "none"}}
    (tmp_path / "config.local.yaml").write_text(yaml.safe_dump(local))
    folder(tmp_path / "data" / "my_images", {"train": 20, "val": 5}, ("ant", "bee", "cat"))
    return made


def test_the_page_as_it_stands_makes_a_table(checkout: Tiny) -> None:
    typed, reread = (shlex.split(command) for command in COMMANDS)
    done = checkout.run("-m", "snakemake", *typed)
    assert done.returncode == 0, done.stdout + done.stderr
    with open(checkout.folder / typed[-1], newline="") as handle:
        rows = {row["method"]: float(row["accuracy_mean"]) for row in csv.DictReader(handle)}
    assert {"idc", "random", "whole"} <= set(rows)
    data = checkout.results / "data" / "mine"
    for name in ("index_train.csv", "index_test.csv"):
        assert (data / name).is_file()
    said = read_json(data / "train.json")["result"]
    assert (said["per_class"], said["class_names"]) == ([20, 20, 20], ["ant", "bee", "cat"])
    assert not re.search(r"^rule ", checkout.run("-m", "snakemake", "-n", *typed).stdout, flags=re.MULTILINE)
    write(checkout.folder / "data" / "my_images" / "train" / "bee" / "new.png", 5)
    planned = re.findall(r"^rule (\w+):", checkout.run("-m", "snakemake", "-n", *reread).stdout, flags=re.MULTILINE)
    assert {"prepare_data", "condense", "evaluate"} <= set(planned)


def test_every_key_and_source_of_folders_is_on_the_page() -> None:
    missing = [key for key in OF_FOLDERS if f"`{key}`" not in PAGE]
    missing += [
        name for name, entry in registry.SOURCES.items() if entry.facts.get("folder") and f"`{name}`" not in PAGE
    ]
    missing.remove("folder")
    assert "source: folder" in PAGE
    for name in ("cache_gb", "resident_mb"):
        assert f"`machine.{name}` ({presets.MACHINE[name]})" in PAGE
    assert not missing


def test_the_other_examples_are_valid(checkout: Tiny) -> None:
    for block in BLOCKS[1:]:
        (checkout.folder / "config.local.yaml").write_text(block)
        done = checkout.run("-c", "from ddlib import project; print(sorted(project.load().config['datasets']))")
        assert done.returncode == 0, done.stderr
        for name in yaml.safe_load(block)["datasets"]:
            assert repr(name) in done.stdout
