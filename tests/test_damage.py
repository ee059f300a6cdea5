"""A truncated, flipped or emptied file of every kind is found by its hash, named, and never used."""

import random
import shutil

import pandas as pd
import pytest
from commands import finished, run_here
from every import Every, rule_of
from tiny import card, condensed, scored

from ddlib.artifacts import read_json
from ddlib.jobs.verify import verify
from ddlib.tables import COSTS

M, STAGES = condensed("m"), "condensed/p/per1/seed0/stage{}/{}"
SCORES = "scores/digits/judge/mipc12_crops2_factor1/seed0/scores.{}"
LABELS = "sets/r/ipc1/seed0/labels/{}"
EVALUATED = scored("m")
TABLE = "tables/every.csv"
# A file of every kind, and a job that reads it (None: nothing does, it is for people).
READ = {
    "data/digits/train.json": M,
    "data/digits/train.safetensors": M,
    "data/digits/test.json": EVALUATED,
    "data/digits/test.safetensors": EVALUATED,
    "pool/early/block0.json": "views/m/ipc1/seed0/selection.json",
    "pool/early/block0.run.json": TABLE,
    "pool/early/member0/metrics.csv": "views/m/ipc1/seed0/selection.json",
    "pool/early/member0/epoch2.safetensors": M,
    "views/m/ipc1/seed0/selection.json": M,
    "views/m/ipc1/seed0/selection.csv": M,
    "masks/half/seed0/chunk0.json": M,
    "masks/half/seed0/chunk0.safetensors": M,
    M: card("m"),
    M.replace(".json", ".safetensors"): card("m"),
    M.replace(".json", ".initial.safetensors"): card("m"),
    M.replace(".json", ".run.json"): TABLE,
    STAGES.format(0, "phase0.json"): STAGES.format(1, "from/block0.json"),
    STAGES.format(0, "phase0.safetensors"): STAGES.format(1, "phase0.json"),
    STAGES.format(1, "from/block0.json"): STAGES.format(1, "from/selection.json"),
    STAGES.format(1, "from/block0.run.json"): None,
    STAGES.format(1, "from/member0/metrics.csv"): STAGES.format(1, "from/selection.json"),
    STAGES.format(1, "from/member0/epoch0.safetensors"): STAGES.format(1, "phase0.json"),
    STAGES.format(1, "from/selection.json"): STAGES.format(1, "phase0.json"),
    STAGES.format(1, "from/selection.csv"): STAGES.format(1, "phase0.json"),
    "observers/judge/observer.json": SCORES.format("json"),
    "observers/judge/observer.run.json": None,
    "observers/judge/weights.safetensors": LABELS.format("by_view/quick.json"),
    "observers/judge/confusion.csv": None,
    SCORES.format("json"): condensed("r"),
    SCORES.format("safetensors"): condensed("r"),
    SCORES.format("run.json"): TABLE,
    LABELS.format("by_view/quick.json"): scored("r").replace("/hard/", "/by_view/"),
    LABELS.format("by_view/quick.safetensors"): scored("r").replace("/hard/", "/by_view/"),
    LABELS.format("one_each/decoded.safetensors"): scored("r").replace("/hard/", "/one_each/"),
    LABELS.format("by_view/quick.run.json"): TABLE,
    card("m"): EVALUATED,
    card("m").replace("card.json", "set.safetensors"): EVALUATED,
    card("m").replace("card.json", "preview.png"): None,
    EVALUATED: TABLE,
    EVALUATED.replace(".json", ".csv"): TABLE,
    EVALUATED.replace(".json", ".run.json"): None,
    "tables/every.json": "figures/every.png",
    TABLE: "figures/every.png",
    "tables/every.html": None,
    "figures/every.png": None,
}
HOW = {
    "truncated": lambda held, draw: held[: draw.randrange(1, len(held))],
    "flipped": lambda held, draw: flipped(held, draw.randrange(8 * len(held))),
    "emptied": lambda held, draw: b"",
}


