"""The configuration: read, converted, checked against the schema and against itself, before any job.

Every problem is collected and reported at once, each with its key, what was found and the nearest known name.
Nothing here imports torch.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from . import extent, observers, plain, presets, presets_students, progressive, protocol_settings, registry
from .dataset_settings import dataset_problems
from .pool_settings import pool_problems, view_for, view_problems
from .registry import nearest
from .settings import BOOLEAN, method_settings, settings_problems, size_problems
from .view_settings import horizon_problems, window_problems

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
RESERVED = "__"
# Names of folders stay what they are: there are classes called 00001.
TEXTS = ("path", "weights", "class_list", "test_folder", "data_dir")
_JUDGED = ("observers", "labels")
MOST_SAID = 1000  # letters of a problem


class ConfigError(ValueError):
    """The configuration cannot be used; the message lists every reason."""


def numeric(value: Any) -> Any:
    """`value` with numeric strings made numbers: YAML reads 1e-3 as text, and so come values from --config."""
    if isinstance(value, dict):
        return {
            str(key) if isinstance(key, int) and not isinstance(key, bool) else key: item
            if key in TEXTS
            else numeric(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [numeric(item) for item in value]
    if isinstance(value, str) and len(value) < 100 and _NUMBER.fullmatch(value):
        number = float(value)
        return int(value) if re.fullmatch(r"[+-]?\d+", value) else number if math.isfinite(number) else value
    return value


def read(path: str | Path) -> dict[str, Any]:
    """A YAML file as a map (empty file: empty map). ConfigError if it is none, or a key stands in it twice."""
    try:
        loaded = plain.load(path)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError(f"{path} must be a map of keys, not {type(loaded).__name__}")
    return loaded or {}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` merged in, key by key; lists and values are replaced."""
    out = copy.deepcopy(dict(base))
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else copy.deepcopy(value)
    return out


