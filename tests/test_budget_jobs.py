"""`budget` in the configuration, the plan and its cost, the jobs on disk, and the table."""

import copy
import itertools
import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from tiny import CONFIG, Tiny, card, condensed, scored

from ddlib import project, tables, todo
from ddlib.artifacts import load_tensors, read_json, read_manifest, write_json, write_manifest
from ddlib.config import ConfigError, merged, read, resolve
from ddlib.jobs import condense, merge, prepare_data
from ddlib.jobs import plan as planning
from ddlib.paths import MANIFESTS, budgets, leading, made_by, part, per
from ddlib.plan import Plan, rows

SETTINGS = {"outer_iterations": 2, "inner_steps": 2, "network_samples": 64, "real_batch": 8, "factor": 2, "init": "mix"}
TOGETHER = "condensed/a/per1-2/seed0/stage0/phase{}.json"


def together(ipc=(2, 1), **changes):
    """The tiny configuration, whose experiment `a` has a budget."""
    config = copy.deepcopy(CONFIG)
    a = config["experiments"]["a"]
    a.pop("ipc")
    a |= {"budget": list(ipc), "settings": {**SETTINGS, "synthetic_batch": 6}}
    return merged(config, changes)


def plan(config):
    return Plan(resolve(config, read(project.SCHEMA)))


def outputs(found, suite="a"):
    return [MANIFESTS[rule][0].format(**names).removeprefix("results/") for rule, names in found.jobs(suite)]


def refused(config):
    with pytest.raises(ConfigError) as error:
        resolve(config, read(project.SCHEMA))
    return str(error.value)


# ---- configuration and plan ----------------------------------------------------------------------------------------


def test_either_ipc_or_budget():
    for change, has in (({"budget": [1]}, "both"), ({"ipc": None}, "neither")):
        config = merged(CONFIG, {"experiments": {"a": change}})
        config["experiments"]["a"] = {k: v for k, v in config["experiments"]["a"].items() if v is not None}
        assert f"experiments.a: it has {has} of `ipc`" in refused(config)
    assert "experiments.a.budget: [] should be non-empty" in refused(together([]))
    assert "experiments.a.budget: [1, 1] has non-unique elements" in refused(together([1, 1]))


def test_networks_that_differ_by_ipc_are_refused():
    view = {"members": 1, "metric": "train_augmented", "windows": "best_by_ipc"}
    changes = {"experiments": {"a": {"pool": "early", "view": view}}}
    said = refused(together([1, 10], **changes))
    assert "experiments.a.budget: ipc 1, 10 would be condensed together, at the same networks, but their view" in said
    assert "give `ipc` instead of `budget`, or one view for all" in said
    plan(together([10], **changes))
    view |= {"windows": [[0.1, 0.2]]}
    assert plan(together([1, 10], experiments={"a": {"pool": "early", "view": view}})).experiments["a"]["shared"]


def test_masks_that_differ_by_ipc_are_refused():
    masks = {name: {"dataset": "digits", "network": "small", "kind": "uniform", "sparsity": 0.5} for name in "xy"}
    a = {"method": "drop2sparse", "pool": "early", "view": {"members": 1, "epochs": [1]}}

    def asked(named):
        return together([1, 10], masksets=masks, experiments={"a": {**a, "masks": named}})

    assert "but their masks differ" in refused(asked({"1": "x", "10": "y"}))
    for same in ("x", {"1": "x", "10": "x"}):
        found = plan(asked(same))
        assert any(path.startswith("masks/x/") for path in outputs(found))
        names = {"experiment": "a", "per": "1-10", "seed": 0, "stage": 0, "phase": 0}
        assert found.spec("condense", names)["masks"] == {"kind": "uniform", "sparsity": 0.5}


def test_one_condensation_for_all_and_cells_as_ever():
    changes = {"experiments": {"a": {"classes_per_phase": 5, "evaluate_at": [1]}}}
    shared = plan(together(**changes))
    cells = {cell.stem for cell in shared.cells("a")}
    config = merged(
        CONFIG, {"experiments": {"a": {"ipc": [1, 2], "settings": SETTINGS, **changes["experiments"]["a"]}}}
    )
    apart = plan(config)
    assert cells == {cell.stem for cell in apart.cells("a")}
    of_a = [path for path in outputs(shared) if path.startswith("condensed/a/")]
    assert of_a == [TOGETHER.format(phase) for phase in (0, 1)]
    for name in ("a__initial", "digits__random"):
        assert {path for path in outputs(shared) if path.startswith(f"condensed/{name}/")} == {
            condensed(name, 1),
            condensed(name, 2),
        }
    found = {(row["experiment"], row["ipc"]): row["runs"] for row in rows(shared.groups("a"))}
    run = "results/" + TOGETHER.removesuffix(".json") + ".run.json"
    assert found["a", 1] == found["a", 2] == [run.format(phase) for phase in (0, 1)]
    assert found["a__initial", 2] == [f"results/{condensed('a__initial', 2).removesuffix('.json')}.run.json"]
    assert apart.experiments["a"]["shared"] is False


