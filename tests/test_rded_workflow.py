"""RDED in the real workflow: from the configuration to a table, and what a change makes run again."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file
from tiny import Tiny, card, condensed, scored, shown

from ddlib import project
from ddlib.artifacts import read_json, sha256_file
from ddlib.checkpoints import Checkpoint
from ddlib.jobs import amounts, relabel, score
from ddlib.paths import MANIFESTS

PICKED = {
    "method": "rded",
    "dataset": "digits",
    "ipc": [1],
    "seeds": [0],
    "observer": "judge",
    "settings": {"mipc": 12, "crops": 2},
    "protocols": ["quick"],
    "students": "group",
}
LABELS = {
    "by_view": {"kind": "per_view", "teacher": "judge", "epochs": 2},
    "one_each": {"kind": "static", "teacher": "judge", "top_k": 3},
    "asked": {"kind": "online", "teacher": "judge"},
}
SCORES = "scores/digits/judge/mipc12_crops2_factor1/seed0/scores.json"
OBSERVER = "observers/judge/observer.json"
STAGES = "condensed/staged/per1/seed0/stage{}/{}.json"


def labelled(name: str, kind: str = "by_view", ipc: int = 1) -> str:
    """Labels of a set."""
    return f"sets/{name}/ipc{ipc}/seed0/labels/{kind}/{'decoded' if kind == 'one_each' else 'quick'}.json"


def taught(name: str, kind: str = "by_view", ipc: int = 1) -> str:
    """The evaluation of a set with labels."""
    return scored(name, ipc).replace("/hard/", f"/{kind}/")


def cells(name: str, *kinds: str, ipc: int = 1) -> set[str]:
    """Labels of a set, and the students that have them."""
    stored = {labelled(name, kind, ipc) for kind in kinds if kind not in ("hard", "asked")}
    return stored | {taught(name, kind, ipc) for kind in kinds}


def made(name: str, ipc: int = 1) -> set[str]:
    """A set, and the students that have its hard labels or those of its views."""
    return {condensed(name, ipc), card(name, ipc)} | cells(name, "hard", "by_view", ipc=ipc)


TABLE = {"tables/ablation.csv"}
ASKED = {"results/tables/ablation.csv"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A table of labels x images; the same crops as the beginning of IDC; stages of RDED, judged by their networks."""
    tiny = Tiny.new(tmp_path_factory.mktemp("rded") / "t")
    config = tiny.config
    config["pools"]["early"]["training"]["epochs"] = 3
    config["observers"], config["labels"] = {"judge": {"pool": "early"}}, copy.deepcopy(LABELS)
    begun = {**config["experiments"]["a"], "observer": "judge", "scoring": {"mipc": 12, "crops": 2}}
    begun["settings"] = {**begun["settings"], "init": "rded"}
    staged: dict[str, Any] = {key: value for key, value in PICKED.items() if key not in ("method", "observer")}
    staged |= {"progressive": {"base": "rded", "stages": 2, "condition": {"epochs": 1}}, "ipc": [2]}
    staged |= {"network": "small", "pool": "early", "view": {"members": 1, "epochs": [2]}}
    config["experiments"] = {"picked": copy.deepcopy(PICKED), "begun": begun, "staged": staged}
    ablation = {"experiments": ["picked"], "labels": ["hard", "by_view"], "images": ["method", "random"]}
    config["suites"] = {"ablation": ablation}
    config["default_suite"] = "ablation"
    tiny.save()
    sets = [f"results/{card(name, ipc)}" for name, ipc in (("begun", 1), ("staged", 2))]
    done = tiny.snakemake("results/tables/ablation.csv", *sets)
    assert done.returncode == 0, done.stdout + done.stderr
    return tiny


