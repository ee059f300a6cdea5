"""Where results lie: the path of every artifact from its names, and back.

A stem is a path without suffix: manifests are <stem>.json, records of cost <stem>.run.json, events
results/events/<stem without results/>.jsonl.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

DATA = "results/data/{dataset}"
BLOCK = "results/pool/{pool}/block{block}"
# A network that judges images, checked; what it says of crops of them.
OBSERVER = "results/observers/{observer}/observer"
SCORES = "results/scores/{dataset}/{observer}/mipc{mipc}_crops{crops}_factor{factor}/seed{seed}/scores"
VIEW = "results/views/{experiment}/ipc{ipc}/seed{seed}/selection"
# Outer iterations whose masks lie in one file.
MASKS_A_CHUNK = 100
MASKS = "results/masks/{maskset}/seed{seed}/chunk{chunk}"
PHASE = "results/condensed/{experiment}/per{per}/seed{seed}/stage{stage}/phase{phase}"
# Networks conditioned on the stages before one, and which of their checkpoints it starts from.
CONDITIONED = "results/condensed/{experiment}/per{per}/seed{seed}/stage{stage}/from/block{block}"
SELECTED = "results/condensed/{experiment}/per{per}/seed{seed}/stage{stage}/from/selection"
SET = "results/sets/{experiment}/ipc{ipc}/seed{seed}/{at}"
# Soft labels of a set, for the views of a protocol (or `decoded`: one for each decoded image).
LABELS = "results/sets/{experiment}/ipc{ipc}/seed{seed}/{at}labels/{labels}/{views}"
EVALUATION = "results/evaluations/{experiment}/ipc{ipc}/seed{seed}/{at}{labels}/{protocol}/{students}"
TABLE = "results/tables/{suite}"
FIGURE = "results/figures/{suite}.png"

# The manifests each rule writes.
MANIFESTS: dict[str, tuple[str, ...]] = {
    "prepare_data": (f"{DATA}/train.json", f"{DATA}/test.json"),
    "train_block": (f"{BLOCK}.json",),
    "observe": (f"{OBSERVER}.json",),
    "score": (f"{SCORES}.json",),
    "select_view": (f"{VIEW}.json",),
    "draw_masks": (f"{MASKS}.json",),
    "condense": (f"{PHASE}.json",),
    "condition": (f"{CONDITIONED}.json",),
    "select_conditioned": (f"{SELECTED}.json",),
    "merge": (f"{SET}card.json",),
    "relabel": (f"{LABELS}.json",),
    "evaluate": (f"{EVALUATION}.json",),
    "tabulate": (f"{TABLE}.json",),
}

_NAME, _NUMBER = r"[a-z0-9][a-z0-9_]*", r"\d+"
_PATTERNS = {
    "at": r"(?:at\d+/)?",
    "per": r"\d+(?:-\d+)*",
    **dict.fromkeys(("ipc", "seed", "stage", "phase", "block", "chunk", "mipc", "crops", "factor"), _NUMBER),
}


def made_by(path: str | Path) -> tuple[str, dict[str, str]]:
    """(rule, wildcards) of the job whose manifest is at `path`. ValueError if it is no manifest of ours."""
    for rule, templates in MANIFESTS.items():
        for template in templates:
            if found := re.fullmatch(_pattern(template), Path(path).as_posix()):
                return rule, found.groupdict()
    known = ", ".join(template for templates in MANIFESTS.values() for template in templates)
    raise ValueError(f"{path} is no manifest of the workflow. Those are: {known}")


def _pattern(template: str) -> str:
    def group(field: re.Match[str]) -> str:
        return f"(?P<{field[1]}>{_PATTERNS.get(field[1], _NAME)})"

    return re.sub(r"\\\{(\w+)\\\}", group, re.escape(template))


def per(ipc: int | Sequence[int]) -> str:
    """Images per class as they stand in the path of a condensation: 10, or 1-10-50 of those condensed together."""
    return str(ipc) if isinstance(ipc, int) else "-".join(map(str, ipc))


def budgets(per: int | str) -> int | list[int]:
    """Back from :func:`per`: 10, or [1, 10, 50]."""
    found = [int(ipc) for ipc in str(per).split("-")]
    return found[0] if len(found) == 1 else found


def leading(per: int | str) -> int:
    """The first of the images per class condensed together: the view all of them start from is filed under it."""
    return int(str(per).split("-")[0])


def part(condensed: int | Sequence[int], ipc: int, kind: str) -> str:
    """The name, in the manifest of a condensation for `condensed` images per class, of what it made for `ipc`.

    `kind`: set, initial or at<outer iteration>; its own name alone, ``ipc10/set`` beside others.
    """
    return kind if isinstance(condensed, int) else f"ipc{ipc}/{kind}"


def phase_stems(experiment: str, per: int | str, seed: int | str, phases: int, stages: int = 1) -> list[str]:
    """Stems of the parts a synthetic set is merged from, stage by stage."""
    places = ((stage, phase) for stage in range(stages) for phase in range(phases))
    names = {"experiment": experiment, "per": per, "seed": seed}
    return [PHASE.format(**names, stage=stage, phase=phase) for stage, phase in places]
