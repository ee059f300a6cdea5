"""Configurations that went wrong in every way: each ends in a clear ConfigError or in a plan, never in a traceback."""

import copy
import datetime
import json
import re
from pathlib import PurePosixPath

import pytest
import yaml
from every import EVERY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import CONFIG

from ddlib import presets, presets_students, project
from ddlib.artifacts import canonical
from ddlib.config import ConfigError, merged, read, resolve
from ddlib.paths import FIGURE, MANIFESTS, made_by
from ddlib.plan import Plan

SCHEMA = read(project.SCHEMA)
REAL = read(project.SCHEMA.parents[2] / "config.yaml")
BASES = {"config.yaml": REAL, "tiny": CONFIG, "every": EVERY}
MOST_JOBS = 400  # whose specifications are looked at, of one example

# What stands where something else should: of every type YAML has, of every size, and words that YAML or paths mishear.
VALUES = [
    None, True, False, 0, 1, 2, -1, 3, 7, 10**6, 10**12, 10**30, -(10**18), 0.5, 1.0, 2.5, -0.0, 1e-300, 1e300,
    float("nan"), float("inf"), float("-inf"), "", " ", "1e-3", "off", "no", "null", "~", "-", "*", "0x10", "1_000",
    "nan", "-inf", "1e999", "9" * 400, "x" * 20_000, "é", "数", "\u202egpj", "a\nb", "a\tb", "\0", "../../x", "/",
    "; true", "$(true)", "{x}", "{{", "%s", "x__y", "all", "last", "early", "0-16", "9-1", "0-99999999999", "whole",
    "random", "initial", "hard", "own", "best_by_ipc", "own_architecture", "folder", "rded", "idc", "mtt", "crop_flip",
    [], {}, [[]], [None], [{}], [0], [1, 1], [0, 1], [2], [10**12], [[0.1, 0.5]], [[]], ["a", "a"], [True], ["x"],
    {"": {}}, {"pool": "early"}, {1: 2}, {None: None}, {1.5: 0}, {"x" * 300: 1}, {"members": 1}, {"recipe": "idc"},
    {"base": "idc", "stages": 2}, {"base": "rded", "stages": 2}, {"base": 1, "stages": 2}, [["deep"] * 3] * 3,
    b"bytes", {"lr": [0.1]}, {"members": 10**9}, {"pool": "early", "member": 10**9},
]  # fmt: skip


def schema_keys(node):
    """Every key the schema knows, at any depth."""
    if isinstance(node, dict):
        yield from node.get("properties", {})
        for value in node.values():
            yield from schema_keys(value)
    elif isinstance(node, list):
        for value in node:
            yield from schema_keys(value)


TABLES = [
    presets_students.PROTOCOL_OPTIONS,
    *presets.POOL_TRAINING.values(),
    *presets_students.PROTOCOLS.values(),
    *presets.NETWORK_DEFAULTS.values(),
    *(settings for method in presets.METHOD_SETTINGS.values() for settings in method.values()),
]
KEYS = sorted({*schema_keys(SCHEMA), *(key for table in TABLES for key in table)})
WORDS = sorted({word for words in presets.CHOICES.values() for word in words if isinstance(word, str)})

numbers = st.integers(0, 10**6)
steps = st.lists(numbers, min_size=1, max_size=6)
OPERATIONS = ("put", "put", "add", "add", "delete", "rename", "swap", "copy", "twice", "cut", "wrap", "name", "word")
changes = st.lists(st.tuples(st.sampled_from(OPERATIONS), steps, steps, numbers), min_size=1, max_size=4)


def children(node):
    """Keys or places of what a map or list holds."""
    return list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []


def place(config, walk):
    """(what holds it, its key) of a place in a configuration, step by step from the top."""
    holder, key = config, None
    for number in walk:
        node = holder if key is None else holder[key]
        if not (keys := children(node)):
            break
        holder, key = node, keys[number % len(keys)]
    return holder, key