@pytest.fixture
def tiny(finished: Tiny, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The finished one, its configuration as it was when the test ends."""
    before = copy.deepcopy(finished.config)
    monkeypatch.chdir(finished.folder)
    yield finished
    finished.config = before
    finished.save()


def command(tiny: Tiny, module: Any, rule: str, names: dict[str, Any], **inputs: str) -> Callable[[str], Path]:
    """A job as the workflow runs it, in this process: given a folder of results, it makes its output there."""
    plan = project.load(tiny.folder)
    machine = {**plan.config["machine"], "checkpoint_seconds": 0}
    spec = json.dumps(plan.spec(rule, names))
    own = MANIFESTS[rule][0].format(**names)

    def run(place: str) -> Path:
        output = Path(own.replace("results/", f"results/{place}/", 1))
        options = ["--spec", spec, "--machine", json.dumps(machine), "--gpus", "1", "--output", str(output)]
        options += ["--run", str(output.with_suffix(".run.json"))]
        for name, path in inputs.items():
            options += [f"--{name}", f"results/{path}"]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "argv", [rule, *options])
            module.main()
        return output

    return run


# ---- made once ------------------------------------------------------------------------------------------------------


def test_a_table_of_labels_and_images(tiny: Tiny) -> None:
    table = pd.read_csv(tiny.results / "tables/ablation.csv")
    found = {(row.experiment, row.labels) for row in table.itertuples()}
    assert found == {(name, labels) for name in ("picked", "digits__random") for labels in ("hard", "by_view")}
    stored = table[table.labels == "by_view"].set_index("experiment").label_bytes
    assert (stored == read_json(tiny.results / labelled("picked"))["result"]["bytes"]).all()
    picked = load_file(tiny.results / "sets/picked/ipc1/seed0/set.safetensors")
    best = load_file(tiny.results / SCORES.replace(".json", ".safetensors"))["file"][:, :1]
    assert (picked["origin"] == best).all()
    assert tiny.plan("results/tables/ablation.csv") == set()


def test_what_was_planned_is_what_was_written(tiny: Tiny) -> None:
    plan = project.load(tiny.folder)
    place = {"experiment": "picked", "ipc": 1, "seed": 0, "at": ""}
    names = {**place, "labels": "by_view", "views": "quick"}
    assert amounts.bytes_of(plan, "relabel", names) == read_json(tiny.results / labelled("picked"))["result"]["bytes"]
    for rule, of, path in (
        ("score", {"dataset": "digits", "observer": "judge", "mipc": 12, "crops": 2, "factor": 1, "seed": 0}, SCORES),
        ("observe", {"observer": "judge"}, "observers/judge/weights.json"),
    ):
        tensors = load_file(tiny.results / path.replace(".json", ".safetensors"))
        assert amounts.bytes_of(plan, rule, of) == sum(each.numel() * each.element_size() for each in tensors.values())
    tensors = load_file(tiny.results / "sets/picked/ipc1/seed0/set.safetensors")
    kept = sum(tensors[name].numel() * tensors[name].element_size() for name in ("images", "origin"))
    assert amounts.bytes_of(plan, "merge", place) == kept


def test_idc_begins_with_the_crops_that_were_picked(tiny: Tiny) -> None:
    picked = load_file(tiny.results / "sets/picked/ipc1/seed0/set.safetensors")["images"]
    folder = tiny.results / "condensed/begun/per1/seed0/stage0"
    begun = load_file(folder / "phase0.initial.safetensors")["images"]
    assert (begun - picked.float() / 255).abs().max() < 1 / 255, "bytes are rounded down"
    assert (load_file(folder / "phase0.safetensors")["images"] != begun).any()


def test_stages_show_images_that_were_not_shown_before(tiny: Tiny) -> None:
    made = load_file(tiny.results / "sets/staged/ipc2/seed0/set.safetensors")
    first, second = (set(made["origin"][made["stage"] == stage].flatten().tolist()) for stage in (0, 1))
    assert len(first) == len(second) == 10
    assert not first & second
    manifest = read_json(tiny.results / STAGES.format(1, "phase0"))
    assert "observer" not in json.dumps(sorted(manifest["spec"])), "the stage's own network judges"


# ---- what runs again ------------------------------------------------------------------------------------------------


def test_another_ipc_does_not_score_again(tiny: Tiny) -> None:
    tiny.config["experiments"]["picked"]["ipc"] = [1, 2]
    assert tiny.plan("results/tables/ablation.csv") == made("picked", 2) | made("digits__random", 2) | TABLE


def test_an_edited_observer_makes_what_it_judged_again(tiny: Tiny) -> None:
    judged = {OBSERVER, SCORES} | made("picked") | cells("digits__random", "by_view") | TABLE
    for change in ({"within": 0.2}, {"epoch": 2}):
        tiny.config["observers"]["judge"] = {"pool": "early", **change}
        assert tiny.plan("results/tables/ablation.csv") == judged, change
    tiny.config["observers"]["judge"] = {"pool": "early", "member": 1}
    assert tiny.plan("results/tables/ablation.csv") == judged | {"pool/early/block1.json"}
    sets = [f"results/{card('begun')}", f"results/{card('staged', 2)}"]
    later = {condensed("begun"), card("begun"), OBSERVER, SCORES, "pool/early/block1.json"}
    assert tiny.plan(*sets) == later, "stages of RDED have no observer"


def test_more_candidates_are_scored_anew(tiny: Tiny) -> None:
    tiny.config["experiments"]["picked"]["settings"]["mipc"] = 13
    assert tiny.plan("results/tables/ablation.csv") == {SCORES.replace("mipc12", "mipc13")} | made("picked") | TABLE


def test_labels_and_images_of_a_suite(tiny: Tiny) -> None:
    suite, table = tiny.config["suites"]["ablation"], "results/tables/ablation.csv"
    suite["labels"] = ["hard", "by_view", "one_each", "asked"]
    both = cells("picked", "one_each", "asked") | cells("digits__random", "one_each", "asked")
    assert tiny.plan(table) == both | TABLE
    suite |= {"labels": ["hard"], "images": ["method"]}
    assert tiny.plan(table) == TABLE
    suite["images"] = ["method", "initial"]
    crops = "picked__crops"
    assert tiny.plan(table) == {condensed(crops), card(crops), scored(crops)} | TABLE, "and no scores"
    tiny.config["labels"]["by_view"]["epochs"] = 1
    suite |= {"labels": ["hard", "by_view"], "images": ["method", "random"]}
    assert tiny.plan(table) == cells("picked", "by_view") | cells("digits__random", "by_view") | TABLE


def test_the_other_kinds_of_labels_teach(tiny: Tiny) -> None:
    """One for each image, and a teacher beside the students."""
    wanted = [f"results/{taught('picked', kind)}" for kind in ("one_each", "asked")]
    tiny.save()
    done = tiny.snakemake(*wanted)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(len(pd.read_csv(tiny.folder / path.replace(".json", ".csv"))) == 1 for path in wanted)
    assert not shown() & {str(path) for path in wanted}


# ---- killed ---------------------------------------------------------------------------------------------------------


class KilledError(Exception):
    """What a test ends a job with."""


def test_scoring_killed_and_resumed_gives_the_same_bytes(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"dataset": "digits", "observer": "judge", "mipc": 12, "crops": 2, "factor": 1, "seed": 0}
    run = command(tiny, score, "score", names, train="data/digits/train.json", observer=OBSERVER)
    save, saved = Checkpoint.save, []

    def dies(self: Checkpoint, tensors: Any, facts: Any) -> None:
        save(self, tensors, facts)
        saved.append(facts["batches"])
        if len(saved) == 2:
            raise KilledError

    monkeypatch.setattr(Checkpoint, "save", dies)
    with pytest.raises(KilledError):
        run("killed")
    output = run("killed")
    assert saved == [1, 2, 3, 4], "batches are judged once"
    whole = tiny.results / SCORES
    assert output.read_bytes() == whole.read_bytes()
    assert sha256_file(output.with_suffix(".safetensors")) == sha256_file(whole.with_suffix(".safetensors"))
    assert not list(Path("results/checkpoints").rglob("*.safetensors"))


def test_labels_killed_and_resumed_or_made_twice_are_the_same_bytes(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"experiment": "picked", "ipc": 1, "seed": 0, "at": "", "labels": "by_view", "views": "quick"}
    run = command(tiny, relabel, "relabel", names, card=card("picked"), teacher=OBSERVER)
    save, saved = Checkpoint.save, []

    def dies(self: Checkpoint, tensors: Any, facts: Any) -> None:
        save(self, tensors, facts)
        saved.append(len(tensors["order"]))
        raise KilledError

    monkeypatch.setattr(Checkpoint, "save", dies)
    with pytest.raises(KilledError):
        run("again")
    output = run("again")
    assert saved == [1], "of two epochs, the first is labelled once"
    whole = tiny.results / labelled("picked")
    assert output.read_bytes() == whole.read_bytes()
    assert sha256_file(output.with_suffix(".safetensors")) == sha256_file(whole.with_suffix(".safetensors"))
    assert not list(Path("results/checkpoints").rglob("*.safetensors"))
