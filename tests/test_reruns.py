"""Rerun only when inputs change: for every rule, the exact jobs of dry runs after a change (docs/reruns.md).

What is expected stands in tests/rerun_map.py. The cross product of rules and changes is `soak`.
"""

import os
import re

import pytest
from dryruns import Quick
from every import rule_of
from rerun_map import (
    BLOCK,
    BY_VIEW,
    CARD_M,
    CARD_R,
    CONDITION,
    FIGURE,
    FIRST,
    JUDGE,
    LATER,
    MADE_FROM,
    MASKS,
    ONE_EACH,
    READ_BY_NOBODY,
    READ_BY_TABLE,
    SCORES,
    SELECTED,
    TABLE,
    TAUGHT_M,
    TAUGHT_P,
    TEST,
    TRAINED,
    USED_BY,
    VIEW_M,
    VIEW_P,
    M,
    R,
    after,
    anew,
)
from tiny import made

ALL = set(MADE_FROM)
ONE_A_RULE = {rule_of(path): path for path in MADE_FROM}  # the last of each
FAST = {*ONE_A_RULE.values(), TEST, BLOCK, FIRST, JUDGE}


def some(cases, fast):
    """Parameters, marked soak but for those in `fast`."""
    return [pytest.param(case, marks=[] if case in fast else pytest.mark.soak, id=case) for case in cases]


@pytest.fixture
def every(tmp_path_factory, tmp_path):
    return Quick.finished(tmp_path_factory, tmp_path / "repo")


def files(every):
    return sorted(path for path in every.results.rglob("*") if path.is_file())


def read_of(path):
    """What of a job is read by others: its manifest, of an evaluation its scores."""
    return path.replace(".json", ".csv") if path in TRAINED else path


def in_reverse(every):
    """Times as copying without them may leave: what was made last is the oldest."""
    for path in files(every):
        made_at = path.stat().st_mtime
        os.utime(path, (4e9 - made_at, 4e9 - made_at))


def test_finished_is_finished_whatever_the_times(every):
    assert every.plan() == set()
    assert {rule_of(path) for path in ALL} == set(ONE_A_RULE)
    in_reverse(every)
    assert every.plan() == set()


@pytest.mark.parametrize("path", some([*MADE_FROM, TEST], FAST))
def test_an_edited_manifest_runs_what_is_made_from_it(every, path):
    edited = every.results / read_of(path)
    edited.write_bytes(edited.read_bytes() + b"\n")
    assert every.plan() == after(path)


@pytest.mark.parametrize("path", some(READ_BY_TABLE, READ_BY_TABLE[:1]))
def test_an_edited_cost_or_score_runs_the_table(every, path):
    edited = every.results / path
    edited.write_bytes(edited.read_bytes() + b"\n")
    assert every.plan() == {TABLE, FIGURE}


def test_what_nobody_reads_runs_nothing(every):
    for path in READ_BY_NOBODY:
        edited = every.results / path
        edited.write_bytes(edited.read_bytes() + b"\n")
    tensors = [path for path in files(every) if path.suffix == ".safetensors"]
    for path in tensors:  # described by hash in the manifests: an edited one is refused by the job that reads it
        path.write_bytes(path.read_bytes() + b"\n")
    assert len(tensors) > 20
    assert every.plan() == set()


# ---- settings ------------------------------------------------------------------------------------------------------


def of(name, **given):
    return lambda c: c["experiments"][name].update(given)


def sparse_steps(c):
    entry = c["experiments"]["m"]
    entry["settings"] = {**entry["settings"], "inner_steps": 2}  # others share the former


def staged(**condition):
    return lambda c: c["experiments"]["p"]["progressive"].update(condition=condition)


