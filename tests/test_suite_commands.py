"""`make table`, `clean-suite`, `du` and `plan`: on the finished tiny suite (tests/tiny.py)."""

import shutil
from pathlib import Path

import pytest
from tiny import ALL, A, B, Tiny, card, condensed, made, scored, shown

from ddlib import disk, project, todo
from ddlib.jobs import clean, du, show
from ddlib.jobs import plan as planning


@pytest.fixture
def tiny(tmp_path_factory, tmp_path, monkeypatch):
    found = Tiny.finished(tmp_path_factory, tmp_path / "repo")
    monkeypatch.chdir(found.folder)
    return found


def load(tiny):
    tiny.save()
    return project.load(tiny.folder)


def present(paths):
    return {path for path in paths if Path("results", path).exists()}


def forget(path):
    """Delete what an evaluation wrote."""
    for suffix in (".json", ".csv", ".run.json"):
        Path("results", path).with_suffix(suffix).unlink()


def run(monkeypatch, capsys, module, *words):
    monkeypatch.setattr("sys.argv", [module.__name__, *words])
    module.main()
    return capsys.readouterr().out


# ---- show --------------------------------------------------------------------------------------------------------


def test_show_prints_the_finished_table_and_where_the_pictures_are(tiny, monkeypatch, capsys):
    said = run(monkeypatch, capsys, show, "tiny")
    assert "digits, protocol quick, hard labels, network small" in said
    assert "PARTIAL" not in said
    assert "figure: results/figures/tiny.png" in said
    previews = [line.strip() for line in said.splitlines() if line.endswith("preview.png")]
    names = ("a", "a__initial", "b", "b__initial", "digits__random")
    assert previews == [f"results/sets/{name}/ipc1/seed0/preview.png" for name in names]
    assert said.rstrip().endswith("make ui")


def test_show_partial_counts_what_exists_and_writes_nothing(tiny, monkeypatch, capsys):
    forget(scored("a"))
    before = sorted(Path("results").rglob("*"))
    said = run(monkeypatch, capsys, show, "--partial", "tiny")
    assert said.startswith("PARTIAL: 5 of 6 evaluations of suite tiny exist.")
    assert {line.split()[0] for line in said.splitlines() if "1 x 1" in line} == {
        "a__initial",
        "b",
        "b__initial",
        "digits__random",
        "digits__whole",
    }
    assert sorted(Path("results").rglob("*")) == before
    assert run(monkeypatch, capsys, show, "--partial", "b").startswith("All 4 evaluations of suite b exist.")
    shutil.rmtree("results/evaluations")
    assert "nothing has been evaluated yet" in run(monkeypatch, capsys, show, "--partial", "tiny")


def test_show_says_what_to_do_without_a_table(tiny, monkeypatch):
    monkeypatch.setattr("sys.argv", ["show", "a"])
    with pytest.raises(
        ValueError, match=r"does not exist yet\. To make it: snakemake --cores all results/tables/a\.csv"
    ):
        show.main()
    monkeypatch.setattr("sys.argv", ["show", "aa"])
    with pytest.raises(ValueError, match="no suite is called 'aa'; did you mean 'a'"):
        show.main()


# ---- clean -------------------------------------------------------------------------------------------------------


def cleaned(tiny, suite):
    plan = load(tiny)
    found = clean.files_of(plan, suite)
    clean.delete(found)
    return found


def test_clean_takes_the_only_suite_whole_but_for_events_and_logs(tiny):
    old = tiny.results / "sets" / "a" / "ipc50" / "seed0" / "set.safetensors"  # asked for by a former configuration
    old.parent.mkdir(parents=True)
    old.write_bytes(b"1234")
    assert "4 B" in clean.listed("tiny", [old.relative_to(tiny.folder)])
    cleaned(tiny, "tiny")
    assert {path.relative_to(tiny.results).parts[0] for path in disk.files(tiny.results)} == {"events", "logs"}
    assert tiny.plan() == ALL


def test_clean_leaves_what_another_suite_uses(tiny):
    tiny.config["suites"]["other"] = {"experiments": ["b"]}
    cleaned(tiny, "tiny")
    assert present(ALL) == ALL - A - shown()
    assert not (tiny.results / "sets" / "a").exists()
    assert tiny.plan("results/tables/other.csv") == {"tables/other.csv"}
    assert cleaned(tiny, "other") == []  # tiny asks for all of it


def test_clean_of_an_experiment_in_a_suite_takes_its_own_table_alone(tiny):
    for path in shown("a"):
        (tiny.results / path).write_text("x")
    assert {str(path.relative_to("results")) for path in cleaned(tiny, "a")} == shown("a")
    assert present(ALL) == ALL


def test_clean_tells_cells_apart_where_suites_share_an_experiment(tiny):
    """The other suite scores by another protocol: sets stay, this suite's evaluations go."""
    tiny.config["protocols"]["long"] = {"recipe": "idc"}
    tiny.config["suites"]["other"] = {"experiments": ["a", "b"], "protocols": ["long"]}
    cleaned(tiny, "tiny")
    assert present(ALL) == ALL - shown() - {path for path in ALL if path.startswith("evaluations")}


