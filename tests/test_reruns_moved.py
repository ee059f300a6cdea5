"""Results that were copied, renamed or adopted; data and weights replaced under their name (docs/reruns.md)."""

import os
import shutil

import pytest
from dryruns import Quick
from folders import folder, write
from rerun_map import BLOCK, FIGURE, JUDGE, MADE_FROM, TABLE, TRAIN, anew
from safetensors.torch import load_file, save_file
from test_reruns import files, in_reverse
from tiny import Tiny, card, condensed, scored

from ddlib.artifacts import read_json


@pytest.fixture
def every(tmp_path_factory, tmp_path):
    return Quick.finished(tmp_path_factory, tmp_path / "repo")


# ---- another machine ----------------------------------------------------------------------------------------------


def test_results_copied_with_times_and_without_records_are_used_and_held_to_their_settings(every):
    shutil.rmtree(every.folder / ".snakemake")
    assert every.plan() == set()
    every.config["pools"]["early"]["training"]["lr"] = 0.02
    assert "training.lr is 0.01, asked is 0.02" in every.refused()


def test_results_copied_without_times_and_records_are_refused_until_their_times_are_in_order(every):
    shutil.rmtree(every.folder / ".snakemake")
    in_reverse(every)
    said = every.refused()
    assert "no record of how these results were made, and by its time " in said
    assert "make adopt FILE=results" in said
    before = {path: path.read_bytes() for path in files(every)}
    done = every.job("adopt", "results")
    assert done.returncode == 0, done.stderr
    assert f"of {len(MADE_FROM) - 1} results were older than what they are made from; they" in done.stdout
    assert every.plan() == set()
    assert {path: path.read_bytes() for path in files(every)} == before
    assert "\n0 of " in "\n" + every.job("adopt", "results").stdout


def test_adopting_a_copy_leaves_what_was_made_with_other_settings(every):
    shutil.rmtree(every.folder / ".snakemake")
    in_reverse(every)
    every.config["observers"]["judge"]["within"] = 0.9
    every.save()
    time = (every.results / JUDGE).stat().st_mtime_ns
    done = every.job("adopt", "results")
    assert f"1 are of other settings than asked for, and were left as they are:\n  results/{JUDGE}: gate" in done.stdout
    assert (every.results / JUDGE).stat().st_mtime_ns == time
    assert "gate.within is 0.05, asked is 0.9" in every.refused()
    assert every.job("adopt", f"results/{JUDGE}", "results").returncode == 0
    assert every.plan() == set()


def test_part_of_a_copy_is_remade_without_its_record_and_all_that_follows(every):
    """A deleted result of a copy, once something needs it."""
    shutil.rmtree(every.folder / ".snakemake")
    for path in anew(BLOCK):
        (every.results / path).unlink()
    assert every.plan() == anew(BLOCK)
    (every.results / TRAIN).touch()
    assert every.plan() == anew(BLOCK)


# ---- renamed ------------------------------------------------------------------------------------------------------


def renamed(every, old, new):
    experiments = every.config["experiments"]
    every.config["experiments"] = {new if name == old else name: entry for name, entry in experiments.items()}
    every.config["suites"]["every"]["experiments"] = list(every.config["experiments"])
    every.save()
    return every.job("rename", old, new)


def test_a_renamed_experiment_keeps_its_results(every):
    old = {path.relative_to(every.results) for path in files(every) if "/p/" in str(path.relative_to(every.results))}
    done = renamed(every, "p", "staged")
    assert done.returncode == 0, done.stderr
    assert "results/condensed/p is now results/condensed/staged" in done.stdout
    assert every.plan() == {TABLE, FIGURE}
    kinds = ("views", "condensed", "sets", "evaluations")
    assert not any((every.results / kind / "p").exists() for kind in kinds)
    moved = [path for path in old if path.parts[0] in kinds]
    assert len(moved) == 22
    assert all((every.results / str(path).replace("/p/", "/staged/", 1)).exists() for path in moved)
    assert set(read_json(every.results / card("staged", 2))["result"]["parts"]) == {
        f"results/{condensed('staged').replace('stage0', f'stage{stage}')}" for stage in (0, 1)
    }
    last = every.results / condensed("staged").replace("stage0", "stage1")
    before = last.with_suffix(".safetensors").read_bytes()
    for path in (last, every.results / scored("staged", 2)):
        path.unlink()
    done = every.snakemake(f"results/{condensed('staged').replace('stage0', 'stage1')}", "results/tables/every.csv")
    assert done.returncode == 0, done.stderr
    assert last.with_suffix(".safetensors").read_bytes() == before