OF_SEED_1 = {path.replace("seed0", "seed1") for path in (VIEW_M, MASKS)}
OF_IPC_2 = {path.replace("per1", "per2").replace("ipc1", "ipc2") for path in anew(R) - {TABLE, FIGURE}}
# Labels of every view are made for a protocol, whatever changes in it.
SETTINGS = {
    "prepare_data": (lambda c: c["datasets"]["digits"].update(heldout=0.1), ALL - {MASKS}),
    "train_block": (lambda c: c["pools"]["early"]["training"].update(lr=0.02), anew(BLOCK)),
    "observe": (lambda c: c["observers"]["judge"].update(within=0.9), anew(JUDGE)),
    "score": (
        lambda c: c["experiments"]["r"]["settings"].update(crops=3),
        {SCORES.replace("crops2", "crops3")} | anew(R),
    ),
    "select_view": (of("m", view={"members": 1, "epochs": [1]}), anew(VIEW_M, M)),
    "select_conditioned": (of("p", view={"members": 1, "epochs": [1]}), anew(VIEW_P, FIRST)),
    "draw_masks": (lambda c: c["masksets"]["half"].update(sparsity=0.6), anew(MASKS)),
    "condense": (sparse_steps, anew(M)),
    "condition": (staged(epochs=2), anew(CONDITION)),
    "relabel": (lambda c: c["labels"]["one_each"].update(top_k=4), anew(ONE_EACH)),
    "evaluate": (lambda c: c["protocols"]["quick"].update(repeats=2), anew(BY_VIEW, *TRAINED)),
    "tabulate": (lambda c: c["suites"]["every"].update(experiments=["m", "p"]), {TABLE, FIGURE}),
    "a_seed": (of("m", seeds=[0, 1]), made("m", seed=1) | OF_SEED_1 | {TABLE, FIGURE}),
    "another_seed": (of("m", seeds=[1]), made("m", seed=1) | OF_SEED_1 | {TABLE, FIGURE}),
    "another_ipc": (of("r", ipc=[1, 2]), OF_IPC_2 | {TABLE, FIGURE}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_changed_setting_runs_its_jobs_and_what_is_made_from_them(every, name):
    change, jobs = SETTINGS[name]
    change(every.config)
    assert every.plan() == jobs


def test_machine_threads_resources_and_the_text_of_rules_run_nothing(every):
    machine = {"threads": 2, "device": "auto", "precision": "bf16", "class_chunk": 3, "data_dir": "elsewhere"}
    every.config["machine"].update(machine)
    rules = [path for path in (every.folder / "workflow" / "rules").glob("*.smk") if path.name != "common.smk"]
    for path in rules:
        text = path.read_text()
        changed = re.sub(r"mem_mb=\d+", "mem_mb=123", text)
        changed = re.sub(r"runtime=(\d+)", r"runtime=1 + \1", changed)
        changed = changed.replace("python -m ddlib", "python  -m  ddlib").replace("threads: THREADS", "threads: 2")
        path.write_text("# a comment\n" + changed)
        assert changed != text
    (every.folder / "envs" / "ddlib.yaml").write_text("channels: [conda-forge]\ndependencies: [python=3.12]\n")
    assert every.plan() == set()


# ---- versions of the code ------------------------------------------------------------------------------------------


def bump(package, name):
    """Raise the version of a component, a method, a network or a source in a copy of the code."""
    registry = package / "registry.py"
    text = registry.read_text()
    found, many = re.subn(rf'^    "{name}": (\d+),', lambda hit: f'    "{name}": {int(hit[1]) + 1},', text, flags=re.M)
    if not many:
        found, many = re.subn(rf'^(    "{name}": Entry\(\s*"[^"]+")', r"\1, 2", text, flags=re.M)
    assert many == 1
    registry.write_text(found)


@pytest.mark.parametrize("name", some(USED_BY, [*list(USED_BY)[:12], "drop2sparse"]))
def test_a_raised_version_runs_those_that_use_it(every, name):
    bump(every.own_code(), name)
    assert every.plan() == anew(*USED_BY[name])


def test_a_new_ddlib_with_the_same_results_runs_nothing(every):
    package = every.own_code()
    for path in package.rglob("*.py"):
        path.write_text(path.read_text() + "\n# moved, renamed, made faster\n")
    start = package / "__init__.py"
    text = start.read_text()
    start.write_text(re.sub(r'__version__ = "[^"]+"', '__version__ = "9.9.9"', text))
    assert start.read_text() != text
    assert every.plan() == set()


# ---- deleted -------------------------------------------------------------------------------------------------------


def test_what_is_deleted_is_made_when_something_needs_it(every):
    shown = {
        every.results / path for path in (TABLE, *(TABLE.replace(".csv", end) for end in (".json", ".html")), FIGURE)
    }
    kept = {path: path.read_bytes() for path in shown}
    for path in set(files(every)) - shown:
        path.unlink()
    assert every.plan() == set(), "a finished table needs none of it"
    for path in kept:
        path.unlink()
    assert every.plan() == ALL


@pytest.mark.parametrize("path", some(MADE_FROM, [SELECTED, JUDGE, CARD_R]))
def test_a_deleted_result_and_what_is_made_from_it_are_made_again(every, path):
    for gone in anew(path):
        (every.results / read_of(gone)).unlink()
    assert every.plan() == anew(path)


def test_a_deleted_cost_is_found_by_the_next_table(every):
    """It cannot be had but by doing the work again."""
    (every.results / M.replace(".json", ".run.json")).unlink()
    assert every.plan() == set()
    (every.results / TABLE).unlink()
    assert every.plan() == anew(M)


def test_an_edited_mask_is_refused_by_the_job_that_reads_it(every):
    held = every.results / MASKS.replace(".json", ".safetensors")
    held.write_bytes(held.read_bytes()[:-1] + b"\x01")
    sparse_steps(every.config)
    assert every.plan() == anew(M)
    done = every.snakemake(f"results/{M}")
    assert done.returncode == 1
    assert f"results/{MASKS.replace('.json', '.safetensors')} is not the file its manifest describes" in done.stderr
    assert not (every.results / M).exists()
    assert {CARD_M, TAUGHT_M} < after(M)
    assert LATER not in after(M)
    assert TAUGHT_P not in after(M)
