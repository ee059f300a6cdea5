"""The table of a suite against numbers worked out by hand."""

import math

import pandas as pd
import pytest
from tiny import CONFIG

from ddlib import project
from ddlib.artifacts import write_json, write_manifest
from ddlib.config import merged, read, resolve
from ddlib.plan import Plan, rows
from ddlib.tables import COLUMNS, figure, table, text
from ddlib.tables import read as read_table

# accuracy of each repeat, by seed
A = {0: [0.50, 0.60], 1: [0.70, 0.80], 2: [0.60, 0.60], 3: [0.55, 0.65], 4: [0.90, 0.70]}
RANDOM = {0: [0.40, 0.50], 1: [0.50, 0.40], 2: [0.30, 0.50], 3: [0.60, 0.40], 4: [0.50, 0.50]}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """cells(plan of some seeds) with their files written, in a folder of their own."""
    monkeypatch.chdir(tmp_path)

    def make(seeds, **changes):
        asked = {"experiments": {name: {"seeds": list(seeds)} for name in ("a", "b")}, **changes}
        plan = Plan(resolve(merged(CONFIG, asked), read(project.SCHEMA)))
        cells = rows(plan.groups("tiny"))
        for cell in cells:
            write(cell)
        return cells

    return make


def write(cell):
    scores = {"random": RANDOM, "idc": A}.get(cell["method"], {seed: [0.25, 0.35] for seed in range(5)})
    given = [
        {"network": "small", "repeat": repeat, "accuracy": value, "train_images": 10, "steps": 1}
        for repeat, value in enumerate(scores[cell["seed"]])
    ]
    write_json(f"{cell['stem']}.run.json", {})
    scored(cell, pd.DataFrame(given))
    for path in cell["runs"]:
        write_json(path, {"seconds": 10.0 + cell["seed"], "peak_memory_mb": 100.0 * (cell["seed"] + 1)})
    for path in cell["card"]:
        write_manifest(path, "set", {}, {}, {"image_bytes": 2560})
    for path in cell["pool_runs"]:
        write_json(path, {"seconds": 7.0, "peak_memory_mb": 1.0})


def scored(cell, students):
    """Write the evaluation of a cell."""
    students.to_csv(f"{cell['stem']}.csv", index=False)
    write_manifest(f"{cell['stem']}.json", "evaluation", {}, {"table": f"{cell['stem']}.csv"}, {})


def line(found, experiment):
    (row,) = [row for row in found.itertuples() if row.experiment == experiment]
    return row


def test_columns_rows_and_their_order(made):
    found = table("tiny", made([0, 1]))
    assert list(found.columns) == COLUMNS
    assert list(found.experiment) == ["a", "a__initial", "b", "b__initial", "digits__random", "digits__whole"]
    assert list(found.ipc)[:5] == [1] * 5
    assert pd.isna(found.ipc.iloc[5])
    assert set(found.suite) == {"tiny"}
    assert list(found.outer_iteration) == [1, 0, 1, 0, 0, 0]


def test_mean_and_deviation_are_over_seeds_and_repeats(made):
    row = line(table("tiny", made([0, 1])), "a")
    assert row.accuracy_mean == pytest.approx(0.65)
    # deviations -0.15 -0.05 0.05 0.15; sum of squares 0.05; over n - 1 = 3
    assert row.accuracy_std == pytest.approx(math.sqrt(0.05 / 3), abs=1e-6)
    assert (row.n_distill, row.n_eval) == (2, 2)


def test_the_difference_to_random_is_paired_by_seed(made):
    found = table("tiny", made([0, 1]))
    # seed means 0.55 and 0.75 against 0.45 and 0.45
    assert line(found, "a").vs_random == pytest.approx((0.10 + 0.30) / 2)
    assert line(found, "a__initial").vs_random == pytest.approx(0.30 - 0.45)
    for name in ("digits__random", "digits__whole"):
        assert math.isnan(line(found, name).vs_random)


