"""The configuration: read, converted, checked against the schema and against itself, before any job.

Every problem is collected and reported at once, each with its key, what was found and the nearest known name.
Nothing here imports torch.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import presets, registry
from .registry import nearest
from .settings import BOOLEAN, settings_problems

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
RESERVED = "__"


class ConfigError(ValueError):
    """The configuration cannot be used; the message lists every reason."""


def numeric(value: Any) -> Any:
    """`value` with numeric strings made numbers: YAML reads 1e-3 as text, and so come values from --config."""
    if isinstance(value, dict):
        return {key: numeric(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numeric(item) for item in value]
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        number = float(value)
        return int(value) if re.fullmatch(r"[+-]?\d+", value) else number
    return value


def read(path: str | Path) -> dict[str, Any]:
    """A YAML file as a map (empty file: empty map)."""
    import yaml

    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
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
    config: dict[str, Any] = numeric(copy.deepcopy(dict(raw)))
    config.setdefault("pools", {})
    problems = _schema_problems(config, schema)
    if problems:
        raise ConfigError(_report(problems))
    config["machine"] = {**presets.MACHINE, **config["machine"]}
    problems = _Checker(config).problems()
    if problems:
        raise ConfigError(_report(problems))
    return config


def _report(problems: list[str]) -> str:
    lines = "\n".join(f"  - {problem}" for problem in problems)
    return f"the configuration has {len(problems)} problem{'s' * (len(problems) > 1)}:\n{lines}"


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
        rule = "names are a-z, 0-9 and _, and begin with a letter or digit"
        return [f"{where}: {error.instance!r} is no name: {rule}{hint}"]
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return [f"{where}: key {key!r} is missing" for key in missing]
    if error.validator == "enum":
        return [f"{where}: {error.instance!r} is not one of {', '.join(map(str, error.validator_value))}{hint}"]
    return [f"{where}: {error.message}{hint}"]


class _Checker:
    """Names that refer to names, and numbers that only make sense together."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.found: list[str] = []

    def problems(self) -> list[str]:
        self.names()
        for kind in ("datasets", "networks", "students", "protocols", "pools", "experiments", "suites"):
            for name, entry in self.config[kind].items():
                getattr(self, kind)(f"{kind}.{name}", entry)
        known = self.config["suites"] | self.config["experiments"]
        self.refer("default_suite", self.config["default_suite"], known, "suite")
        return self.found

    def names(self) -> None:
        for kind in ("datasets", "experiments", "suites", "pools"):
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

    def refer(self, where: str, name: Any, table: Mapping[str, Any], what: str) -> bool:
        if name in table:
            return True
        self.found.append(f"{where}: no {what} is called {name!r}; {nearest(name, table)}")
        return False

    def datasets(self, where: str, entry: dict[str, Any]) -> None:
        if not self.refer(f"{where}.source", entry["source"], registry.SOURCES, "data source"):
            return
        facts = registry.SOURCES[entry["source"]].facts
        if entry["classes"] != facts["classes"]:
            self.found.append(
                f"{where}.classes: {entry['source']} has {facts['classes']} classes, not {entry['classes']}"
            )
        if entry.get("order", "official") not in facts["orders"]:
            self.found.append(f"{where}.order: {entry['source']} comes in the order {', '.join(facts['orders'])} only")

    def networks(self, where: str, entry: dict[str, Any]) -> None:
        if self.refer(f"{where}.architecture", entry["architecture"], registry.NETWORKS, "architecture"):
            options = {key: value for key, value in entry.items() if key != "architecture"}
            self.found += settings_problems(where, options, presets.NETWORK_DEFAULTS[entry["architecture"]])

    def students(self, where: str, entry: list[str]) -> None:
        for name in entry:
            self.refer(where, name, self.config["networks"], "network")

    def protocols(self, where: str, entry: dict[str, Any]) -> None:
        if not self.refer(f"{where}.recipe", entry["recipe"], presets.PROTOCOLS, "protocol recipe"):
            return
        given = {key: value for key, value in entry.items() if key != "recipe"}
        for key in presets.PER_DATASET:
            if isinstance(given.get(key), dict):
                for dataset, value in given.pop(key).items():
                    if self.refer(f"{where}.{key}", dataset, self.config["datasets"], "data set"):
                        self.found += settings_problems(where, {key: value}, presets.PROTOCOLS[entry["recipe"]])
        self.found += settings_problems(where, given, presets.PROTOCOLS[entry["recipe"]])
        resolved = {**presets.PROTOCOLS[entry["recipe"]], **entry}
        if resolved["epochs"] == resolved["steps"] == 0:
            self.found.append(f"{where}: students would train for 0 epochs and 0 steps: give one of the two")

    def pools(self, where: str, entry: dict[str, Any]) -> None:
        self.refer(f"{where}.dataset", entry["dataset"], self.config["datasets"], "data set")
        self.refer(f"{where}.network", entry["network"], self.config["networks"], "network")
        training = entry.get("training", {})
        recipe = training.get("recipe", "idc")
        if self.refer(f"{where}.training.recipe", recipe, presets.POOL_TRAINING, "training recipe"):
            given = {key: value for key, value in training.items() if key != "recipe"}
            self.found += settings_problems(f"{where}.training", given, presets.POOL_TRAINING[recipe])
            epochs = given.get("epochs", presets.POOL_TRAINING[recipe]["epochs"])
            late = [e for e in _listed(entry.get("snapshots")) if e > epochs]
            if late:
                self.found.append(f"{where}.snapshots: epochs {late} are beyond the pool's {epochs} epochs")

    def experiments(self, where: str, entry: dict[str, Any]) -> None:
        if not self.refer(f"{where}.dataset", entry["dataset"], self.config["datasets"], "data set"):
            return
        for protocol in entry["protocols"]:
            self.refer(f"{where}.protocols", protocol, self.config["protocols"], "protocol")
        self.refer(f"{where}.students", entry["students"], self._students(), "network or group of students")
        for name in entry.get("labels", []):
            self.refer(f"{where}.labels", name, {"hard": None}, "kind of labels")
        classes = self.config["datasets"][entry["dataset"]]["classes"]
        if classes % entry.get("classes_per_phase", classes):
            self.found.append(
                f"{where}.classes_per_phase: {entry['classes_per_phase']} does not divide {classes} classes"
            )
        if self.refer(f"{where}.method", entry["method"], registry.METHODS, "method"):
            self.method(where, entry)

    def method(self, where: str, entry: dict[str, Any]) -> None:
        facts, settings = registry.METHODS[entry["method"]].facts, entry.get("settings", {})
        defaults = presets.METHOD_SETTINGS[entry["method"]]
        source = self.config["datasets"][entry["dataset"]]["source"]
        self.found += settings_problems(f"{where}.settings", settings, defaults["default"])
        if facts["network"] and "network" not in entry:
            self.found.append(f"{where}: key 'network' is missing: {entry['method']} needs a network")
        elif "network" in entry:
            self.refer(f"{where}.network", entry["network"], self.config["networks"], "network")
        resolved = {**defaults["default"], **defaults.get(source, {}), **settings}
        beyond = [outer for outer in entry.get("evaluate_at", []) if outer >= resolved.get("outer_iterations", 0)]
        if beyond:
            last = resolved.get("outer_iterations", 0)
            self.found.append(f"{where}.evaluate_at: {beyond} is not before the last outer iteration, {last}")
        self.view(where, entry, facts)

    def view(self, where: str, entry: dict[str, Any], facts: Mapping[str, Any]) -> None:
        pool, view = entry.get("pool"), entry.get("view")
        if (pool is None) != (view is None):
            self.found.append(f"{where}: 'pool' and 'view' go together; {'view' if pool else 'pool'!r} is missing")
            return
        if pool is None:
            if facts.get("pool") == "required":
                self.found.append(f"{where}: {entry['method']} starts from a pool: keys 'pool' and 'view' are missing")
            return
        if not facts.get("pool"):
            self.found.append(f"{where}.pool: {entry['method']} does not start from a pool")
        elif self.refer(f"{where}.pool", pool, self.config["pools"], "pool"):
            self.found += [f"{where}.{problem}" for problem in view_problems(entry, self.config["pools"][pool])]
            if (view or {}).get("metric") == "heldout" and not self.config["datasets"][entry["dataset"]].get("heldout"):
                self.found.append(
                    f"{where}.view.metric: data set {entry['dataset']} has nothing held out; set its heldout"
                )

    def suites(self, where: str, entry: dict[str, Any]) -> None:
        for name in entry["experiments"]:
            self.refer(f"{where}.experiments", name, self.config["experiments"], "experiment")
        for name in entry.get("protocols", []):
            self.refer(f"{where}.protocols", name, self.config["protocols"], "protocol")
        if "students" in entry:
            self.refer(f"{where}.students", entry["students"], self._students(), "network or group of students")


def _listed(snapshots: Any) -> list[int]:
    return snapshots if isinstance(snapshots, list) else []


def view_problems(experiment: Mapping[str, Any], pool: Mapping[str, Any]) -> list[str]:
    """What a view asks that its pool cannot have."""
    view, found = experiment["view"], []
    for key in ("dataset", "network"):
        if experiment.get(key) != pool[key]:
            found.append(f"pool: its {key} is {pool[key]}, the experiment's is {experiment.get(key)}")
    training = {**presets.POOL_TRAINING[pool.get("training", {}).get("recipe", "idc")], **pool.get("training", {})}
    kept = pool.get("snapshots", "all")
    there = {"all": list(range(training["epochs"] + 1)), "last": [training["epochs"]]}.get(str(kept)) or _listed(kept)
    missing = [epoch for epoch in view.get("epochs", []) if epoch not in there]
    if missing:
        found.append(f"view.epochs: {missing} are not among the pool's snapshots {there}")
    window = [key for key in ("metric", "low", "high") if key in view]
    if window and len(window) < 3:
        found.append(f"view: a metric window needs metric, low and high; it has only {', '.join(window)}")
    elif window and view["low"] >= view["high"]:
        found.append(f"view: low {view['low']} is not below high {view['high']}")
    return found
