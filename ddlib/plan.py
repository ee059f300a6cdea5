"""From the checked configuration to the DAG: the cells of a suite, and every job behind them.

Nothing here imports torch or snakemake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from . import observers, published, registry
from .observed import Observed
from .paths import (
    BLOCK,
    CONDITIONED,
    DATA,
    EVALUATION,
    LABELS,
    MANIFESTS,
    MASKS,
    MASKS_A_CHUNK,
    OBSERVER,
    SELECTED,
    SET,
    VIEW,
    leading,
    per,
    phase_stems,
)
from .progressive import name_of
from .registry import versions
from .specs import Spec

# What a suite shows: the method's images, those it begins with, random real ones, and all of them.
IMAGES = ("method", "initial", "random", "whole")


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


class Plan(Observed):
    """What a configuration (resolved by :func:`ddlib.config.resolve`) asks for."""

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
            labelled = entry.get("labels") or experiment["labels"]
            tails = [[labels, protocol, students] for labels in labelled for protocol in protocols]
            images = entry.get("images") or IMAGES
            cells = {"ipc": experiment["ipc"], "seeds": experiment["seeds"], "tails": tails}
            ats = ["", *(f"at{outer}/" for outer in experiment["evaluate_at"])]
            if "method" in images:
                beside = published.beside(self.config, experiment, labelled)
                out.append({**self._described(name), **beside, **cells, "ats": ats, **self._told(labelled)})
            for other in self._baselines(name, images):
                out.append({**self._described(other), **cells, "ats": [""], **self._told(labelled)})
            if "whole" not in images:
                continue
            tails = [["hard", protocol, network] for protocol in protocols for network in self.students[students]]
            whole = {"ipc": [0], "seeds": [0], "ats": [""], "tails": tails}
            out.append({**self._described(f"{experiment['dataset']}__whole"), **whole})
        return out

    def _baselines(self, name: str, images: Sequence[str]) -> list[str]:
        """What stands beside an experiment: random real images, and the set it begins with unless it is the same (or,
        where it picks crops, crops that nobody scored)."""
        random = f"{self.experiments[name]['dataset']}__random"
        initial = next(other for kind in ("initial", "crops") if (other := f"{name}__{kind}") in self.experiments)
        same = self.experiments[initial]["settings"] == self.experiments[random]["settings"]
        found = {} if same else {"initial": initial}
        return [other for kind, other in {**found, "random": random}.items() if kind in images]

    def _told(self, labels: Iterable[str]) -> Spec:
        """Of which of these labels files are kept, and what they are filed under: `decoded` or (None) the protocol."""
        kept = {name: self.config["labels"].get(name) for name in labels}
        files = {
            name: "decoded" if entry["kind"] == "static" else None
            for name, entry in kept.items()
            if entry and entry["kind"] != "online"
        }
        return {"label_files": files} if files else {}

    def _described(self, name: str) -> Spec:
        entry = self.experiments[name]
        return {
            "experiment": name,
            "dataset": entry["dataset"],
            "source": self.config["datasets"][entry["dataset"]]["source"],
            "method": name_of(entry),
            "factor": entry["settings"].get("factor", 1),
            "phases": 0 if entry["method"] == "whole" else entry["phases"],
            **({"stages": entry["stages"], "blocks": len(self._blocks(name))} if entry["stages"] > 1 else {}),
            "outer": entry["settings"].get("outer_iterations", 0),
            "as_published": published.protocols(self.config, entry),
            **({"budget": entry["ipc"]} if entry["shared"] else {}),
            "pool_runs": [f"{path.removesuffix('.json')}.run.json" for path in self._trained_for(name)],
            **({"scored": f"{scored}.run.json"} if (scored := self.scores(name, "{seed}")) else {}),
        }

    def assumed(self, suite: str) -> list[str]:
        """A line for every experiment of a suite that stands on settings published for other cells than its own."""
        lines = (
            published.assumed(self.config, name, self.experiments[name]) for name in self.suites[suite]["experiments"]
        )
        return [line for line in lines if line]

    def cells(self, suite: str) -> list[Cell]:
        """Every evaluation job of a suite, baselines included."""
        return [Cell(*(row[name] for name in Cell.__dataclass_fields__)) for row in rows(self.groups(suite))]

    def _trained_for(self, experiment: str) -> list[str]:
        """Manifests of the blocks of pools behind an experiment: those of its view, or of its observer."""
        observer = self.experiments[experiment]["observer"]
        return self.members(experiment) + (self.observed_from(observer) if observer else [])

    def members(self, experiment: str) -> list[str]:
        """Manifests of the pool blocks an experiment's view needs."""
        entry = self.experiments[experiment]
        if entry["pool"] is None:
            return []
        per_block = self.config["pools"][entry["pool"]].get("members_per_block", 1)
        blocks = -(-entry["view"]["members"] // per_block)
        return [f"{BLOCK.format(pool=entry['pool'], block=block)}.json" for block in range(blocks)]

    def _blocks(self, experiment: str) -> range:
        """The blocks of networks conditioned for every stage after the first."""
        entry = self.experiments[experiment]
        return range(len(self.members(experiment)) if entry["pool"] else entry["conditioned"])

    def conditioned(self, experiment: str, per: int | str, seed: int | str, stage: int | str) -> list[str]:
        """Manifests of the networks conditioned on the stages before `stage`; none where it trains them itself."""
        names = {"experiment": experiment, "per": per, "seed": seed, "stage": stage}
        blocks = self._blocks(experiment) if int(stage) else ()
        return [f"{CONDITIONED.format(**names, block=block)}.json" for block in blocks]

    def earlier(self, experiment: str, per: int | str, seed: int | str, stage: int | str) -> list[str]:
        """Manifests of the parts of all stages before `stage`."""
        stems = phase_stems(experiment, per, seed, self.experiments[experiment]["phases"], int(stage))
        return [f"{stem}.json" for stem in stems]

    def condense_inputs(self, experiment: str, per: str, seed: str | int, stage: str | int) -> dict[str, Any]:
        """What a condensation is made from, by name: real images, the view and what it looks at, masks, and the parts
        of the stages before."""
        entry = self.experiments[experiment]
        names: dict[str, Any] = {"experiment": experiment, "per": per, "seed": seed, "stage": stage}
        inputs: dict[str, Any] = {"train": f"{DATA.format(dataset=entry['dataset'])}/train.json"}
        if own := self.conditioned(**names):
            inputs |= {"selection": f"{SELECTED.format(**names)}.json", "blocks": own}
        elif entry["pool"]:
            inputs["selection"] = f"{VIEW.format(**names, ipc=leading(per))}.json"
            inputs["blocks"] = self.members(experiment)
        if masks := self.masks(experiment, leading(per), seed):
            inputs["masks"] = masks
        if parts := self.earlier(**names):
            inputs["earlier"] = parts
        if discard := entry.get("discard"):
            inputs["events"] = self._block_of(discard["pool"], discard["member"])
        if scores := self.scores(experiment, seed):
            inputs["scores"] = f"{scores}.json"
        elif entry["observer"]:
            inputs["observer"] = f"{OBSERVER.format(observer=entry['observer'])}.json"
        return inputs

    def condition_inputs(
        self, experiment: str, per: str, seed: str | int, stage: str | int, block: str | int
    ) -> dict[str, Any]:
        """What conditioned networks are made from: real images, the parts of the stages before, the networks before."""
        entry = self.experiments[experiment]
        names: dict[str, Any] = {"experiment": experiment, "per": per, "seed": seed}
        inputs: dict[str, Any] = {"train": f"{DATA.format(dataset=entry['dataset'])}/train.json"}
        inputs["earlier"] = self.earlier(**names, stage=stage)
        before = self.conditioned(**names, stage=int(stage) - 1) or self.members(experiment)
        return inputs | ({"before": [before[int(block)]]} if before else {})

    def masks(self, experiment: str, ipc: int | str, seed: int | str) -> list[str]:
        """Manifests of the chunks of masks an experiment's outer iterations need (magnitude draws none)."""
        maskset = self.maskset(experiment, ipc)
        if maskset is None or self.config["masksets"][maskset]["kind"] == "magnitude":
            return []
        chunks = -(-self.experiments[experiment]["settings"]["outer_iterations"] // MASKS_A_CHUNK)
        return [f"{MASKS.format(maskset=maskset, seed=seed, chunk=chunk)}.json" for chunk in range(chunks)]

    def phases(self, experiment: str, ipc: int | str, seed: int | str) -> list[str]:
        """Stems of the condensed tensors a synthetic set is merged from."""
        entry = self.experiments[experiment]
        return phase_stems(experiment, self.per(experiment, ipc), seed, entry["phases"], entry["stages"])

    def per(self, experiment: str, ipc: int | str) -> int | str:
        """The images per class (10, or 1-10-50) of the condensation that makes an experiment's set of `ipc`."""
        entry = self.experiments[experiment]
        return per(entry["ipc"]) if entry["shared"] else int(ipc) // entry["stages"]

    def sharable(self, experiment: str) -> bool:
        """Whether all images per class of an experiment may be condensed together: they learn, at the same networks."""
        entry = self.experiments[experiment]
        views = [self._view(entry, ipc) for ipc in entry["ipc"]]
        masks = [self.maskset(experiment, ipc) for ipc in entry["ipc"]]
        same = all(view == views[0] for view in views) and len(set(masks)) == 1
        same &= bool(registry.METHODS[entry["method"]].facts.get("partitionable", True))
        return same and entry["settings"]["outer_iterations"] > 0 and entry["stages"] == 1

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
            condensed = self.per(cell.experiment, cell.ipc)
            ipc = leading(condensed)
            if discard := entry.get("discard"):
                block = self._block_number(discard["pool"], discard["member"])
                add("train_block", pool=discard["pool"], block=block)
            label = self.config["labels"].get(cell.labels)
            for observer in dict.fromkeys(filter(None, (entry["observer"], label and label["teacher"]))):
                held = self.config["observers"][observer]
                if "pool" in held:
                    add("train_block", pool=held["pool"], block=self._block_number(held["pool"], held.get("member", 0)))
                add("observe", observer=observer)
            if scored := observers.scored(entry):
                add("score", **scored, dataset=entry["dataset"], observer=entry["observer"], seed=cell.seed)
            if entry["pool"]:
                add("select_view", **names, ipc=ipc)
            for chunk in range(len(self.masks(cell.experiment, ipc, cell.seed))):
                add("draw_masks", maskset=self.maskset(cell.experiment, ipc), seed=cell.seed, chunk=chunk)
            if entry["method"] != "whole":
                for stage in range(entry["stages"]):
                    place: dict[str, Any] = {**names, "per": condensed, "stage": stage}
                    blocks = range(len(self.conditioned(**place)))
                    for block in blocks:
                        add("condition", **place, block=block)
                    if blocks:
                        add("select_conditioned", **place)
                    for phase in range(entry["phases"]):
                        add("condense", **place, phase=phase)
                add("merge", **names, ipc=cell.ipc, at=cell.at)
            if label and label["kind"] != "online":
                names |= {"ipc": cell.ipc, "at": cell.at, "labels": cell.labels}
                add("relabel", **names, views=observers.views(label, cell.protocol))
            add("evaluate", **cell.__dict__)
        return sorted(found.values(), key=lambda job: list(MANIFESTS).index(job[0]))

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
            stages = group.get("stages", 1)
            condensed = per(group.get("budget", ipc // stages))
            stems = phase_stems(cell.experiment, condensed, seed, group["phases"], stages)
            names = {"experiment": cell.experiment, "per": condensed, "seed": seed}
            places = product(range(1, stages), range(group.get("blocks", 0)))
            stems += [CONDITIONED.format(**names, stage=stage, block=block) for stage, block in places]
            runs = [f"{stem}.run.json" for stem in stems]
            runs += [group["scored"].format(seed=seed)] if "scored" in group else []
            labels = _label_stem(group, cell)
            runs += [f"{labels}.run.json"] if labels else []
            card = [f"{cell.set}card.json"] if group["phases"] else []
            evaluation = [f"{cell.stem}.csv"]
            facts = {key: group[key] for key in ("dataset", "source", "method", "factor", "outer", "pool_runs")}
            stands = cell.labels in group.get("published_labels", published.CLASSES)
            facts |= {"as_published": stands and cell.protocol in group["as_published"]}
            facts |= {"observer": group["observer"]} if "observer" in group else {}
            facts |= {"label_file": f"{labels}.json"} if labels else {}
            files = [*evaluation, *card, *runs, *group["pool_runs"], *([f"{labels}.json"] if labels else [])]
            out[cell.stem] = {**cell.__dict__, **facts, "stem": cell.stem, "card": card, "runs": runs, "files": files}
    return [out[stem] for stem in sorted(out)]


def _label_stem(group: Mapping[str, Any], cell: Cell) -> str | None:
    """The stem of the soft labels of a cell (None: its labels are hard, or made while students train)."""
    files = group.get("label_files", {})
    if cell.labels not in files:
        return None
    return LABELS.format(**cell.__dict__, views=files[cell.labels] or cell.protocol)