def test_specifications():
    shared, names = plan(together()), {"experiment": "a", "seed": 0, "stage": 0, "phase": 0}
    spec = shared.spec("condense", {**names, "per": "1-2"})
    assert spec["ipc"] == [1, 2]
    assert json.loads(json.dumps(spec)) == spec
    alone = shared.spec("condense", {**names, "per": "2"})
    assert alone == {**spec, "ipc": 2}
    assert "budget" not in json.dumps(plan(CONFIG).spec("tabulate", {"suite": "tiny"}))
    assert plan(together([2])).experiments["a"]["shared"] is False, "one budget is one ipc"
    picks = together([1, 2], experiments={"a": {"method": "random"}})
    picks["experiments"]["a"]["settings"] = {"factor": 1}
    assert plan(picks).phases("a", 2, 0) == [f"results/{condensed('a', 2).removesuffix('.json')}"]


def test_names_in_paths():
    assert (per(3), per([1, 10, 50])) == ("3", "1-10-50")
    assert (budgets("10"), budgets(1), budgets("1-10-50")) == (10, 1, [1, 10, 50])
    assert (leading(7), leading("1-10")) == (7, 1)
    assert (part(10, 10, "set"), part([1, 10], 10, "at5")) == ("set", "ipc10/at5")
    names = {"experiment": "a", "per": "1-10", "seed": "0", "stage": "0", "phase": "1"}
    assert made_by(MANIFESTS["condense"][0].format(**names)) == ("condense", names)


def test_snakemake_and_to_do_agree(tmp_path, monkeypatch):
    tiny = Tiny.new(tmp_path)
    tiny.config = together(experiments={"a": {"pool": "early", "view": {"members": 1, "epochs": [0]}}})
    asked = tiny.plan("results/tables/a.csv")
    monkeypatch.chdir(tmp_path)
    found = project.load(tmp_path)
    assert (
        asked - {"tables/a.csv"}
        == set(outputs(found))
        == {todo.manifest(job).removeprefix("results/") for job in todo.to_do(found, "a")}
    )
    assert {TOGETHER.format(0), card("a", 1), card("a", 2), scored("a", 2)} <= asked
    assert [path for path in asked if path.startswith("views/")] == ["views/a/ipc1/seed0/selection.json"]


# ---- what it costs -------------------------------------------------------------------------------------------------


class Clock:
    """An hour for real images and for matching each stored image, two for a batch."""

    device, description = "cpu", "a clock"

    def hours(self, work):
        return sum(count * {"real": 1, "match": step.images, "train": 2}[step.kind] for step, count in work)


def test_work_and_what_it_saves():
    shared = plan(together(experiments={"a": {"seeds": [0, 1], "classes_per_phase": 5}}))
    names = {"experiment": "a", "per": "1-2", "seed": 0, "stage": 0, "phase": 0}
    found = [(step.kind, step.images, count) for step, count in planning.work(shared, "condense", names)]
    # two outer iterations of two steps on five classes; four decoded images and six seen; a batch of 64 a step
    assert found == [("real", 8, 20), ("match", 4, 20), ("match", 6, 20), ("train", 64, 4)]
    assert planning.bytes_of(shared, "condense", names) == 4 * 5 * (1 + 2) * 64 * 2
    hours, each = 20 + 80 + 120 + 8, (20 + 80 + 8) + (20 + 120 + 8)
    said = f"condensing ipc 1, 2 together (budget) {{}} {4 * hours} h instead of {4 * each:,} h"
    assert planning.together(shared, "a", Clock()) == [f"a: {said.format('takes')}"]
    apart = together(experiments={"a": {"seeds": [0, 1], "classes_per_phase": 5, "ipc": [1, 2]}})
    del apart["experiments"]["a"]["budget"]
    assert planning.together(plan(apart), "a", Clock()) == [f"a: {said.format('would take')}"]
    assert planning.together(plan(together([2])), "a", Clock()) == []
    assert planning.together(plan(CONFIG), "tiny", Clock()) == []


def test_nothing_is_said_where_it_cannot_be():
    view = {"members": 1, "metric": "train_augmented", "windows": "best_by_ipc"}
    config = together(experiments={"a": {"pool": "early", "view": view, "ipc": [1, 10]}})
    del config["experiments"]["a"]["budget"]
    assert planning.together(plan(config), "a", Clock()) == []


# ---- jobs ----------------------------------------------------------------------------------------------------------


def ran(patch, module, spec, **options):
    """Run a job in this process."""
    words = [word for name, value in options.items() for word in (f"--{name}", *map(str, value))]
    patch.setattr(sys, "argv", [module.__name__, "--spec", json.dumps(spec), *words])
    module.main()


