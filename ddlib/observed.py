"""The jobs around observers: checking one, scoring crops with it, labelling a set, and what these are made from.

Nothing here imports torch or snakemake.
"""

from __future__ import annotations

from typing import Any

from . import observers
from .paths import BLOCK, DATA, LABELS, OBSERVER, SCORES, SET
from .registry import versions
from .specs import Spec, Specs


class Observed(Specs):
    """Specifications and inputs of the rules `observe`, `score` and `relabel`."""

    def observed_from(self, observer: str) -> list[str]:
        """Manifest of the pool's block an observer is taken from (none: it is read from a file)."""
        entry = self.config["observers"][observer]
        return [self._block_of(entry["pool"], entry.get("member", 0))] if "pool" in entry else []

    def _block_number(self, pool: str, member: int) -> int:
        return member // int(self.config["pools"][pool].get("members_per_block", 1))

    def _block_of(self, pool: str, member: int) -> str:
        """Manifest of the block that trains a member of a pool."""
        return f"{BLOCK.format(pool=pool, block=self._block_number(pool, member))}.json"

    def scores(self, experiment: str, seed: int | str) -> str | None:
        """Stem of the score table an experiment picks its images from (None: it needs none)."""
        entry = self.experiments[experiment]
        how = observers.scored(entry)
        if how is None:
            return None
        return SCORES.format(**how, dataset=entry["dataset"], observer=entry["observer"], seed=seed)

    def observe_inputs(self, observer: str) -> dict[str, Any]:
        """What an observer is taken from and checked on: real images, and its block or its file."""
        entry = self.config["observers"][observer]
        train = f"{DATA.format(dataset=observers.dataset_of(entry, self.config['pools']))}/train.json"
        source = {"weights": entry["weights"]} if "weights" in entry else {"block": self.observed_from(observer)[0]}
        return {"train": train, **source}

    def relabel_inputs(self, labels: str, **names: Any) -> dict[str, Any]:
        """What a set is labelled from: the set and the teacher."""
        teacher = self.config["labels"][labels]["teacher"]
        return {"card": f"{SET.format(**names)}card.json", "teacher": f"{OBSERVER.format(observer=teacher)}.json"}

    def evaluate_inputs(self, **names: Any) -> dict[str, Any]:
        """What students are trained and scored on: a set (or all training images, for `whole`), the test images, and
        where they are taught soft labels these, or their teacher."""
        entry = self.experiments[names["experiment"]]
        data = DATA.format(dataset=entry["dataset"])
        if entry["method"] == "whole":
            return {"source": f"{data}/train.json", "test": f"{data}/test.json"}
        found = {"source": f"{SET.format(**names)}card.json", "test": f"{data}/test.json"}
        label = self.config["labels"].get(names["labels"])
        if label is None:
            return found
        if label["kind"] == "online":
            return {**found, "teacher": f"{OBSERVER.format(observer=label['teacher'])}.json"}
        place = {**names, "views": observers.views(label, names["protocol"])}
        return {**found, "labels": f"{LABELS.format(**place)}.json"}

    def _observe(self, observer: str) -> Spec:
        entry = self.config["observers"][observer]
        dataset = observers.dataset_of(entry, self.config["pools"])
        gate = {"images": observers.CHECKED, "within": entry.get("within", observers.WITHIN)}
        spec = {"dataset": self.dataset(dataset), "gate": gate, "versions": versions("data", "observer")}
        if "weights" in entry:
            given = {key: entry[key] for key in ("weights", "accuracy", "outputs") if key in entry}
            return {**spec, **given, "network": self.network(self.observing(observer))}
        pool = self.config["pools"][entry["pool"]]
        member = {"member": entry.get("member", 0), "epoch": observers.epoch_of(entry, pool)}
        return {**spec, "pool": entry["pool"], **member, "network": self.network(self.observing(observer))}

    def _score(
        self, dataset: str, observer: str, mipc: str | int, crops: str | int, factor: str | int, seed: str | int
    ) -> Spec:
        how = {"mipc": int(mipc), "crops": int(crops), "factor": int(factor), "seed": int(seed)}
        return {**how, "dataset": self.dataset(dataset), "versions": versions("streams", "augment", "scores")}

    def _relabel(self, experiment: str, ipc: str | int, seed: str | int, at: str, labels: str, views: str) -> Spec:
        entry, kept = self.experiments[experiment], self.config["labels"][labels]
        spec = {"seed": int(seed), **observers.label(kept), "dataset": self.dataset(entry["dataset"])}
        used = versions("streams", "augment", "packing", "labels")
        if kept["kind"] != "per_view":
            return {**spec, "versions": used}
        return {**spec, "protocol": self.shown(views, experiment, int(ipc), {}), "versions": used}