def changed(config, operation, walk, other, number):
    """Make one change in a configuration."""
    holder, key = place(config, walk)
    if key is None:
        return
    value = holder[key]
    from_holder, from_key = place(config, other)
    if operation == "put":
        holder[key] = copy.deepcopy(VALUES[number % len(VALUES)])
    elif operation == "word":
        holder[key] = WORDS[number % len(WORDS)]
    elif operation == "delete":
        del holder[key]
    elif operation == "cut" and isinstance(value, dict | list | str):
        holder[key] = type(value)() if not isinstance(value, str) else value[: number % (len(value) + 1)]
    elif operation == "wrap":
        holder[key] = [value] if number % 2 else {str(key): value}
    elif operation == "copy" and from_key is not None:
        holder[key] = copy.deepcopy(from_holder[from_key])
    elif operation == "swap" and from_key is not None:
        taken, put = copy.deepcopy(from_holder[from_key]), copy.deepcopy(value)
        holder[key] = taken
        if from_key in children(from_holder):
            from_holder[from_key] = put
    elif operation == "twice" and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(value))
    elif operation == "name":  # a reference to something else of that kind, or of another
        table = config.get(list(SCHEMA["properties"])[number % len(SCHEMA["properties"])])
        if isinstance(table, dict) and table and not isinstance(value, dict | list):
            holder[key] = list(table)[other[0] % len(table)]
    elif operation in ("rename", "add") and isinstance(holder, dict):
        word = misspelt(key, number) if operation == "rename" else KEYS[number % len(KEYS)]
        if operation == "rename":
            del holder[key]
        target = value if operation == "add" and isinstance(value, dict) and other[0] % 2 else holder
        target[word] = copy.deepcopy(value if operation == "rename" else VALUES[other[-1] % len(VALUES)])


def misspelt(key, number):
    """A name with two letters exchanged, one lost or one too many, or another thing altogether."""
    text, at = str(key), number % max(1, len(str(key)))
    ways = (text[:at] + text[at + 1 :], text[:at] + text[at : at + 1] * 2 + text[at + 1 :], text.upper(), None, 1, True)
    return ways[number % len(ways)]


def known_paths(plan, rule, names):
    """The inputs of a job, as the workflow asks for them."""
    asked = {
        "condense": lambda: plan.condense_inputs(**{key: value for key, value in names.items() if key != "phase"}),
        "condition": lambda: plan.condition_inputs(**names),
        "observe": lambda: plan.observe_inputs(**names),
        "relabel": lambda: plan.relabel_inputs(**{key: value for key, value in names.items() if key != "views"}),
        "evaluate": lambda: plan.evaluate_inputs(**names),
        "select_view": lambda: {"blocks": plan.members(names["experiment"])},
        "select_conditioned": lambda: {"blocks": plan.conditioned(**names)},
        "merge": lambda: {"parts": plan.phases(names["experiment"], names["ipc"], names["seed"])},
    }
    found = asked.get(rule, dict)()
    found.pop("weights", None)  # a file of the user's own, wherever it is
    return [path for value in found.values() for path in ([value] if isinstance(value, str) else value)]


def check_path(path):
    """Below results/, and nothing in it that a shell or a file system would take for something else."""
    assert re.fullmatch(r"results/[a-z0-9][a-zA-Z0-9_./-]*", path), path
    assert ".." not in PurePosixPath(path).parts, path


def check_plan(plan, suites):
    """Every job of some suites can be told what to do, in JSON, and where."""
    for suite in suites:
        jobs = plan.jobs(suite)
        check_path(FIGURE.format(suite=suite))
        plan.assumed(suite)
        for rule, names in [("tabulate", {"suite": suite}), *jobs[:MOST_JOBS]]:
            spec = plan.spec(rule, names)
            assert json.loads(canonical(spec)) == json.loads(json.dumps(spec))
            for path in [template.format(**names) for template in MANIFESTS[rule]]:
                check_path(path)
                assert made_by(path)[0] == rule
            for path in known_paths(plan, rule, names):
                check_path(path)
        for path in plan.table_inputs(suite)[: 5 * MOST_JOBS]:
            check_path(path)


def check_clear(message, tables):
    """Each problem begins with the key it is about; nothing of Python's own words; nobody reads a page of it."""
    first, *problems = message.split("\n  - ")
    assert re.fullmatch(r"the configuration has \d+ problems?:", first), message
    assert int(first.split()[3]) == len(problems), message
    for problem in problems:
        where = re.split(r"[.:]", problem)[0]
        assert where in {"config", *SCHEMA["properties"], *map(str, tables)}, problem
        assert ": " in problem
        assert len(problem) < 1100, problem
        assert problem.isprintable(), problem
        said = re.search(r"Error\b|Traceback|NoneType|has no attribute|not (subscriptable|iterable|hashable)", problem)
        assert not said, problem


