"""From the checked configuration to the DAG: cells of a suite, paths of artifacts, specification of every job.

A *specification* is the resolved slice of the configuration that one job depends on, with the versions of the code it
uses. It is the job's only parameter in Snakemake (so a changed setting reruns exactly the jobs whose slice it is in)
and stands in the manifest the job writes (so results found without Snakemake's record can be compared with what is
asked). Nothing here imports torch or snakemake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from . import presets, registry
from .paths import BLOCK, EVALUATION, MANIFESTS, SET, phase_stems
from .registry import versions

Spec = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One evaluation job: a synthetic set (or `whole`, as ipc 0), a protocol and a group of students."""

    experiment: str
    ipc: int
    seed: int
    at: str  # "" or "at<outer iteration>/"
    labels: str
    protocol: str
    students: str

    @property
    def stem(self) -> str:
        """Path of its evaluation without suffix."""
        return EVALUATION.format(**self.__dict__)

    @property
    def set(self) -> str:
        """Folder (with trailing slash) of the synthetic set it evaluates."""
        return SET.format(**self.__dict__)


class Plan:
    """What a configuration (resolved by :func:`ddlib.config.resolve`) asks for."""

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
            full = {"network": None, "pool": None, "view": None, "evaluate_at": [], "labels": ["hard"], **entry}
            full["settings"] = self._settings(entry)
            classes = self.config["datasets"][entry["dataset"]]["classes"]
            full["phases"] = classes // entry.get("classes_per_phase", classes)
            out[name] = full
            out[f"{name}__initial"] = self._selection("initial", entry["dataset"], full["settings"])
        for dataset in self.config["datasets"]:
            out[f"{dataset}__random"] = self._selection("random", dataset, {})
            out[f"{dataset}__whole"] = {**self._selection("initial", dataset, {}), "method": "whole"}
        return out

    def _selection(self, method: str, dataset: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """A baseline that picks and packs real images: settings other than its own have no say in it."""
        own = presets.METHOD_SETTINGS[method]["default"]
        chosen = {**{key: settings.get(key, value) for key, value in own.items()}, "outer_iterations": 0}
        none = {"network": None, "pool": None, "view": None}
        return {**none, "method": method, "dataset": dataset, "settings": chosen, "evaluate_at": [], "phases": 1}

    def _settings(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Preset of the method for the data source, with the experiment's own settings over it."""
        known = presets.METHOD_SETTINGS[entry["method"]]
        source = self.config["datasets"][entry["dataset"]]["source"]
        return {**known["default"], **known.get(source, {}), **entry.get("settings", {})}

    # ---- cells -------------------------------------------------------------------------------------------------

    def groups(self, suite: str) -> list[Spec]:
        """The suite as products: an experiment (or baseline) with its ipc, seeds, snapshots, protocols and students.

        Small enough for a command line, whatever the suite; :func:`rows` multiplies it out.
        """
        entry = self.suites[suite]
        out: list[Spec] = []
        for name in entry["experiments"]:
            experiment = self.experiments[name]
            protocols = entry.get("protocols") or experiment["protocols"]
            students = entry.get("students") or experiment["students"]
            tails = [[labels, protocol, students] for labels in experiment["labels"] for protocol in protocols]
            cells = {"ipc": experiment["ipc"], "seeds": experiment["seeds"], "tails": tails}
            ats = ["", *(f"at{outer}/" for outer in experiment["evaluate_at"])]
            out.append({**self._described(name), **cells, "ats": ats})
            for other in (f"{name}__initial", f"{experiment['dataset']}__random"):
                out.append({**self._described(other), **cells, "ats": [""]})
            tails = [["hard", protocol, network] for protocol in protocols for network in self.students[students]]
            whole = {"ipc": [0], "seeds": [0], "ats": [""], "tails": tails}
            out.append({**self._described(f"{experiment['dataset']}__whole"), **whole})
        return out

    def _described(self, name: str) -> Spec:
        entry = self.experiments[name]
        return {
            "experiment": name,
            "dataset": entry["dataset"],
            "source": self.config["datasets"][entry["dataset"]]["source"],
            "method": entry["method"],
            "factor": entry["settings"].get("factor", 1),
            "phases": 0 if entry["method"] == "whole" else entry["phases"],
            "outer": entry["settings"].get("outer_iterations", 0),
            "as_published": self._as_published(entry),
            "pool_runs": [f"{path.removesuffix('.json')}.run.json" for path in self.members(name)],
        }

    def _as_published(self, entry: Mapping[str, Any]) -> list[str]:
        """The protocols under which an experiment may stand beside the paper's number: the paper's own, untouched,
        if its settings are the preset (but for factor and init, which name a variant) and it starts from no pool."""
        known = presets.METHOD_SETTINGS.get(entry["method"], {"default": {}})
        preset = {**known["default"], **known.get(self.config["datasets"][entry["dataset"]]["source"], {})}
        variant = ("factor", "init")
        same = all(entry["settings"].get(key) == value for key, value in preset.items() if key not in variant)
        untouched = [name for name, given in self.config["protocols"].items() if given == {"recipe": name}]
        return untouched if same and entry["pool"] is None else []

    def cells(self, suite: str) -> list[Cell]:
        """Every evaluation job of a suite, baselines included."""
        return [Cell(*(row[name] for name in Cell.__dataclass_fields__)) for row in rows(self.groups(suite))]

    def members(self, experiment: str) -> list[str]:
        """Manifests of the pool blocks an experiment's view needs."""
        entry = self.experiments[experiment]
        if entry["pool"] is None:
            return []
        per_block = self.config["pools"][entry["pool"]].get("members_per_block", 1)
        blocks = -(-entry["view"]["members"] // per_block)
        return [f"{BLOCK.format(pool=entry['pool'], block=block)}.json" for block in range(blocks)]

    def phases(self, experiment: str, ipc: int | str, seed: int | str) -> list[str]:
        """Stems of the condensed tensors a synthetic set is merged from."""
        return phase_stems(experiment, ipc, seed, self.experiments[experiment]["phases"])

    def jobs(self, suite: str) -> list[tuple[str, dict[str, Any]]]:
        """(rule, wildcards) of every job behind the table of a suite, each once, causes before effects."""
        found: dict[str, tuple[str, dict[str, Any]]] = {}

        def add(rule: str, **names: Any) -> None:
            found.setdefault(MANIFESTS[rule][0].format(**names), (rule, names))

        for cell in self.cells(suite):
            entry = self.experiments[cell.experiment]
            names = {"experiment": cell.experiment, "seed": cell.seed}
            add("prepare_data", dataset=entry["dataset"])
            for block in range(len(self.members(cell.experiment))):
                add("train_block", pool=entry["pool"], block=block)
            if entry["pool"]:
                add("select_view", **names, ipc=cell.ipc)
            if entry["method"] != "whole":
                for phase in range(entry["phases"]):
                    add("condense", **names, per=cell.ipc, stage=0, phase=phase)
                add("merge", **names, ipc=cell.ipc, at=cell.at)
            add("evaluate", **cell.__dict__)
        return sorted(found.values(), key=lambda job: list(MANIFESTS).index(job[0]))

    # ---- specifications ----------------------------------------------------------------------------------------

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

    def _tabulate(self, suite: str) -> Spec:
        return {"suite": suite, "groups": self.groups(suite), "versions": versions("table")}

    def table_inputs(self, suite: str) -> list[str]:
        """Every file the table of a suite is made from."""
        return sorted({path for row in rows(self.groups(suite)) for path in row["files"]})


def rows(groups: Iterable[Mapping[str, Any]]) -> list[Spec]:
    """Groups multiplied out, each cell once: its names and the files with its numbers and costs."""
    out: dict[str, Spec] = {}
    for group in groups:
        for ipc, seed, at, tail in product(group["ipc"], group["seeds"], group["ats"], group["tails"]):
            cell = Cell(group["experiment"], ipc, seed, at, *tail)
            runs = [f"{stem}.run.json" for stem in phase_stems(cell.experiment, ipc, seed, group["phases"])]
            card = [f"{cell.set}card.json"] if group["phases"] else []
            evaluation = [f"{cell.stem}.csv"]
            facts = {key: group[key] for key in ("dataset", "source", "method", "factor", "outer", "pool_runs")}
            facts["as_published"] = cell.protocol in group["as_published"] and not at
            files = [*evaluation, *card, *runs, *group["pool_runs"]]
            out[cell.stem] = {**cell.__dict__, **facts, "stem": cell.stem, "card": card, "runs": runs, "files": files}
    return [out[stem] for stem in sorted(out)]
