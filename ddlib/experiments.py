"""The experiments a configuration names, completed: presets under their settings, and the baselines beside them.

Nothing here imports torch or snakemake.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import presets, progressive
from .settings import method_settings


class Experiments:
    """Experiments, suites and groups of students of a configuration resolved by :func:`ddlib.config.resolve`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.students: dict[str, list[str]] = {**{n: [n] for n in config["networks"]}, **config["students"]}
        self.suites: dict[str, dict[str, Any]] = {
            **{name: {"experiments": [name]} for name in config["experiments"]},
            **config["suites"],
        }
        self.experiments = self._experiments()

    def _experiments(self) -> dict[str, dict[str, Any]]:
        """The configured experiments and those added automatically, all keys present."""
        out: dict[str, dict[str, Any]] = {}
        for name, entry in self.config["experiments"].items():
            full = {
                "network": None,
                "pool": None,
                "view": None,
                "masks": None,
                "observer": None,
                "evaluate_at": [],
                **entry,
            }
            full["method"], full["stages"], full["conditioned"] = progressive.method_of(entry), 1, 0
            if "progressive" in entry:
                full["stages"], full["condition"] = entry["progressive"]["stages"], progressive.condition(entry)
                full["conditioned"] = entry["progressive"].get("members", 0)
                full["discard"] = progressive.discarding(entry)
            full["settings"] = self._settings(entry)
            # What was learned with soft labels is to be used with them.
            full.setdefault("labels", ["hard" if full["settings"].get("soft_labels", "none") == "none" else "own"])
            full["shared"] = "budget" in entry and len(entry["ipc"]) > 1 and full["settings"]["outer_iterations"] > 0
            classes = self.config["datasets"][entry["dataset"]]["classes"]
            full["phases"] = classes // entry.get("classes_per_phase", classes)
            out[name] = full
            if full["method"] == "rded":  # is where it begins: beside it stand crops that nobody scored
                out[f"{name}__crops"] = self._selection("crops", entry["dataset"], full["settings"])
            else:
                out[f"{name}__initial"] = self._initial(full)
        for dataset in self.config["datasets"]:
            out[f"{dataset}__random"] = self._selection("random", dataset, {})
            out[f"{dataset}__whole"] = {**self._selection("initial", dataset, {}), "method": "whole"}
        return out

    def _initial(self, full: Mapping[str, Any]) -> dict[str, Any]:
        """The set an experiment begins with, as a baseline."""
        found = self._selection("initial", full["dataset"], full["settings"])
        keys = ("observer", "scoring") if found["settings"]["init"] == "rded" else ()
        return {**found, **{key: full[key] for key in keys if key in full}}

    def _selection(self, method: str, dataset: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """A baseline that picks and packs real images: settings other than its own have no say in it."""
        own = presets.METHOD_SETTINGS[method]["default"]
        chosen = {**{key: settings.get(key, value) for key, value in own.items()}, "outer_iterations": 0}
        none: dict[str, Any] = dict.fromkeys(("network", "pool", "view", "masks", "observer"))
        none |= {"shared": False, "stages": 1}
        return {**none, "method": method, "dataset": dataset, "settings": chosen, "evaluate_at": [], "phases": 1}

    def _settings(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Preset of the method for the data source, with the experiment's own settings over it."""
        source = self.config["datasets"][entry["dataset"]]["source"]
        return method_settings(progressive.method_of(entry), source, entry.get("settings", {}))