def test_clean_shows_first_and_needs_a_yes(tiny, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
    said = run(monkeypatch, capsys, clean, "tiny")
    assert "results/sets/a " in said
    assert "make clean-suite SUITE=tiny YES=1" in said
    assert present(ALL) == ALL
    assert "deleted." in run(monkeypatch, capsys, clean, "--yes", "tiny")
    assert present(ALL) == set()
    assert "there is nothing to delete" in run(monkeypatch, capsys, clean, "--yes", "tiny")


# ---- du ----------------------------------------------------------------------------------------------------------


def test_du_counts_every_byte_once(tiny, monkeypatch, capsys):
    kinds, names = du.used(Path("results"))
    assert sum(kinds.values()) == sum(path.stat().st_size for path in Path("results").rglob("*") if path.is_file())
    own = sum(path.stat().st_size for path in Path("results/condensed/a").rglob("*") if path.is_file())
    assert names["condensed", "a"] == own
    assert sum(size for (kind, _), size in names.items() if kind == "sets") == kinds["sets"]
    said = run(monkeypatch, capsys, du)
    assert f"all{'':15}" in said
    assert "  early" in said
    assert du.text(Path("nowhere")) == "nothing is in nowhere yet"


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_499, "999.5 kB"), (34e6, "34.0 MB"), (2.5e15, "2500.0 TB")],
)
def test_readable_bytes(count, said):
    assert disk.readable(count) == said


# ---- plan --------------------------------------------------------------------------------------------------------


def outstanding(tiny, suite="tiny"):
    return {todo.manifest(job).removeprefix("results/") for job in todo.to_do(load(tiny), suite)}


def test_what_is_to_do_agrees_with_snakemake(tiny):
    assert outstanding(tiny) == set()
    (tiny.results / condensed("a")).unlink()
    (tiny.results / card("a")).unlink()
    assert outstanding(tiny) == set()
    b = tiny.config["experiments"]["b"]
    b["settings"] = b["settings"] | {"inner_steps": 2}
    assert outstanding(tiny) == tiny.plan() - shown() == made("a") | made("b")
    b["view"]["members"] = 2
    grown = B - made("b__initial") - {"pool/early/block0.json"} | {"pool/early/block1.json"}
    assert outstanding(tiny) == tiny.plan() - shown() == made("a") | grown
    shutil.rmtree("results")
    assert outstanding(tiny) == tiny.plan() - shown() == (ALL | {"pool/early/block1.json"}) - shown()


def test_plan_prints_jobs_disk_and_hours(tiny, monkeypatch, capsys):
    forget(scored("a"))
    said = run(monkeypatch, capsys, planning, "tiny")
    rows = {
        line.split()[0]: line.split()[1:3] for line in said.splitlines() if line.startswith(("cond", "eval", "all "))
    }
    assert rows == {"condense": ["0", "5"], "evaluate": ["1", "6"], "all": ["1", "19"]}
    assert "real gradients small on digits: 8 images" in said
    assert "match gradients small on digits: 1 images" in said
    assert "together" not in said, "nothing has two ipc"
    assert "Hours are extrapolated" in said
    assert "paper scale" not in said


def test_work_is_counted_from_the_specification(tiny):
    plan = load(tiny)
    names = {"experiment": "a", "per": 1, "seed": 0, "stage": 0, "phase": 0}
    (real, reals), (match, times), (train, batches) = planning.work(plan, "condense", names)
    assert (real.kind, real.images, reals) == ("real", 8, 10)  # one outer, one inner step, ten classes
    assert (match.kind, match.images, times) == ("match", 1, 10)
    assert (train.images, batches) == (64, 1)
    assert planning.work(plan, "condense", names | {"experiment": "a__initial"}) == []
    ((step, steps),) = planning.work(plan, "train_block", {"pool": "early", "block": 0})
    assert (step.images, steps) == (64, pytest.approx((2 + 2 / 3) * 23))  # 1438 images; epochs 0 and 1 are kept
    cells = {cell.experiment: cell.__dict__ for cell in plan.cells("tiny")}
    ((step, steps),) = planning.work(plan, "evaluate", cells["a"])
    assert (step.images, steps) == (10, 1)
    ((step, steps),) = planning.work(plan, "evaluate", cells["digits__whole"])
    assert (step.images, steps) == (64, 1)
    # depth 1, width 4: a convolution of 4 x 9 + 4, a norm of 8, a classifier of 4 x 16 x 10 + 10; two snapshots
    assert planning.bytes_of(plan, "train_block", {"pool": "early", "block": 0}) == 4 * 2 * (40 + 8 + 650)
    assert planning.bytes_of(plan, "condense", names) == 4 * 10 * 64 * 2
    assert planning.bytes_of(plan, "merge", {"experiment": "a", "ipc": 1, "seed": 0, "at": ""}) == 4 * 10 * 64
    assert planning.bytes_of(plan, "prepare_data", {"dataset": "digits"}) == 1797 * 64


def test_paper_scale_is_said_plainly():
    tally = planning.Tally()
    tally.add("condense", 12_345.0, 0.0)

    class Clock:
        device, description = "cpu", "CPU (1 threads)"

    said = planning.verdict("cifar", tally, tally, Clock())
    assert "paper scale: thousands of GPU-hours. As measured on CPU (1 threads) it is about 12,345 device-hours" in said
    assert "make plan SUITE=cifar" in said