def outcome(raw, picks=()):
    """What became of a configuration: refused (in clear words) or planned (in full; of a large one these suites)."""
    try:
        plan = Plan(resolve(raw, SCHEMA))
    except ConfigError as error:
        check_clear(str(error), raw)
        return "refused"
    suites = list(plan.suites)
    check_plan(plan, dict.fromkeys(suites[pick % len(suites)] for pick in picks) or suites)
    return "planned"


def touched(config, all_changes):
    """Places (in Plan.suites, where experiments come first) of suites that the changes are about, and of one more."""
    experiments = config["experiments"] if isinstance(config.get("experiments"), dict) else {}
    for _, walk, _, _ in all_changes:
        _, name = place(config, walk[:2])
        about = (
            at for at, (known, entry) in enumerate(experiments.items()) if name == known or f"'{name}'" in str(entry)
        )
        yield from list(about)[:2]
    yield all_changes[0][3]


def tried(name, all_changes):
    """The outcome of a base with changes."""
    config = copy.deepcopy(BASES[name])
    for change in all_changes:
        changed(config, *change)
    return outcome(config, list(touched(config, all_changes)) if name == "config.yaml" else ())


@pytest.mark.parametrize("name", BASES)
def test_the_bases_are_planned(name):
    assert outcome(copy.deepcopy(BASES[name]), () if name != "config.yaml" else range(3)) == "planned"


QUIET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=600, derandomize=True, **QUIET)
@given(name=st.sampled_from(sorted(BASES)), all_changes=changes)
def test_every_configuration_is_planned_or_refused_in_clear_words(name, all_changes):
    assert tried(name, all_changes) in ("refused", "planned")


@pytest.mark.soak
@settings(max_examples=5000, **QUIET)
@given(name=st.sampled_from(sorted(BASES)), all_changes=changes)
def test_so_is_every_other(name, all_changes):
    assert tried(name, all_changes) in ("refused", "planned")


def test_both_happen():
    """The changes are neither so wild that nothing is planned, nor so tame that nothing is refused."""
    walks = [
        ([table, entry, key], [entry, key, table]) for table in range(4, 11) for entry in (0, 1) for key in range(5)
    ]
    found = [
        tried("every", [(what, *walk, 10 + at)]) for at, walk in enumerate(walks) for what in ("put", "add", "name")
    ]
    assert min(found.count("refused"), found.count("planned")) > 20


# ---- what was found, and must not come back -------------------------------------------------------------------------


def base(**given):
    """The tiny configuration with tables merged in."""
    return merged(CONFIG, given)


FOUND = [
    (base(pools={"early": {"training": {"epochs": "many"}}}, observers={"j": {"pool": "early"}}), "'many' is a str"),
    (base(pools={"early": {"training": {"epochs": 10**12}}}), "epochs: 1000000000000 is more than 100000"),
    (base(pools={"early": {"snapshots": "0-99999999999"}}), "pools.early.snapshots: snapshots are all, early, last"),
    (
        base(pools={"early": {"training": {"recipe": {}}}}),
        "pools.early.training.recipe: no training recipe is called {}",
    ),
    (base(networks={"small": {"architecture": "torchvision"}}), "key 'name' is missing: torchvision needs it"),
    (base(protocols={"quick": {"epochs": None}}), "protocols.quick.epochs: nothing is given (YAML reads null"),
    (base(experiments={"a": {"settings": {"factor": "2"}}, "b": {"settings": {"factor": "x"}}}), "'x' is a str"),
    (base(experiments={"a": {"settings": {"outer_iterations": "x"}}}), "outer_iterations: 'x' is a str"),
    (base(experiments={"a": {"settings": {"image_lr": 10**400}}}), "settings.image_lr: a number of more than 64 bits"),
    (base(experiments={"a": {"settings": {"image_lr": "9" * 99}}}), "is more than 10000000: no training takes so many"),
    (base(experiments={"a": {"settings": {"init": ["x"] * 9999}}}), " ... "),
    (base(experiments={"a": {"ipc": [10**12]}}), "1000000000000 is greater than the maximum of 100000"),
    (base(experiments={"a": {"seeds": list(range(6000)), "ipc": list(range(1, 99))}}), "jobs, and 1,000,000 can be"),
    (base(datasets={"digits": {"heldout": float("nan")}}), "datasets.digits.heldout: nan is no number to work with"),
    (base(machine={"cache_gb": "1e999"}), "machine.cache_gb: '1e999' is not of type 'number'"),
    (base(machine={"data_dir": "a\0b"}), "machine.data_dir: 'a\\x00b' has signs that no file"),
    (base(machine={"data_dir": "\ud800"}), "machine.data_dir: '\\ud800' has signs that no file"),
    (
        base(machine={"data_dir": datetime.date(2020, 1, 1)}),
        "machine.data_dir: datetime.date(2020, 1, 1) is of a kind (date)",
    ),
    (base(suites={"two\n": {"experiments": ["a"]}}), "suites: 'two\\n' is no name: names are a-z"),
    (base(suites={"x" * 101: {"experiments": ["a"]}}), "is no name: names are a-z"),
    (
        base(experiments={"a": {"dataset": "gone"}}, suites={"tiny": {"students": "group"}}),
        "no data set is called 'gone'",
    ),
]