def flipped(held, bit):
    """The bytes with one bit the other way."""
    found = bytearray(held)
    found[bit // 8] ^= 1 << bit % 8
    return bytes(found)


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    return finished(tmp_path_factory, "damage")


def kind(path):
    """A path without the numbers and names that tell files of a kind apart."""
    parts = path.split("/")
    stem = "".join("#" if letter.isdigit() else letter for letter in parts[-1])
    return (rule_of(path), "initial" if "initial" in stem else stem.replace("decoded", "quick"))


def test_no_kind_of_file_is_left_out(every):
    made = [path.relative_to(every.results) for path in every.results.rglob("*") if path.is_file()]
    kinds = {kind(str(path)) for path in made if path.parts[0] not in ("logs", "events")}
    assert {kind(path) for path in READ} == {name for name in kinds if name[1] != "group.json"} | {kind(EVALUATED)}, (
        "a kind of file that this test does not damage"
    )
    assert {rule_of(path) for path in every.commands} == {rule_of(path) for path in READ}


@pytest.mark.parametrize("file", READ)
@pytest.mark.parametrize("how", HOW)
def test_damage_is_found_named_and_never_used(every, file, how):
    path, draw = every.results / file, random.Random(f"{file} {how}")
    whole = path.read_bytes()
    reader = READ[file] and every.results / READ[file]
    made = reader.read_bytes() if reader else None
    try:
        path.write_bytes(HOW[how](whole, draw))
        found, _ = verify(every.results)
        assert [path in damage.files for damage in found] == [True], found
        assert str(path) in found[0].reason
        if reader:
            reader.unlink()
            code, said = run_here(every.folder, every.commands[READ[file]])
            assert code == 1, said
            assert f"results/{file}" in said.splitlines()[-1]
            assert said.splitlines()[-1].startswith("error: ")
            assert not reader.exists()
    finally:
        path.write_bytes(whole)
        if reader:
            reader.write_bytes(made)


def named(results):
    """Each manifest, and the files it names (below the results)."""
    for path in results.rglob("*.json"):
        for entry in read_json(path).get("files", {}).values() if not path.name.endswith(".run.json") else ():
            yield path, str((path.parent / entry["path"]).relative_to(results))


def test_whole_results_are_found_whole(every):
    found, count = verify(every.results)
    assert not found
    assert count > len(READ)


def test_nothing_is_deleted_while_a_workflow_is_at_work(every):
    path, manifest = every.results / "tables/every.html", every.results / "tables/every.json"
    whole = {each: each.read_bytes() for each in (path, manifest)}
    lock = every.folder / ".snakemake/locks/0.input.lock"
    try:
        path.write_bytes(b"")
        lock.touch()
        code, said = run_here(every.folder, ("ddlib.jobs.verify", ["--delete"]))
        assert code == 1
        assert "a Snakemake is at work in this folder" in said
        assert path.exists()
        lock.unlink()
        assert run_here(every.folder, ("ddlib.jobs.verify", ["--delete"]))[0] == 1
        assert not path.exists()
        assert not manifest.exists()
    finally:
        lock.unlink(missing_ok=True)
        for each, content in whole.items():
            each.write_bytes(content)


@pytest.mark.soak
def test_what_is_damaged_and_deleted_as_said_is_made_anew(every, tmp_path):
    """One file in three, damaged all at once: `make verify` names them, deletes them, and the table is as before."""
    copy = Every(shutil.copytree(every.folder, tmp_path / "repo", symlinks=True))
    before, draw = pd.read_csv(copy.results / TABLE).drop(columns=COSTS), random.Random(0)
    damaged = [file for place, file in enumerate(READ) if place % 3 == 0]
    owners = {file: str(path.relative_to(copy.results)) for path, file in named(copy.results)}
    for file in damaged:
        path = copy.results / file
        path.write_bytes(HOW[draw.choice(list(HOW))](path.read_bytes(), draw))
    (copy.results / TABLE).unlink()
    said = copy.job("verify", "--delete")
    assert said.returncode == 1
    unsaid = [file for file in damaged if f"deleted results/{file}" not in said.stdout]
    # Only of files whose manifest is damaged too nobody can tell: it is gone, and they are written anew with it.
    assert not [file for file in unsaid if f"deleted results/{owners[file]}" not in said.stdout]
    done = copy.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    pd.testing.assert_frame_equal(pd.read_csv(copy.results / TABLE).drop(columns=COSTS), before)
    again = copy.job("verify")
    assert again.returncode == 0, again.stdout
    assert "are as they were written" in again.stdout
