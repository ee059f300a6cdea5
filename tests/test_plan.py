"""From the configuration to the DAG: cells, baselines, paths and specifications."""

import copy
import json

import pytest
from tiny import ALL, CONFIG, card, condensed, made, scored

from ddlib import guard, presets, project
from ddlib.artifacts import write_json, write_manifest
from ddlib.config import merged, read, resolve
from ddlib.paths import MANIFESTS, made_by
from ddlib.plan import Plan, rows

RULES = ("prepare_data", "train_block", "select_view", "condense", "merge", "evaluate")


def plan(**changes):
    """The plan of the tiny configuration, merged with `changes`."""
    return Plan(resolve(merged(CONFIG, changes), read(project.SCHEMA)))


def outputs(plan, suite):
    return [f"{MANIFESTS[rule][0].format(**names)}".removeprefix("results/") for rule, names in plan.jobs(suite)]


def stems(plan, suite):
    return {cell.stem.removeprefix("results/") + ".json" for cell in plan.cells(suite)}


def test_jobs_are_those_of_the_workflow_causes_first():
    found = outputs(plan(), "tiny")
    assert len(found) == len(set(found))
    assert set(found) == {path for path in ALL if not path.startswith(("tables", "figures"))}
    order = [rule for rule, _ in plan().jobs("tiny")]
    assert order == sorted(order, key=RULES.index)


def test_cells_are_every_ipc_seed_protocol_with_their_baselines():
    given = plan(experiments={"a": {"ipc": [1, 10], "seeds": [0, 2]}}, protocols={"long": {"recipe": "idc"}})
    sets = {(ipc, seed) for ipc in (1, 10) for seed in (0, 2)}
    names = ("a", "a__initial", "digits__random")
    whole = scored("digits__whole", ipc=0, students="small")
    assert stems(given, "a") == {scored(name, *one) for name in names for one in sets} | {whole}
    both = Plan(given.config | {"suites": {"x": {"experiments": ["b"], "protocols": ["quick", "long"]}}})
    names = ("b", "b__initial", "digits__random")
    wanted = {scored(name, protocol=protocol) for name in names for protocol in ("quick", "long")}
    wholes = {scored("digits__whole", ipc=0, students="small", protocol=protocol) for protocol in ("quick", "long")}
    assert stems(both, "x") == wanted | wholes


def test_whole_is_one_job_per_data_set_protocol_and_network():
    given = plan(students={"group": ["small", "wide"]}, experiments={"a": {"ipc": [1, 5], "seeds": [0, 1, 2]}})
    found = {path for path in stems(given, "tiny") if "__whole" in path}
    assert found == {scored("digits__whole", ipc=0, students=name) for name in ("small", "wide")}
    cells = [cell for cell in given.cells("tiny") if cell.experiment == "digits__whole"]
    assert len(cells) == 2
    specs = [given.spec("evaluate", cell.__dict__) for cell in cells]
    assert [list(spec["students"]) for spec in specs] == [["small"], ["wide"]]
    assert all("epochs" not in spec["protocol"] and spec["protocol"]["whole_steps"] == 1 for spec in specs)


def test_snapshots_are_merged_and_evaluated_for_the_experiment_alone():
    given = plan(experiments={"a": {"evaluate_at": [1, 2], "settings": {"outer_iterations": 3}}})
    found = set(outputs(given, "a")) - set(outputs(plan(), "a"))
    assert found == {
        path.replace("seed0/", f"seed0/at{outer}/") for path in (card("a"), scored("a")) for outer in (1, 2)
    }
    assert given.spec("condense", {"experiment": "a", "per": 1, "seed": 0, "stage": 0, "phase": 0})["snapshots"] == [
        1,
        2,
    ]
    assert given.spec("merge", {"experiment": "a", "ipc": 1, "seed": 0, "at": "at2/"})["at"] == 2


def test_phases_share_the_classes():
    given = plan(experiments={"a": {"classes_per_phase": 5}})
    paths = [path for path in outputs(given, "a") if path.startswith("condensed/a/")]
    assert paths == [condensed("a").replace("phase0", f"phase{phase}") for phase in (0, 1)]
    names = {"experiment": "a", "per": 1, "seed": 0, "stage": 0}
    classes = [given.spec("condense", {**names, "phase": phase})["classes"] for phase in ("0", "1")]
    assert classes == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert len(given.phases("a", 1, 0)) == 2
    assert len(given.phases("a__initial", 1, 0)) == 1