def test_what_cannot_be_renamed(every):
    assert "no experiment 'x'" in every.job("rename", "m", "x").stderr
    assert "still has the experiment 'm'" in every.job("rename", "m", "r").stderr
    done = renamed(every, "m", "sparse")
    assert done.returncode == 0, done.stderr
    assert "there are no results of 'm'" in every.job("rename", "m", "sparse").stderr
    (every.results / "views" / "other").mkdir()
    assert (
        "results/views/sparse: there are results of that name already" in every.job("rename", "other", "sparse").stderr
    )


# ---- replaced under the same name ---------------------------------------------------------------------------------

PREPARED, PICKED = "data/mine/train.json", condensed("mine__random")


@pytest.fixture
def images(tmp_path):
    """Random images of a folder of one's own, made."""
    made = Quick.new(tmp_path / "repo")
    made.config = Tiny(tmp_path).config
    made.config["datasets"] = {"mine": {"source": "folder", "path": "images", "classes": 3, "size": 8}}
    made.config["pools"] = {}
    entry = {**made.config["experiments"]["a"], "dataset": "mine"}
    made.config["experiments"] = {"a": entry}
    made.config["suites"] = {"tiny": {"experiments": ["a"]}}
    made.config["default_suite"] = "tiny"
    folder(tmp_path / "repo" / "data" / "images", {"train": 4, "val": 2})
    made.save()
    done = made.snakemake(f"results/{PICKED}")
    assert done.returncode == 0, done.stderr
    return made


def test_images_replaced_under_their_name_are_read_again(images):
    asked = f"results/{PICKED}"
    assert images.plan(asked) == set()
    image = images.folder / "data" / "images" / "train" / "ant" / "0.png"
    times = image.stat()
    image.touch()
    assert images.plan(asked) == set(), "the same image"
    write(image, 77)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))  # as cp -p and rsync leave it
    assert images.plan(asked) == {PREPARED, PICKED}
    said = images.snakemake("-n", asked)
    assert "its images changed since they were read: train/ant/0.png is another one" in said.stderr
    done = images.snakemake(asked)
    assert done.returncode == 0, done.stderr
    assert images.plan(asked) == set()
    shutil.move(images.folder / "data", images.folder / "away")
    assert images.plan(asked) == set(), "what was read is enough"


def test_weights_replaced_under_their_name_are_judged_again(every):
    trained = load_file(every.results / "pool/early/member0/epoch3.safetensors")
    file = every.folder / "weights.safetensors"
    tensors = {name.removeprefix("params/"): value for name, value in trained.items() if name.startswith("params/")}
    save_file(tensors, file)
    accuracy = read_json(every.results / JUDGE)["result"]["accuracy"]
    filed = {"dataset": "digits", "network": "small", "weights": "weights.safetensors", "accuracy": accuracy}
    every.config["observers"]["judge"] = filed
    every.save()
    made = every.snakemake(f"results/{JUDGE}")
    assert made.returncode == 0, made.stderr
    asked = ("--max-checksum-file-size", "9", f"results/{JUDGE}")  # as if it were as large as weights are
    file.touch()
    assert every.plan(*asked) == set(), "the same weights"
    times = file.stat()
    save_file({name: value + 1 for name, value in tensors.items()}, file)
    os.utime(file, ns=(times.st_atime_ns, 1))
    assert every.plan(*asked) == {JUDGE}
    assert "weights.safetensors is another file than it was made from" in every.snakemake("-n", *asked).stderr
