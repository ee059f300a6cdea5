"""Stages in the real workflow: run once, then one more asked for."""

from __future__ import annotations

import copy
import json

import pandas as pd
import pytest
from safetensors.torch import load_file
from tiny import Tiny, card, scored, shown

FOLDER = "condensed/p/per1/seed0"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Two stages over a method that starts from a pool, and two over one that does not, run."""
    found = Tiny.finished(tmp_path_factory, tmp_path_factory.mktemp("stages") / "t")
    config = found.config
    both = {
        "progressive": {"base": "idc", "stages": 2, "condition": {"epochs": 1}},
        "ipc": [2],
        "protocols": ["staged"],
    }
    config["protocols"]["staged"] = {"recipe": "pdd_idc", "epochs": 1, "whole_steps": 1, "repeats": 1}
    for name, old in {"p": "b", "q": "a"}.items():
        entry = {key: value for key, value in config["experiments"][old].items() if key != "method"}
        config["experiments"][name] = {**entry, **both}
    counted = {"dataset": "digits", "network": "wide", "training": {"epochs": 4, "record_events": True}}
    config["pools"]["counted"] = {**counted, "snapshots": "last"}
    chosen = copy.deepcopy(config["experiments"]["q"])
    chosen["progressive"]["discard"] = {"pool": "counted", "interval": 1}
    chosen["settings"]["real_batch"] = 1
    config["experiments"]["r"] = chosen
    config["suites"]["stages"] = {"experiments": ["p", "q", "r"]}
    found.save()
    done = found.snakemake("results/tables/stages.csv")
    assert done.returncode == 0, done.stdout + done.stderr
    return found


def test_a_set_holds_its_stages_and_the_table_names_them(tiny: Tiny) -> None:
    made = load_file(tiny.results / "sets/p/ipc2/seed0/set.safetensors")
    assert made["stage"].tolist() == [0] * 10 + [1] * 10
    first = load_file(tiny.results / f"{FOLDER}/stage0/phase0.safetensors")
    assert (made["images"][:10] == first["images"]).all(), "bit for bit"
    table = pd.read_csv(tiny.results / "tables/stages.csv")
    assert set(table.method) == {"pdd_idc", "initial", "random", "whole"}
    staged = json.loads((tiny.results / f"{scored('p', 2, protocol='staged')}").read_text())
    assert staged["spec"]["protocol"]["schedule"] == "in_sequence"


def test_a_stage_begins_with_images_that_were_forgotten_as_often_as_it_asks(tiny: Tiny) -> None:
    counts = load_file(tiny.results / "pool/counted/member0/events.safetensors")["forgotten"]
    data = load_file(tiny.results / "data/digits/train.safetensors")
    for stage, chosen in enumerate((counts == 0, counts >= 1)):
        found = load_file(tiny.results / f"condensed/r/per1/seed0/stage{stage}/phase0.initial.safetensors")["images"]
        own = data["images"][chosen].float() / 16
        assert all((own == image).all(dim=(1, 2, 3)).any() for image in found), stage


def test_nothing_is_to_do_then(tiny: Tiny) -> None:
    assert tiny.plan("results/tables/stages.csv") == set()


def test_one_more_stage_makes_that_stage_alone(tiny: Tiny) -> None:
    before = tiny.config["experiments"]["p"]
    try:
        three = {**before, "progressive": {**before["progressive"], "stages": 3}, "ipc": [3]}
        tiny.config["experiments"]["p"] = three
        stage = {f"{FOLDER}/stage2/{name}.json" for name in ("phase0", "from/block0", "from/selection")}
        own = {card("p", 3), scored("p", 3, protocol="staged")}
        for name in ("p__initial", "digits__random"):
            own |= {
                f"condensed/{name}/per3/seed0/stage0/phase0.json",
                card(name, 3),
                scored(name, 3, protocol="staged"),
            }
        assert tiny.plan("results/tables/p.csv") == stage | own | {path for path in shown("p") if path.endswith("csv")}
    finally:
        tiny.config["experiments"]["p"] = before
        tiny.save()


def test_an_edited_stage_remakes_what_comes_after_it(tiny: Tiny) -> None:
    before = tiny.config["experiments"]["q"]
    try:
        condition = {**before["progressive"], "condition": {"epochs": 2}}
        tiny.config["experiments"]["q"] = {**before, "progressive": condition}
        planned = tiny.plan("results/sets/q/ipc2/seed0/card.json")
        assert planned == {"condensed/q/per1/seed0/stage1/phase0.json", card("q", 2)}, (
            "the first stage conditions nothing"
        )
    finally:
        tiny.config["experiments"]["q"] = before
        tiny.save()