def condensed_and_merged(patch, found, pers, train, machine, kind):
    """Cards of `a` by (kind, ipc, at), from condensations `pers` in two phases each."""
    cards = {}
    for each in pers:
        names = {"experiment": "a", "per": each, "seed": 0, "stage": 0}
        parts = [MANIFESTS["condense"][0].format(**names, phase=phase) for phase in (0, 1)]
        for phase, output in enumerate(parts):
            spec, run = found.spec("condense", {**names, "phase": phase}), output.replace(".json", ".run.json")
            ran(patch, condense, spec, machine=[machine], train=[train], output=[output], run=[run])
        for ipc, at in itertools.product(map(int, each.split("-")), ("", "at1/")):
            wanted = {"experiment": "a", "ipc": ipc, "seed": 0, "at": at}
            made = Path(MANIFESTS["merge"][0].format(**wanted).replace("/a/", f"/{kind}/"))
            files = {"tensors": [made.with_name("set.safetensors")], "preview": [made.with_name("preview.png")]}
            ran(patch, merge, found.spec("merge", wanted), parts=parts, **files, output=[made])
            cards[kind, ipc, at] = made.absolute()
    return cards


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of jobs, and the cards of `a` by (together or alone, ipc, at)."""
    folder = tmp_path_factory.mktemp("jobs")
    found = plan(together(experiments={"a": {"classes_per_phase": 5, "evaluate_at": [1]}}))
    machine = json.dumps(found.config["machine"])
    train, test = (path.format(dataset="digits") for path in MANIFESTS["prepare_data"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        spec = found.spec("prepare_data", {"dataset": "digits"})
        ran(patch, prepare_data, spec, machine=[machine], train=[train], test=[test])
        cards = condensed_and_merged(patch, found, ["1-2"], train, machine, "together")
        cards |= condensed_and_merged(patch, found, ["1", "2"], train, machine, "alone")
    return folder, cards


def test_sets_merged_from_either_are_the_same_bytes(done):
    _, both = done
    for ipc in (1, 2):
        for at in ("", "at1/"):
            one, other = (both[kind, ipc, at] for kind in ("together", "alone"))
            assert read_json(one)["files"]["set"]["sha256"] == read_json(other)["files"]["set"]["sha256"]
            assert read_json(one)["result"]["images"] == 10 * ipc
            tensors, _ = load_tensors(one.with_name("set.safetensors"))
            assert tensors["labels"].tolist() == [label for label in range(10) for _ in range(ipc)]
        final, early = (read_json(both["together", ipc, at])["files"]["set"]["sha256"] for at in ("", "at1/"))
        assert final != early


def test_manifests_of_one_ipc_are_as_ever_and_of_several_by_ipc(done):
    folder, _ = done
    one = read_manifest(folder / "results" / condensed("a", 2), "phase")
    both = read_manifest(folder / "results" / TOGETHER.format(0), "phase")
    assert list(one["files"]) == ["at1", "initial", "set"]
    assert {name: entry["path"] for name, entry in one["files"].items()} == {
        "set": "phase0.safetensors",
        "initial": "phase0.initial.safetensors",
        "at1": "phase0.at1.safetensors",
    }
    assert set(both["files"]) == {f"ipc{ipc}/{kind}" for ipc in (1, 2) for kind in ("set", "initial", "at1")}
    for kind in ("set", "initial", "at1"):
        assert both["files"][f"ipc2/{kind}"]["sha256"] == one["files"][kind]["sha256"]
    assert both["result"]["losses"]["2"] == one["result"]["losses"]
    assert len(one["result"]["losses"]) == 2
    assert set(both["result"]["losses"]) == {"1", "2"}


def test_seconds_at_snapshots_are_recorded(done):
    folder, _ = done
    for path in (condensed("a", 2), TOGETHER.format(1)):
        run = read_json(folder / "results" / path.replace(".json", ".run.json"))
        assert list(run["seconds_at"]) == ["1"]
        assert 0 < run["seconds_at"]["1"] < run["seconds"]


# ---- the table -----------------------------------------------------------------------------------------------------


def test_the_table_has_seconds_until_a_snapshot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = plan(together(experiments={"a": {"evaluate_at": [1], "classes_per_phase": 5}}))
    cells = [row for row in rows(found.groups("a")) if row["experiment"] == "a"]
    for cell in cells:
        score = {"network": "small", "repeat": 0, "accuracy": 0.5, "train_images": 10, "steps": 1}
        Path(cell["stem"]).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame([score]).to_csv(f"{cell['stem']}.csv", index=False)
        write_manifest(f"{cell['stem']}.json", "evaluation", {}, {"table": f"{cell['stem']}.csv"}, {})
        for path in cell["card"]:
            write_manifest(path, "set", {}, {}, {"image_bytes": 2560})
        for path, until in zip(cell["runs"], (20.0, 25.0), strict=True):
            write_json(path, {"seconds": 100.0, "seconds_at": {"1": until}, "peak_memory_mb": 1.0})
    found = tables.table("a", cells)
    seconds = {(row.ipc, row.outer_iteration): row.device_seconds for row in found.itertuples()}
    assert seconds == {(1, 1): 45.0, (1, 2): 200.0, (2, 1): 45.0, (2, 2): 200.0}
    for cell in cells:
        write_json(cell["runs"][0], {"seconds": 100.0, "peak_memory_mb": 1.0})  # from before they were recorded
    found = tables.table("a", cells)
    assert found[found.outer_iteration == 1].device_seconds.isna().all()
    assert (found[found.outer_iteration == 2].device_seconds == 200.0).all()
    assert "nan" not in tables.text(found)