def resolve(raw: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The checked configuration with defaults filled in. ConfigError with every problem found."""
    if problems := plain.problems(dict(raw)):
        raise ConfigError(_report(problems))
    config: dict[str, Any] = numeric(copy.deepcopy(dict(raw)))
    config.setdefault("pools", {})
    for table in ("masksets", "observers", "labels"):
        config.setdefault(table, {})
    problems = _schema_problems(config, schema) + _budget_problems(config.get("experiments"))
    if problems:
        raise ConfigError(_report(problems))
    for entry in config["experiments"].values():
        entry.setdefault("ipc", sorted(entry.get("budget", [])))
    config["machine"] = {**presets.MACHINE, **config["machine"]}
    problems = _Checker(config).problems()
    if problems:
        raise ConfigError(_report(problems))
    return config


def _report(problems: list[str]) -> str:
    lines = "\n".join(f"  - {_line(problem)}" for problem in problems)
    return f"the configuration has {len(problems)} problem{'s' * (len(problems) > 1)}:\n{lines}"


def _line(problem: str) -> str:
    """A problem on one line, as signs that a terminal shows; of a long one the middle is left out."""
    plain = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in problem)
    return plain if len(plain) <= MOST_SAID else f"{plain[: MOST_SAID // 2]} ... {plain[-MOST_SAID // 2 :]}"


def _schema_problems(config: Any, schema: Mapping[str, Any]) -> list[str]:
    from jsonschema import Draft202012Validator

    errors = sorted(Draft202012Validator(schema).iter_errors(config), key=lambda error: list(map(str, error.path)))
    return list(dict.fromkeys(problem for error in errors for problem in _schema_problem(error)))


def _schema_problem(error: Any) -> list[str]:
    where = ".".join(map(str, error.absolute_path)) or "config"
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = error.schema.get("properties", {})
        return [f"{where}: unknown key {key!r}; {nearest(key, known)}" for key in error.instance if key not in known]
    hint = BOOLEAN if isinstance(error.instance, bool) else ""
    if "propertyNames" in error.absolute_schema_path:
        rule = "names are a-z, 0-9 and _, and begin with a letter or digit; 100 of them at most"
        return [f"{where}: {error.instance!r} is no name: {rule}{hint}"]
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return [f"{where}: key {key!r} is missing" for key in missing]
    if error.validator == "enum":
        return [f"{where}: {error.instance!r} is not one of {', '.join(map(str, error.validator_value))}{hint}"]
    return [f"{where}: {error.message}{hint}"]


def _budget_problems(experiments: Any) -> list[str]:
    """Experiments that have both `ipc` and `budget`, or neither."""
    named = experiments.items() if isinstance(experiments, dict) else ()
    entries = {name: entry for name, entry in named if isinstance(entry, dict)}
    return [
        f"experiments.{name}: it has {'both' if 'ipc' in entry else 'neither'} of `ipc` (images per class, each "
        "condensed by itself) and `budget` (condensed together): give one of the two"
        for name, entry in entries.items()
        if ("ipc" in entry) is ("budget" in entry)
    ]


class _Checker:
    """Names that refer to names, and numbers that only make sense together."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.found: list[str] = []
        self.sound_pools: set[str] = set()
        self.sound_networks: set[str] = set()

    def problems(self) -> list[str]:
        self.names()
        for kind in (
            "datasets",
            "networks",
            "students",
            "protocols",
            "pools",
            "masksets",
            *_JUDGED,
            "experiments",
            "suites",
        ):
            for name, entry in self.config[kind].items():
                getattr(self, kind)(f"{kind}.{name}", entry)
        known = self.config["suites"] | self.config["experiments"]
        self.refer("default_suite", self.config["default_suite"], known, "suite")
        return self.found

    def names(self) -> None:
        for kind in ("datasets", "experiments", "suites", "pools", "masksets", *_JUDGED):
            for name in self.config[kind]:
                if RESERVED in name:
                    self.found.append(
                        f"{kind}.{name}: names with {RESERVED!r} are kept for what is added automatically"
                    )
        for name in self.config["suites"].keys() & self.config["experiments"].keys():
            self.found.append(f"suites.{name}: an experiment of this name is a suite already; choose another name")
        for name in self.config["students"].keys() & self.config["networks"].keys():
            self.found.append(f"students.{name}: a network of this name is a group already; choose another name")

    def _students(self) -> dict[str, Any]:
        """What an experiment may name as students: groups, and networks by themselves."""
        return {**self.config["networks"], **self.config["students"]}

    def refer(self, where: str, name: Any, table: Collection[str], what: str) -> bool:
        if isinstance(name, str) and name in table:
            return True
        self.found.append(f"{where}: no {what} is called {name!r}; {nearest(name, table)}")
        return False

    def datasets(self, where: str, entry: dict[str, Any]) -> None:
        if not self.refer(f"{where}.source", entry["source"], registry.SOURCES, "data source"):
            return
        self.found += dataset_problems(where, entry)

    def networks(self, where: str, entry: dict[str, Any]) -> None:
        if self.refer(f"{where}.architecture", entry["architecture"], registry.NETWORKS, "architecture"):
            options = {key: value for key, value in entry.items() if key != "architecture"}
            needed = presets.NETWORK_DEFAULTS[entry["architecture"]]
            known = {**presets.NETWORK_OPTIONS.get(entry["architecture"], {}), **needed}
            problems = settings_problems(where, options, known)
            missing = [key for key, value in needed.items() if value == "" and not options.get(key)]
            problems += [f"{where}: key {key!r} is missing: {entry['architecture']} needs it" for key in missing]
            self.found += problems
            if not problems:
                self.sound_networks.add(where.removeprefix("networks."))

    def students_of(self, where: str, name: str, datasets: Iterable[str]) -> None:
        """A group of students that are to be trained on images of data sets."""
        if self.refer(f"{where}.students", name, self._students(), "network or group of students"):
            group, networks = self.config["students"].get(name, [name]), self.config["networks"]
            known = {network: networks[network] for network in group if network in networks}
            for dataset in dict.fromkeys(datasets):
                if dataset in self.config["datasets"]:
                    self.found += size_problems(f"{where}.students", known, self.config["datasets"][dataset])

    def students(self, where: str, entry: list[str]) -> None:
        for name in entry:
            self.refer(where, name, self.config["networks"], "network")

    def protocols(self, where: str, entry: dict[str, Any]) -> None:
        if not self.refer(f"{where}.recipe", entry["recipe"], presets_students.PROTOCOLS, "protocol recipe"):
            return
        given = {key: value for key, value in entry.items() if key != "recipe"}
        known = {**presets_students.PROTOCOL_OPTIONS, **presets_students.PROTOCOLS[entry["recipe"]]}
        for key in presets_students.PER_DATASET:
            if isinstance(given.get(key), dict):
                for dataset, value in given.pop(key).items():
                    if self.refer(f"{where}.{key}", dataset, self.config["datasets"], "data set"):
                        self.found += settings_problems(where, {key: value}, known)
        self.found += settings_problems(where, given, known)
        resolved = {**presets_students.PROTOCOLS[entry["recipe"]], **entry}
        if resolved["epochs"] == resolved["steps"] == 0 and resolved.get("epochs_by", "given") == "given":
            self.found.append(f"{where}: students would train for 0 epochs and 0 steps: give one of the two")

    def pools(self, where: str, entry: dict[str, Any]) -> None:
        self.refer(f"{where}.dataset", entry["dataset"], self.config["datasets"], "data set")
        self.refer(f"{where}.network", entry["network"], self.config["networks"], "network")
        recipe = entry.get("training", {}).get("recipe", "idc")
        if self.refer(f"{where}.training.recipe", recipe, presets.POOL_TRAINING, "training recipe"):
            problems = pool_problems(where, entry)
            self.found += problems
            if not problems:
                self.sound_pools.add(where.removeprefix("pools."))

    def experiments(self, where: str, entry: dict[str, Any]) -> None:
        if not self.refer(f"{where}.dataset", entry["dataset"], self.config["datasets"], "data set"):
            return
        for protocol in entry["protocols"]:
            self.refer(f"{where}.protocols", protocol, self.config["protocols"], "protocol")
        self.students_of(where, entry["students"], [entry["dataset"]])
        self.taught(where, entry["protocols"], entry["students"], entry["dataset"])
        self.labels_of(where, entry)
        classes = self.config["datasets"][entry["dataset"]]["classes"]
        if classes % entry.get("classes_per_phase", classes):
            self.found.append(
                f"{where}.classes_per_phase: {entry['classes_per_phase']} does not divide {classes} classes"
            )
        problems = progressive.problems(where, entry, {name: self.config["pools"][name] for name in self.sound_pools})
        self.found += problems
        if not problems and self.refer(f"{where}.method", progressive.method_of(entry), registry.METHODS, "method"):
            self.method(where, entry)

    def taught(self, where: str, protocols: Iterable[str], students: str, dataset: str) -> None:
        """Protocols whose settings go by the student, and know each of a group."""
        group, networks = self.config["students"].get(students, [students]), self.config["networks"]
        known = {name: networks[name] for name in group if name in self.sound_networks}
        data = {"source": (entry := self.config["datasets"][dataset])["source"], "classes": entry["classes"]}
        for name in protocols:
            entry = self.config["protocols"].get(name, {})
            if entry.get("recipe") not in presets_students.PROTOCOLS:
                continue
            try:
                protocol_settings.resolve({**presets_students.PROTOCOLS[entry["recipe"]], **entry}, data, 1, known)
            except ValueError as error:
                self.found.append(f"{where}: protocol {name}: {error}")

    def labels_of(self, where: str, entry: dict[str, Any]) -> None:
        """The labels of an experiment or suite: kinds there always are, and named ones."""
        for name in entry.get("labels", []):
            self.refer(f"{where}.labels", name, [*presets_students.LABELS, *self.config["labels"]], "kind of labels")

    def observers(self, where: str, entry: dict[str, Any]) -> None:
        self.found += observers.observer_problems(where, entry, self.config, self.sound_pools)

    def labels(self, where: str, entry: dict[str, Any]) -> None:
        self.found += observers.label_problems(where, entry, self.config)

    def method(self, where: str, entry: dict[str, Any]) -> None:
        name, settings = progressive.method_of(entry), entry.get("settings", {})
        facts, defaults = registry.METHODS[name].facts, presets.METHOD_SETTINGS[name]
        if "progressive" in entry and facts.get("stages"):  # what else an observer does, the stage's networks do
            facts = {**facts, "network": True, "pool": "required"}
        source = self.config["datasets"][entry["dataset"]]["source"]
        wrong = settings_problems(f"{where}.settings", settings, defaults["default"])
        self.found += wrong
        if not facts.get("partitionable", True) and (
            key := next((k for k in ("classes_per_phase", "budget") if k in entry), "")
        ):
            self.found.append(f"{where}.{key}: {name} learns all its images together: leave it out (ipc for budget)")
        if facts["network"] and "network" not in entry:
            self.found.append(f"{where}: key 'network' is missing: {name} needs a network")
        elif "network" in entry:
            self.refer(f"{where}.network", entry["network"], self.config["networks"], "network")
        if "speedup" in settings and "outer_iterations" in settings:
            self.found.append(
                f"{where}.settings: speedup is a number of outer iterations by another name: give one of the two"
            )
        if wrong:  # what goes by them is looked at when they are right
            return
        resolved = method_settings(name, source, settings)
        beyond = [outer for outer in entry.get("evaluate_at", []) if outer >= resolved.get("outer_iterations", 0)]
        if beyond:
            last = resolved.get("outer_iterations", 0)
            self.found.append(f"{where}.evaluate_at: {beyond} is not before the last outer iteration, {last}")
        before = len(self.found)
        self.found += observers.problems(where, entry, resolved, self.config)
        self.view(where, entry, facts)
        self.masks(where, entry, facts)
        if len(self.found) == before:
            self.budget(where, entry)
            self.found += extent.problems(where, entry, resolved, self.config)

    def budget(self, where: str, entry: dict[str, Any]) -> None:
        """What is condensed together starts from the same networks."""
        ipcs, view, masks = entry["ipc"] if "budget" in entry else [], entry.get("view"), entry.get("masks")
        views = [view_for(view, ipc) for ipc in ipcs] if view else []
        named = [masks[str(ipc)] for ipc in ipcs] if isinstance(masks, dict) else []
        for what, each in (("view", views), ("masks", named)):
            if any(other != each[0] for other in each):
                self.found.append(
                    f"{where}.budget: ipc {', '.join(map(str, ipcs))} would be condensed together, at the same "
                    f"networks, but their {what} differ: give `ipc` instead of `budget`, or one {what} for all"
                )

    def masks(self, where: str, entry: dict[str, Any], facts: Mapping[str, Any]) -> None:
        """Mask sets of an experiment: one, or one by ipc, of its data set and network."""
        named = entry.get("masks")
        if bool(facts.get("masks")) is not bool(named):
            needs = "needs `masks`, the name of a mask set" if facts.get("masks") else "does not make networks sparse"
            self.found.append(f"{where}.masks: {progressive.method_of(entry)} {needs}")
            return
        if isinstance(named, dict) and (missing := [n for n in entry["ipc"] if str(n) not in named]):
            self.found.append(f"{where}.masks: none for ipc {missing}, only for {', '.join(named)}")
        for name in dict.fromkeys(named.values() if isinstance(named, dict) else [named] if named else []):
            if not self.refer(f"{where}.masks", name, self.config["masksets"], "mask set"):
                continue
            for key in ("dataset", "network"):
                if entry.get(key) != (have := self.config["masksets"][name][key]):
                    self.found.append(
                        f"{where}.masks: the {key} of {name} is {have}, the experiment's {entry.get(key)}"
                    )

    def masksets(self, where: str, entry: dict[str, Any]) -> None:
        self.refer(f"{where}.dataset", entry["dataset"], self.config["datasets"], "data set")
        self.refer(f"{where}.network", entry["network"], self.config["networks"], "network")
        self.found += settings_problems(where, {"kind": entry["kind"]}, {"kind": "uniform"})

    def view(self, where: str, entry: dict[str, Any], facts: Mapping[str, Any]) -> None:
        pool, view = entry.get("pool"), entry.get("view")
        if (pool is None) != (view is None):
            self.found.append(f"{where}: 'pool' and 'view' go together; {'view' if pool else 'pool'!r} is missing")
            return
        if pool is None:
            if facts.get("pool") == "required":
                self.found.append(
                    f"{where}: {progressive.method_of(entry)} starts from a pool: keys 'pool' and 'view' are missing"
                )
            return
        if not facts.get("pool"):
            self.found.append(f"{where}.pool: {progressive.method_of(entry)} does not start from a pool")
        elif self.refer(f"{where}.pool", pool, self.config["pools"], "pool"):
            wrong = window_problems(entry["view"], entry["ipc"])
            wrong += horizon_problems(progressive.method_of(entry), bool(facts.get("horizon")), entry["view"])
            self.found += [f"{where}.view{problem}" for problem in wrong]
            if pool in self.sound_pools:
                held = self.config["pools"][pool], self.config["datasets"]
                self.found += [f"{where}.{said}" for said in view_problems(entry, *held, epochs_too=not wrong)]
            if (view or {}).get("metric") == "heldout" and not self.config["datasets"][entry["dataset"]].get("heldout"):
                self.found.append(
                    f"{where}.view.metric: data set {entry['dataset']} has nothing held out; set its heldout"
                )

    def suites(self, where: str, entry: dict[str, Any]) -> None:
        for name in entry["experiments"]:
            self.refer(f"{where}.experiments", name, self.config["experiments"], "experiment")
        for name in entry.get("protocols", []):
            self.refer(f"{where}.protocols", name, self.config["protocols"], "protocol")
        self.labels_of(where, entry)
        if "students" in entry:
            known = [
                self.config["experiments"][name] for name in entry["experiments"] if name in self.config["experiments"]
            ]
            self.students_of(where, entry["students"], [experiment["dataset"] for experiment in known])
            for experiment in (held for held in known if held["dataset"] in self.config["datasets"]):
                protocols = entry.get("protocols") or experiment["protocols"]
                self.taught(where, protocols, entry["students"], experiment["dataset"])