@pytest.mark.parametrize(("raw", "said"), FOUND, ids=[said[:50] for _, said in FOUND])
def test_found(raw, said):
    with pytest.raises(ConfigError) as caught:
        resolve(raw, SCHEMA)
    check_clear(str(caught.value), raw)
    assert said in str(caught.value)


def test_values_without_end_are_refused():
    endless = {"a": []}
    endless["a"] += [endless, endless]
    laughs = []
    for _ in range(40):
        laughs = [laughs] * 10
    for raw in (base(experiments=endless), base(suites={"tiny": laughs})):
        with pytest.raises(ConfigError, match=r"nested deeper than 50 levels|more than 500000 values"):
            resolve(raw, SCHEMA)


# ---- as text --------------------------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 30))
TEXTS = [
    (b"- a\n", "must be a map of keys, not list"),
    (b"word", "must be a map of keys, not str"),
    (b"a: [", "is not valid YAML"),
    (b"a:\n\tb: 1\n", "is not valid YAML"),
    (b"a: 1\n--- \nb: 2\n", "is not valid YAML"),
    (b"a: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
    (b"? [a]\n: 1\n", "is not valid YAML"),
    (b"a: \x00", "is not valid YAML"),
    (b"a: \xff\xfe", "is not text in UTF-8 (byte 3)"),
    ("a: 1\n".encode("utf-16"), "is not text in UTF-8 (byte 0)"),
    (b"a: 1\nb: {c: 1,\n  c: 2}\n", "line 3: the key 'c' stands here for the second time"),
    (b"a: &a [*a]\n", "line 1: an alias stands within what it is an alias of"),
    (b"a: " + b"[" * 60 + b"]" * 60, "nested deeper than 50 levels"),
    (b"a: " + b"[" * 5000, "nested deeper than 50 levels"),
    (LAUGHS.encode(), "aliases that stand for more than 500000 values"),
    (MERGES.encode(), "aliases that stand for more than 500000 values"),
    (b"a: " + b"9" * 5000, "line 1: a number of 5000 digits"),
    (b"a: 0x" + b"f" * 5000, "line 1: a number of 5002 digits"),
    (b"a: 2001-99-99", "line 1: 2001-99-99 is a date to YAML: quote it"),
    (b"x" * 6_000_000, "has 6 MB: this is no configuration"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), TEXTS, ids=[said[:40] for _, said in TEXTS])
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text, said):
    path = tmp_path / "config.yaml"
    path.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        project.load(tmp_path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_file_and_no_plain_file(tmp_path):
    with pytest.raises(ConfigError, match=r"config.yaml does not exist: run this where it is"):
        project.load(tmp_path)
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"config.yaml cannot be read: Is a directory"):
        project.load(tmp_path)


def test_an_empty_file_lacks_every_key(tmp_path):
    for text in ("", "# nothing\n", "---\n", "\ufeff"):
        (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match="config: key 'datasets' is missing"):
            project.load(tmp_path)


@settings(max_examples=60, derandomize=True, **QUIET)
@given(
    cuts=st.lists(st.tuples(numbers, st.binary(max_size=3), st.integers(0, 40)), min_size=1, max_size=3), ends=numbers
)
def test_a_damaged_file_is_planned_or_refused(tmp_path_factory, cuts, ends):
    """Bytes put in, taken out, or an end too early, in the text of the tiny configuration."""
    text = yaml.safe_dump(EVERY).encode()
    for at, put, lost in cuts:
        text = text[: at % len(text)] + put + text[at % len(text) + lost :]
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_bytes(text[: max(1, len(text) - ends % 200)])
    try:
        raw = read(path)
    except ConfigError as error:
        raw, said = None, str(error)
    assert outcome(raw) in ("refused", "planned") if raw is not None else str(path) in said