def test_blocks_are_as_many_as_the_view_needs():
    given = plan(pools={"early": {"members_per_block": 3}}, experiments={"b": {"view": {"members": 7}}})
    assert given.members("b") == [f"results/pool/early/block{block}.json" for block in range(3)]
    assert given.members("a") == []
    assert given.spec("train_block", {"pool": "early", "block": "2"})["members"] == [6, 7, 8]


def block(given, number=0):
    return given.spec("train_block", {"pool": "early", "block": number})


def test_members_take_turns_at_what_a_pool_varies():
    diversity = {"lr": [0.01, 0.02], "augment": ["color", "color_crop", "crop_flip"], "optimiser": ["adam"]}
    given = plan(pools={"early": {"members_per_block": 4, "diversity": diversity}})
    spec = block(given)
    shared = presets.POOL_TRAINING["idc"] | {"epochs": 1, "optimiser": "adam"}
    del shared["score_snapshots"]  # said where it is off alone
    assert spec["training"] == shared | {"lr": 0.01, "augment": "color"}
    assert spec["differs"] == {
        "1": {"lr": 0.02, "augment": "color_crop"},
        "2": {"augment": "crop"},  # the digits are never mirrored
        "3": {"lr": 0.02},
    }
    assert "differs" not in block(plan())


