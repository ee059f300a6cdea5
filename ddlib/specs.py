"""The specification of every job: the resolved slice of the configuration that it depends on.

It is the job's only parameter in Snakemake (so a changed setting reruns exactly the jobs whose slice it is in), holds
the versions of the code it uses, and stands in the manifest the job writes (so results found without Snakemake's record
can be compared with what is asked). Nothing here imports torch or snakemake.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import presets, registry
from .experiments import Experiments
from .registry import versions

Spec = dict[str, Any]


class Specs(Experiments):
    """Specifications by rule and wildcards."""

    def dataset(self, name: str) -> Spec:
        """A data set as a job is told of it."""
        entry = self.config["datasets"][name]
        source = registry.SOURCES[entry["source"]]
        facts = {key: value for key, value in source.facts.items() if key not in ("orders", "images")}
        spec = {"order": "official", "heldout": 0.0, **facts, **entry}
        return {**spec, "mean": list(facts["mean"]), "std": list(facts["std"]), "version": source.version}

    def network(self, name: str) -> Spec:
        """A network with all its options."""
        entry = self.config["networks"][name]
        architecture = entry["architecture"]
        version = registry.NETWORKS[architecture].version
        return {**presets.NETWORK_DEFAULTS[architecture], **entry, "version": version}

    def spec(self, rule: str, wildcards: Mapping[str, Any]) -> Spec:
        """The specification of one job of `rule`."""
        return getattr(self, f"_{rule}")(**dict(wildcards))  # type: ignore[no-any-return]

    def _prepare_data(self, dataset: str) -> Spec:
        return {"dataset": self.dataset(dataset), "versions": versions("data")}

    def _train_block(self, pool: str, block: str | int) -> Spec:
        entry = self.config["pools"][pool]
        training = entry.get("training", {})
        per_block = entry.get("members_per_block", 1)
        given = {key: value for key, value in training.items() if key != "recipe"}
        return {
            "dataset": self.dataset(entry["dataset"]),
            "network": self.network(entry["network"]),
            "training": {**presets.POOL_TRAINING[training.get("recipe", "idc")], **given},
            "snapshots": entry.get("snapshots", "all"),
            "seed": entry.get("seed", 0),
            "members": list(range(int(block) * per_block, (int(block) + 1) * per_block)),
            "versions": versions("streams", "augment", "train", "pool"),
        }

    def _select_view(self, experiment: str, ipc: str | int, seed: str | int) -> Spec:
        entry = self.experiments[experiment]
        return {"pool": entry["pool"], "view": entry["view"], "versions": versions("view")}

    def _condense(self, experiment: str, per: str, seed: str | int, stage: str | int, phase: str | int) -> Spec:
        entry = self.experiments[experiment]
        method = registry.METHODS[entry["method"]]
        classes = self.config["datasets"][entry["dataset"]]["classes"]
        share = classes // entry["phases"]
        first = int(phase) * share
        return {
            "method": entry["method"],
            "dataset": self.dataset(entry["dataset"]),
            "network": self.network(entry["network"]) if entry["network"] else None,
            "settings": entry["settings"],
            "ipc": int(per),
            "seed": int(seed),
            "stage": int(stage),
            "classes": list(range(first, first + share)),
            "view": entry["view"],
            "snapshots": entry["evaluate_at"],
            "versions": versions(*method.facts["parts"], method=method),
        }

    def _merge(self, experiment: str, ipc: str | int, seed: str | int, at: str) -> Spec:
        outer = int(at[2:-1]) if at else None
        return {"name": experiment, "ipc": int(ipc), "seed": int(seed), "at": outer, "versions": versions("sets")}

    def _evaluate(
        self, experiment: str, ipc: str | int, seed: str | int, at: str, labels: str, protocol: str, students: str
    ) -> Spec:
        entry = self.experiments[experiment]
        whole = entry["method"] == "whole"
        idle = ("epochs", "steps") if whole else ("whole_steps",)  # how long is none of the other's business
        trained = self.protocol(protocol, entry["dataset"])
        return {
            "set": "whole" if whole else "set",
            "dataset": self.dataset(entry["dataset"]),
            "seed": int(seed),
            "labels": labels,
            "protocol": {key: value for key, value in trained.items() if key not in idle},
            "students": {name: self.network(name) for name in self.students[students]},
            "versions": versions("streams", "augment", "packing", "train", "evaluate"),
        }

    def protocol(self, name: str, dataset: str) -> Spec:
        """A protocol with its recipe's values, those given per data set resolved, flips dropped where they hurt."""
        entry = self.config["protocols"][name]
        given = {key: value for key, value in entry.items() if key != "recipe"}
        recipe = presets.PROTOCOLS[entry["recipe"]]
        for key in presets.PER_DATASET:
            if isinstance(given.get(key), dict):
                given[key] = given[key].get(dataset, recipe[key])
        spec = {**recipe, **given}
        if not self.dataset(dataset)["flip"]:
            spec["augment"] = "_".join(op for op in spec["augment"].split("_") if op != "flip")
        return spec
