"""What a change makes run again: the exact jobs of dry runs on finished results (tests/tiny.py)."""

import pytest
from tiny import ALL, DATA, WHOLE, A, B, Tiny, card, condensed, made, scored, shown

from ddlib import presets


@pytest.fixture
def tiny(tmp_path_factory, tmp_path):
    return Tiny.finished(tmp_path_factory, tmp_path / "repo")


IDC = presets.METHOD_SETTINGS["idc"]["default"] | presets.METHOD_SETTINGS["idc"]["digits"]
EVALUATIONS = {path for path in ALL if path.startswith("evaluations/")}


def settings(config, **given):
    asks(config, settings={**config["experiments"]["a"]["settings"], **given})


def asks(config, **given):
    config["experiments"]["a"] |= given


CHANGES = [
    # what is changed, what runs again
    ("nothing", lambda c: None, set()),
    ("a setting of one method", lambda c: settings(c, inner_steps=2), made("a") | shown()),
    ("how images begin", lambda c: settings(c, init="mix", factor=1), made("a") | made("a__initial") | shown()),
    ("images that begin as the random ones", lambda c: settings(c, init="random"), made("a") | shown()),
    ("how images are stored", lambda c: settings(c, factor=2), made("a") | made("a__initial") | shown()),
    ("a setting to what it is", lambda c: settings(c, image_momentum=IDC["image_momentum"]), set()),
    (
        "a new seed",
        lambda c: asks(c, seeds=[0, 1]),
        made("a", seed=1) | made("a__initial", seed=1) | made("digits__random", seed=1) | shown(),
    ),
    (
        "a new ipc",
        lambda c: asks(c, ipc=[1, 2]),
        made("a", ipc=2) | made("a__initial", ipc=2) | made("digits__random", ipc=2) | shown(),
    ),
    (
        "another seed",
        lambda c: asks(c, seeds=[1]),
        made("a", seed=1) | made("a__initial", seed=1) | made("digits__random", seed=1) | shown(),
    ),
    ("epochs of students", lambda c: c["protocols"]["quick"].update(epochs=2), EVALUATIONS - WHOLE | shown()),
    ("steps on all images", lambda c: c["protocols"]["quick"].update(whole_steps=2), WHOLE | shown()),
    ("students per set", lambda c: c["protocols"]["quick"].update(repeats=2), EVALUATIONS | shown()),
    (
        "another network in the group",
        lambda c: c["students"].update(group=["small", "wide"]),
        EVALUATIONS - WHOLE | {scored("digits__whole", ipc=0, students="wide")} | shown(),
    ),
    ("threads", lambda c: c["machine"].update(threads=2), set()),
    ("the machine", lambda c: c["machine"].update(device="auto", precision="bf16", class_chunk=3, data_dir="x"), set()),
    ("another pool nobody uses", lambda c: c["pools"].update(spare={"dataset": "digits", "network": "small"}), set()),
    (
        "how the pool trains",
        lambda c: c["pools"]["early"]["training"].update(lr=0.02),
        B - made("b__initial") | shown(),
    ),
    (
        "more members of the pool",
        lambda c: c["experiments"]["b"]["view"].update(members=2),
        B - made("b__initial") - {"pool/early/block0.json"} | {"pool/early/block1.json"} | shown(),
    ),
    (
        "other epochs of the pool",
        lambda c: c["experiments"]["b"]["view"].update(epochs=[1]),
        B - made("b__initial") - {"pool/early/block0.json"} | shown(),
    ),
    ("the suite", lambda c: c["suites"]["tiny"].update(experiments=["a"]), shown()),
    ("the default suite", lambda c: c.update(default_suite="b"), shown("b")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "jobs"), [pytest.param(*case[1:], id=case[0].replace(" ", "_")) for case in CHANGES]
)
def test_a_changed_configuration_runs(tiny, change, jobs):
    change(tiny.config)
    assert tiny.plan() == jobs


def test_without_results_everything_runs_once(tmp_path):
    tiny = Tiny.new(tmp_path / "repo")
    assert tiny.plan() == ALL
    assert tiny.plan("results/tables/a.csv") == DATA | A | made("digits__random") | WHOLE | {"tables/a.csv"}


def test_touched_files_run_nothing(tiny):
    for path in ("data/digits/train.json", condensed("a"), card("b"), "pool/early/block0.json"):
        (tiny.results / path).touch()
    assert tiny.plan() == set()


@pytest.mark.parametrize(
    ("path", "jobs"),
    [
        ("data/digits/train.json", ALL - DATA),
        ("data/digits/test.json", EVALUATIONS | shown()),
        ("views/b/ipc1/seed0/selection.json", made("b") | shown()),
        (condensed("a"), {card("a"), scored("a")} | shown()),
        (card("a"), {scored("a")} | shown()),
        (scored("a").replace(".json", ".csv"), shown()),
    ],
)
def test_an_edited_file_runs_what_uses_it(tiny, path, jobs):
    edited = tiny.results / path
    edited.write_text(edited.read_text() + "\n")
    assert tiny.plan() == jobs


def test_a_deleted_intermediate_is_made_when_something_needs_it(tiny):
    for path in (condensed("a"), card("a"), "pool/early/block0.json"):
        (tiny.results / path).unlink()
    assert tiny.plan() == set()
    tiny.config["protocols"]["quick"]["repeats"] = 2
    assert tiny.plan() == EVALUATIONS | {condensed("a"), card("a")} | shown()


def test_a_bumped_version_of_a_method_runs_its_condensations(tiny):
    registry = tiny.own_code() / "registry.py"
    assert tiny.plan() == set()
    text = registry.read_text()
    bumped = text.replace('"idc": Entry("ddlib.methods.idc:recipe",', '"idc": Entry("ddlib.methods.idc:recipe", 2,')
    assert bumped != text
    registry.write_text(bumped)
    assert tiny.plan() == made("a") | made("b") | shown()


def test_an_experiment_is_a_suite_of_its_own_name(tiny):
    assert tiny.plan("results/tables/a.csv", "results/figures/a.png") == shown("a")
    done = tiny.snakemake("results/tables/a.csv")
    assert done.returncode == 0, done.stderr
    table = (tiny.results / "tables" / "a.csv").read_text().splitlines()
    assert [line.split(",")[2] for line in table[1:]] == ["a", "a__initial", "digits__random", "digits__whole"]


def test_the_local_configuration_lies_between_the_file_and_the_command_line(tiny):
    (tiny.folder / "config.local.yaml").write_text("experiments: {a: {seeds: [0, 1]}}\n")
    more = made("a", seed=1) | made("a__initial", seed=1) | made("digits__random", seed=1)
    assert tiny.plan() == more | shown()
    assert tiny.plan("--config", "experiments={a: {seeds: [0]}}") == set()
    (tiny.folder / "config.local.yaml").write_text("# nothing yet\n")
    assert tiny.plan() == set()


def test_whole_is_made_once_whoever_asks(tiny):
    """Two suites that name the same protocol and network share it."""
    tiny.config["suites"]["other"] = {"experiments": ["b"], "students": "group"}
    assert tiny.plan("results/tables/other.csv") == {"tables/other.csv"}
