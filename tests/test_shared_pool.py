"""Experiments that name one pool share its members: each block is trained once, and only missing ones later."""

import copy

import pytest
from tiny import CONFIG, Tiny

from ddlib import presets, project, registry
from ddlib.artifacts import read_manifest, write_json, write_manifest
from ddlib.config import read, resolve
from ddlib.paths import MANIFESTS
from ddlib.plan import Plan

# Every method that may start from a pool, and IDC once more or twice, so that there are three.
METHODS = [name for name, entry in registry.METHODS.items() if entry.facts.get("pool")]
SHARING = {f"shared{number}": method for number, method in enumerate([*METHODS, "idc", "idc"][: max(3, len(METHODS))])}
VIEWS = {f"views/{name}/ipc1/seed0/selection.json" for name in SHARING}


def asking(members, per_block=1):
    """The tiny configuration with a suite of experiments that look at `members` members of one pool."""
    config = copy.deepcopy(CONFIG)
    config["pools"]["early"]["members_per_block"] = per_block
    config["masksets"] = {"sparse": {"dataset": "digits", "network": "small", "kind": "uniform", "sparsity": 0.8}}
    plain = config["experiments"]["a"]
    for name, method in SHARING.items():
        known = presets.METHOD_SETTINGS[method]["default"]
        settings = {key: value for key, value in plain["settings"].items() if key in known}
        entry = {**plain, "method": method, "settings": settings, "pool": "early"}
        ahead = registry.METHODS[method].facts.get("horizon")
        entry["view"] = {"members": members, **({"epochs": [0], "horizon": 1} if ahead else {"epochs": [1]})}
        if registry.METHODS[method].facts.get("masks"):
            entry["masks"] = "sparse"
        config["experiments"][name] = entry
    config["suites"]["tiny"]["experiments"] = list(SHARING)
    return config


def plan_of(config):
    return Plan(resolve(config, read(project.SCHEMA)))


def blocks(*numbers):
    return {f"pool/early/block{number}.json" for number in numbers}


def views(tiny, config):
    """What a run would make of the views."""
    tiny.config = config
    return tiny.plan(*(f"results/{path}" for path in sorted(VIEWS)))


@pytest.mark.parametrize(("per_block", "held"), [(1, [[m] for m in range(5)]), (2, [[0, 1], [2, 3], [4, 5]])])
def test_a_block_is_one_job_whoever_asks(per_block, held):
    given = plan_of(asking(5, per_block))
    jobs = [names for rule, names in given.jobs("tiny") if rule == "train_block"]
    assert jobs == [{"pool": "early", "block": number} for number in range(len(held))]
    assert [given.spec("train_block", names)["members"] for names in jobs] == held
    assert all(given.members(name) == given.members("shared0") for name in SHARING)
    assert len({given.experiments[name]["method"] for name in SHARING}) == len(METHODS)


@pytest.mark.parametrize(("per_block", "there", "missing"), [(1, range(5), range(5, 10)), (2, range(3), range(3, 5))])
def test_ten_members_after_five_train_the_missing_blocks(tmp_path, per_block, there, missing):
    tiny = Tiny.new(tmp_path / "repo")
    before = plan_of(asking(5, per_block))
    made = [("prepare_data", {"dataset": "digits"}), *(("train_block", {"pool": "early", "block": b}) for b in there)]
    for rule, names in made:
        for manifest in (template.format(**names) for template in MANIFESTS[rule]):
            write_manifest(tiny.folder / manifest, "made", before.spec(rule, names), {}, {})
            write_json((tiny.folder / manifest).with_suffix(".run.json"), {})
    assert views(tiny, asking(5, per_block)) == VIEWS
    assert views(tiny, asking(10, per_block)) == VIEWS | blocks(*missing)


def test_experiments_that_ran_have_trained_their_pool_once(tmp_path):
    tiny = Tiny.new(tmp_path / "repo")
    assert views(tiny, asking(1)) == {"data/digits/train.json"} | blocks(0) | VIEWS
    done = tiny.snakemake(*(f"results/{path}" for path in sorted(VIEWS)))
    assert done.returncode == 0, done.stdout + done.stderr
    logs = [path.name for path in (tiny.results / "logs" / "train_block").rglob("*.log")]
    assert logs == ["block0.log"]
    assert done.stdout.count("rule train_block:") + done.stderr.count("rule train_block:") == 1
    trained = read_manifest(tiny.results / "pool" / "early" / "block0.json", "block")
    chosen = {name: (tiny.results / f"views/{name}/ipc1/seed0/selection.csv").read_text() for name in SHARING}
    assert (
        len({chosen[name] for name, method in SHARING.items() if "horizon" not in registry.METHODS[method].facts}) == 1
    )
    assert all(trained["files"]["member0/epoch1"]["sha256"] in text for text in chosen.values())
    assert views(tiny, asking(1)) == set()
    assert views(tiny, asking(2)) == blocks(1) | VIEWS
