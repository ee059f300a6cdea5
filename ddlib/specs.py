"""The specification of every job: the resolved slice of the configuration that it depends on.

It is the job's only parameter in Snakemake (so a changed setting reruns exactly the jobs whose slice it is in), holds
the versions of the code it uses, and stands in the manifest the job writes (so results found without Snakemake's record
can be compared with what is asked). Nothing here imports torch or snakemake.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import observers, pool_settings, presets, presets_students, progressive, protocol_settings, registry
from .experiments import Experiments
from .paths import MASKS_A_CHUNK, budgets, leading
from .registry import versions

Spec = dict[str, Any]


class Specs(Experiments):
    """Specifications by rule and wildcards."""

    def dataset(self, name: str) -> Spec:
        """A data set as a job is told of it."""
        entry = self.config["datasets"][name]
        source = registry.SOURCES[entry["source"]]
        facts = {key: value for key, value in source.facts.items() if key not in registry.UNTOLD}
        spec = {"order": "official", "heldout": 0.0, **facts, **entry}
        spec |= {"mean": list(facts["mean"]), "std": list(facts["std"]), "version": source.version}
        spec.setdefault("base_size", spec["size"])
        if (named := entry.get("normalisation")) in registry.NORMALISATION:
            spec |= {key: list(values) for key, values in registry.NORMALISATION[named].items()}
        elif named == "own" and source.facts.get("folder"):
            spec |= {"mean": None, "std": None}  # found when the images are read
        return self._whitened(spec, entry["whitening"]) if "whitening" in entry else spec

    def _whitened(self, spec: Spec, kind: str) -> Spec:
        """A whitened data set: its pixels are not normalised besides."""
        how = {"kind": kind, **presets.WHITENING[kind], **versions("whitening")}
        return {**spec, "mean": [0.0] * spec["channels"], "std": [1.0] * spec["channels"], "whitening": how}

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
        per_block = entry.get("members_per_block", 1)
        members = list(range(int(block) * per_block, (int(block) + 1) * per_block))
        told = (pool_settings.told(pool_settings.training(entry, member)) for member in members)
        trained = [self._labels_kept(own, entry["dataset"]) for own in told]
        others = {
            str(member): {key: value for key, value in own.items() if value != trained[0][key]}
            for member, own in zip(members, trained, strict=True)
        }
        differs = {member: own for member, own in others.items() if own}
        return {
            "dataset": self.dataset(entry["dataset"]),
            "network": self.network(entry["network"]),
            "training": trained[0],  # of the block's first member, ...
            **({"differs": differs} if differs else {}),  # ... and in what others are trained otherwise
            "snapshots": entry.get("snapshots", "all"),
            "seed": entry.get("seed", 0),
            "members": members,
            "versions": versions("streams", "augment", "train", "pool"),
        }

    def _select_view(self, experiment: str, ipc: str | int, seed: str | int) -> Spec:
        entry = self.experiments[experiment]
        return {"pool": entry["pool"], "view": self._view(entry, ipc), "versions": versions("view")}

    def _view(self, entry: Mapping[str, Any], ipc: str | int) -> Spec | None:
        """An experiment's view, its windows in numbers (None: it starts from no pool)."""
        return entry["view"] and pool_settings.view_for(entry["view"], int(ipc))

    def _draw_masks(self, maskset: str, seed: str | int, chunk: str | int) -> Spec:
        entry = self.config["masksets"][maskset]
        shape = {key: self.dataset(entry["dataset"])[key] for key in ("channels", "size", "classes")}
        place = {"seed": int(seed), "first": int(chunk) * MASKS_A_CHUNK, "count": MASKS_A_CHUNK}
        network = self.network(entry["network"])
        return {**shape, **self._sparse(maskset), **place, "network": network, "versions": versions("masks")}

    def _sparse(self, maskset: str) -> Spec:
        return {key: self.config["masksets"][maskset][key] for key in ("kind", "sparsity")}

    def maskset(self, experiment: str, ipc: str | int) -> str | None:
        """The mask set an experiment uses at an ipc (None: none)."""
        named: Any = self.experiments[experiment]["masks"]
        found: str | None = named[str(ipc)] if isinstance(named, dict) else named
        return found

    def _condense(self, experiment: str, per: str, seed: str | int, stage: str | int, phase: str | int) -> Spec:
        entry = self.experiments[experiment]
        method = registry.METHODS[entry["method"]]
        classes = self.config["datasets"][entry["dataset"]]["classes"]
        share = classes // entry["phases"]
        first = int(phase) * share
        maskset = self.maskset(experiment, leading(per))
        sparse = {"masks": self._sparse(maskset)} if maskset else {}
        trained = self._trained_in_job(entry, int(stage))
        return {
            **sparse,
            **({"condition": trained} if trained else {}),
            **({"discard": progressive.forgotten(entry, int(stage))} if entry.get("discard") else {}),
            "method": entry["method"],
            "dataset": self.dataset(entry["dataset"]),
            "network": self.network(entry["network"]) if entry["network"] else None,
            "settings": entry["settings"],
            "ipc": budgets(per),
            "seed": int(seed),
            "stage": int(stage),
            "classes": list(range(first, first + share)),
            "view": self._view_at(entry, leading(per), int(stage)),
            "snapshots": entry["evaluate_at"],
            "versions": versions(*method.facts["parts"], method=method),
        }

    def _trained_in_job(self, entry: Mapping[str, Any], stage: int) -> Spec | None:
        """How a stage trains the networks it draws on the earlier stages (None: it does not, or draws trained ones)."""
        if not stage or entry["pool"] or entry["conditioned"]:
            return None
        return self._labels_kept(dict(entry["condition"]), entry["dataset"])

    def _view_at(self, entry: Mapping[str, Any], ipc: str | int, stage: int) -> Spec | None:
        """What a stage's networks are drawn from: the view, or all of the conditioned ones."""
        if stage and entry["conditioned"]:
            return {"members": entry["conditioned"], "epochs": [0]}
        return self._view(entry, ipc)

    def _condition(self, experiment: str, per: str, seed: str | int, stage: str | int, block: str | int) -> Spec:
        entry = self.experiments[experiment]
        pool = self.config["pools"][entry["pool"]] if entry["pool"] else None
        if pool:
            own = self._train_block(entry["pool"], block)
        else:
            own = {"dataset": self.dataset(entry["dataset"]), "network": self.network(entry["network"])}
            own |= {"training": None, "members": [int(block)], "versions": versions("streams", "packing")}
        place = {"stage": int(stage), "ipc": int(per), "seed": int(seed)}
        used = {**own["versions"], **versions("augment", "train", "condition")}
        condition = self._labels_kept(dict(entry["condition"]), entry["dataset"])
        trained = {"condition": condition, "snapshots": progressive.kept(pool, entry["view"]), "versions": used}
        return {**own, **place, **trained}

    def _select_conditioned(self, experiment: str, per: str, seed: str | int, stage: str | int) -> Spec:
        entry = self.experiments[experiment]
        view = self._view_at(entry, per, int(stage))
        return {"pool": f"{experiment}, stage {stage}", "view": view, "versions": versions("view")}

    def _merge(self, experiment: str, ipc: str | int, seed: str | int, at: str) -> Spec:
        outer = int(at[2:-1]) if at else None
        return {"name": experiment, "ipc": int(ipc), "seed": int(seed), "at": outer, "versions": versions("sets")}

    def _evaluate(
        self, experiment: str, ipc: str | int, seed: str | int, at: str, labels: str, protocol: str, students: str
    ) -> Spec:
        entry = self.experiments[experiment]
        whole = entry["method"] == "whole"
        idle = (
            (*presets_students.OF_SETS, "epochs", "steps") if whole else ("whole_steps",)
        )  # none of the other's business
        students_of = {name: self.network(name) for name in self.students[students]}
        trained = self.shown(protocol, experiment, int(ipc), students_of)
        kept = self.config["labels"].get(labels)
        return {
            **({"label": {**observers.label(kept), "teacher": kept["teacher"]}} if kept else {}),
            "set": "whole" if whole else "set",
            "dataset": self.dataset(entry["dataset"]),
            "seed": int(seed),
            "labels": labels,
            "protocol": {key: value for key, value in trained.items() if key not in idle},
            "students": students_of,
            "versions": versions("streams", "augment", "packing", "train", "evaluate"),
        }

    def shown(self, protocol: str, experiment: str, ipc: int, students: Mapping[str, Spec]) -> Spec:
        """A protocol for a set of an experiment, with numbers where its settings go by the set or the students."""
        entry = self.experiments[experiment]
        dataset, named = self.dataset(entry["dataset"]), entry["observer"]
        observer = self.network(self.observing(named)) if named else None
        found = self.protocol(protocol, entry["dataset"])
        found = protocol_settings.by_images(found, dataset["classes"], self.factor(experiment), ipc)
        return protocol_settings.resolve(found, dataset, ipc, students, observer)

    def factor(self, experiment: str) -> int:
        """A side of the images a stored one is decoded to: crops are stitched into whole images, seen as they are."""
        entry = self.experiments[experiment]
        return 1 if self._stitched(entry) else int(entry["settings"].get("factor", 1))

    def grid(self, experiment: str) -> int:
        """A side of the crops that an image of an experiment is stitched of (1: it is not)."""
        entry = self.experiments[experiment]
        return int(entry["settings"]["factor"]) if self._stitched(entry) else 1

    def _stitched(self, entry: Mapping[str, Any]) -> bool:
        return entry["method"] in registry.METHODS and bool(registry.METHODS[entry["method"]].facts.get("native"))

    def observing(self, observer: str) -> str:
        """The name of an observer's network."""
        entry = self.config["observers"][observer]
        return str(self.config["pools"][entry["pool"]]["network"] if "pool" in entry else entry["network"])

    def protocol(self, name: str, dataset: str) -> Spec:
        """A protocol with its recipe's values, those given per data set resolved, flips dropped where they hurt."""
        entry = self.config["protocols"][name]
        given = {key: value for key, value in entry.items() if key != "recipe"}
        recipe = presets_students.PROTOCOLS[entry["recipe"]]
        for key in presets_students.PER_DATASET:
            if isinstance(given.get(key), dict):
                given[key] = given[key].get(dataset, recipe[key])
        return self._labels_kept({**recipe, **given}, dataset)

    def _labels_kept(self, trained: Spec, dataset: str) -> Spec:
        """Training settings whose augmentation keeps labels: without flips where a mirrored image has another."""
        if self.dataset(dataset)["flip"]:
            return trained
        return {**trained, "augment": "_".join(op for op in trained["augment"].split("_") if op != "flip")}