def test_an_interval_is_given_from_five_seeds_on(made):
    four = line(table("tiny", made(range(4))), "a")
    assert four.vs_random == pytest.approx((0.10 + 0.30 + 0.20 + 0.10) / 4)
    assert math.isnan(four.vs_random_low)
    assert math.isnan(four.vs_random_high)
    five = line(table("tiny", made(range(5))), "a")
    # differences 0.1 0.3 0.2 0.1 0.3: mean 0.2, squares of deviations 0.04, s = 0.1; t(0.975, 4) = 2.776445
    assert five.vs_random == pytest.approx(0.2)
    half = 2.776445 * 0.1 / math.sqrt(5)
    assert five.vs_random_low == pytest.approx(0.2 - half, abs=1e-6)
    assert five.vs_random_high == pytest.approx(0.2 + half, abs=1e-6)


def test_costs(made):
    found = table("tiny", made([0, 1]))
    a, b, whole = (line(found, name) for name in ("a", "b", "digits__whole"))
    assert (a.device_seconds, a.pool_seconds, a.peak_memory_mb) == (10.5, 0.0, 200.0)
    assert b.pool_seconds == 7.0
    assert (whole.device_seconds, whole.pool_seconds) == (0.0, 0.0)
    assert (a.image_bytes, a.label_bytes) == (2560, 0)
    assert pd.isna(whole.image_bytes)


def test_published_numbers_need_the_same_method_data_ipc_network_and_protocol(made):
    names = {
        "datasets": {"digits": {"source": "cifar10", "classes": 10}},
        "networks": {"convnet3": {"architecture": "convnet"}},
        "protocols": {"idc": {"recipe": "idc"}},
        "students": {"group": ["convnet3"]},
        "pools": {"early": {"network": "convnet3"}},
    }
    paper = {"outer_iterations": 2000, "inner_steps": 100, "network_samples": 2000, "real_batch": 64}
    asked = {"seeds": [0], "network": "convnet3", "protocols": ["idc"], "settings": paper}

    def tabled(**changes):
        given = {**names, "experiments": {"a": asked, "b": asked}}
        plan = Plan(resolve(merged(merged(CONFIG, given), changes), read(project.SCHEMA)))
        cells = rows(plan.groups("a"))
        for cell in cells:
            write(cell)
            scored(cell, pd.read_csv(f"{cell['stem']}.csv").assign(network="convnet3"))
        return table("a", cells)

    found = tabled()
    assert line(found, "a").published == 0.367  # IDC-I: factor 1
    assert line(found, "a").published_source.endswith("IDC-I")
    for name in ("a__initial", "digits__random", "digits__whole"):
        assert math.isnan(line(found, name).published)
        assert line(found, name).published_source == ""
    assert "36.7%" in text(found)
    fewer = {"experiments": {"a": {"settings": {"outer_iterations": 10}}}}
    assert math.isnan(line(tabled(**fewer), "a").published), "other settings than the paper's"
    other = {"protocols": {"idc": {"epochs": 10}}}
    assert math.isnan(line(tabled(**other), "a").published), "a protocol that is the paper's by name only"
    assert math.isnan(line(table("tiny", made([0])), "a").published)


def test_part_of_the_cells_makes_a_table_of_them(made):
    cells = made([0, 1])
    some = [cell for cell in cells if cell["method"] == "idc" and cell["seed"] == 0]
    row = line(table("tiny", some), "a")
    assert (row.accuracy_mean, row.n_distill) == (0.55, 1)
    assert math.isnan(row.vs_random)  # no random of this seed yet
    nothing = table("tiny", [])
    assert list(nothing.columns) == COLUMNS
    assert text(nothing) == "nothing has been evaluated yet"


def test_written_and_read_is_the_same_text(made, tmp_path):
    found = table("tiny", made(range(5)))
    found.to_csv("tiny.csv", index=False)
    write_manifest("tiny.json", "table", {}, {"table": "tiny.csv"}, {})
    said = text(read_table("tiny.csv"))
    assert said == text(found)
    assert "digits, protocol quick, hard labels, network small" in said
    (shown,) = [words.split() for words in said.splitlines() if words.split()[:1] == ["a"]]
    assert shown == ["a", "1", "1", "66.0%", "+-", "12.0", "5", "x", "2", "+20.0", "[+7.6,", "+32.4]", "12"]
    assert next(words for words in said.splitlines() if "__whole" in words).split()[:3] == ["digits__whole", "all", "0"]


def test_the_figure_is_a_picture(made):
    found = table("tiny", made([0]))
    figure(found, "one.png")
    figure(found, "two.png")
    with open("one.png", "rb") as one, open("two.png", "rb") as two:
        content = one.read()
        assert content.startswith(b"\x89PNG")
        assert content == two.read()