@pytest.mark.parametrize(("per_block", "changed"), [(1, [2, 3]), (2, [1]), (3, [0, 1])])
def test_a_longer_list_reruns_the_blocks_whose_members_change(per_block, changed):
    """Four members: of 0, 1, 2, 3 two have another rate."""
    short, long = (
        plan(pools={"early": {"members_per_block": per_block, "diversity": {"lr": rates}}})
        for rates in ([0.01, 0.02], [0.01, 0.02, 0.03])
    )
    blocks = range(-(-4 // per_block))
    assert [number for number in blocks if block(short, number) != block(long, number)] == changed
    unused = plan(pools={"early": {"members_per_block": 2, "diversity": {"lr": [0.01, 0.02]}, "training": {"lr": 0.5}}})
    if per_block == 2:
        assert block(unused) == block(short), "a setting that no member has is not in the specification"


def test_recipes_of_pools():
    cifar = {"datasets": {"c": {"source": "cifar10", "classes": 10}}}
    pool = {"network": "small", "training": {"recipe": "drop2sparse"}}
    given = plan(**cifar, pools={"x": {"dataset": "c", **pool}, "y": {"dataset": "digits", **pool}})
    official, digits = (given.spec("train_block", {"pool": pool, "block": 0})["training"] for pool in "xy")
    numbers = {"epochs": 300, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch": 64, "mix_probability": 0.5}
    numbers |= {"decay_at": [2 / 3, 5 / 6], "decay_factor": 0.2, "optimiser": "sgd"}
    assert official.items() >= (numbers | {"augment": "color_crop_flip_scale_rotate"}).items()
    assert {key: digits[key] for key in digits if digits[key] != official[key]} == {
        "augment": "color_crop_scale_rotate"
    }
    idc, acc_dd = presets.POOL_TRAINING["idc"], presets.POOL_TRAINING["acc_dd"]
    assert {key: acc_dd[key] for key in idc if acc_dd[key] != idc[key]} == {"epochs": 2}
    assert acc_dd["decay_at"] == []


def test_windows_stand_in_specifications_as_numbers():
    def views(ipc, **given):
        view = {"members": 1, "metric": "train_augmented", **given}
        known = plan(experiments={"a": {"ipc": [1, 10], "pool": "early", "view": view}})
        at = {"experiment": "a", "seed": 0}
        condense = known.spec("condense", {**at, "per": ipc, "stage": 0, "phase": 0})
        found = known.spec("select_view", {**at, "ipc": ipc})["view"]
        assert condense["view"] == found
        return found

    numbers = {"members": 1, "metric": "train_augmented", "windows": [[0.5, 0.55]]}
    assert views(10, low=0.5, high=0.55) == views(10, windows=[[0.5, 0.55]]) == numbers
    assert views("10", windows="best_by_ipc") == numbers
    assert views(1, windows="best_by_ipc")["windows"] == [[0.0, 0.1]]
    two = [[0.1, 0.2], [0.7, 0.8]]
    assert views(1, windows=two, epochs=[0]) == {**numbers, "windows": two, "epochs": [0]}


def test_settings_are_preset_then_source_then_own():
    settings = plan().experiments["a"]["settings"]
    assert settings["inner_steps"] == 1  # own
    assert settings["metric"] == "mse"  # preset
    cifar = {"datasets": {"c": {"source": "cifar10", "classes": 10}}, "experiments": {"a": {"dataset": "c"}}}
    other = plan(**cifar).experiments["a"]["settings"]
    assert {key for key in settings if settings[key] != other[key]} <= {"image_lr", "decode_limit"}
    initial = plan(experiments={"a": {"settings": {"factor": 2, "init": "mix"}}}).experiments["a__initial"]["settings"]
    assert initial == {"init": "mix", "factor": 2, "outer_iterations": 0}


def test_protocols_are_resolved_for_the_data_set():
    given = plan(
        protocols={"quick": {"steps": {"digits": 7, "other": 9}}},
        datasets={"other": {"source": "cifar10", "classes": 10}},
    )
    assert (given.protocol("quick", "digits")["steps"], given.protocol("quick", "other")["steps"]) == (7, 9)
    assert "flip" not in given.protocol("quick", "digits")["augment"].split("_")
    assert "flip" in given.protocol("quick", "other")["augment"].split("_")


@pytest.mark.parametrize("suite", ["tiny", "a"])
def test_specifications_are_json_and_come_back_equal(suite):
    given = plan()
    for rule, names in [*given.jobs(suite), ("tabulate", {"suite": suite})]:
        spec = given.spec(rule, names)
        assert json.loads(json.dumps(spec)) == spec
        as_text = {key: str(value) for key, value in names.items()}
        assert given.spec(rule, as_text) == spec
        assert spec["versions"]


def test_paths_go_both_ways():
    for rule, names in plan(experiments={"a": {"evaluate_at": []}}).jobs("tiny"):
        for template in MANIFESTS[rule]:
            assert made_by(template.format(**names)) == (rule, {key: str(value) for key, value in names.items()})
    for path in ("results/tables/x.csv", "results/sets/a/ipc1/seed0/preview.png", "data/digits/train.json", "x"):
        with pytest.raises(ValueError, match="is no manifest of the workflow"):
            made_by(path)


def test_the_table_reads_scores_cards_and_costs():
    given = plan()
    wanted = {"sets": ".json", "evaluations": ".csv", "condensed": ".run.json", "pool": ".run.json"}
    assert set(given.table_inputs("tiny")) == {
        f"results/{path.removesuffix('.json')}{wanted[kind]}"
        for path in outputs(given, "tiny")
        if (kind := path.split("/")[0]) in wanted
    }
    assert sum(row["method"] == "whole" for row in rows(given.groups("tiny"))) == 1


def test_disagreement(tmp_path):
    given = plan()
    spec = given.spec("condense", {"experiment": "a", "per": 1, "seed": 0, "stage": 0, "phase": 0})
    path = tmp_path / "phase0.json"
    assert guard.disagreement(path, spec) is None
    write_manifest(path, "phase", spec, {}, {})
    assert guard.disagreement(path, spec) is None
    other = copy.deepcopy(spec)
    other["settings"]["inner_steps"] = 5
    other["seed"] = 3
    del other["stage"]
    assert guard.disagreement(path, other) == (
        f"{path}: seed is 0, asked is 3; settings.inner_steps is 1, asked is 5; stage is 0, asked is not given"
    )
    wide = {**spec, "versions": {f"part{number}": 1 for number in range(9)}}
    assert guard.disagreement(path, wide).endswith(" more")
    write_json(path, {"format": 0})
    assert "is not as it was written" in guard.disagreement(path, spec)
    write_json(path, {"format": 1})
    assert "is not a manifest of format" in guard.disagreement(path, spec)


def test_refusals_name_ten_and_count_the_rest():
    one = guard.refusal({"results/x.json": "results/x.json: a is 1, asked is 2"})
    assert one.endswith("make adopt FILE=results/x.json")
    many = guard.refusal({f"x{number:02}": f"x{number:02}: wrong" for number in range(12)})
    assert "x09: wrong; and 2 more" in many
    assert 'FILE="x00 x01' in many
    assert "x10" not in many


def test_an_unknown_suite_is_answered_with_the_nearest():
    assert project.suite(plan(), "a") == "a"
    with pytest.raises(ValueError, match="no suite is called 'tinny'; did you mean 'tiny'"):
        project.suite(plan(), "tinny")


def test_made_names_what_it_says():
    """The helper other tests rest on."""
    assert made("a") <= set(outputs(plan(), "tiny"))
