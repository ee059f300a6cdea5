"""What is shown of an attempt wherever runs are listed: its name, tags and parameters. Pure functions of its events."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from ddlib.artifacts import canonical, digest
from ddlib.attempts import Attempt

MAX_TEXT = 500
"""Characters of a parameter or tag; longer ones are cut (the manifest has them whole)."""

_WILDCARD = re.compile(r"(per|ipc|seed|stage|phase|block|at|chunk)([0-9][0-9-]*)")
_FORBIDDEN = re.compile(r"[^\w\-. /:]")


def run_key(attempt: Attempt) -> str:
    """What a run is found again by: output, spec hash and attempt."""
    return digest([attempt.first["output"], attempt.spec_hash, attempt.id])


def run_name(attempt: Attempt) -> str:
    """Such as `condense digits_idc ipc10 seed0`, `set ...` of what is merged, an evaluation with its protocol and
    students; stage and phase only where they are not the first, labels where they are not the classes.
    """
    tags = run_tags(attempt)
    words = ["set" if tags["rule"] == "merge" else tags["rule"], *(tags[key] for key in ("experiment",) if key in tags)]
    words += [f"{key}{tags[key]}" for key in ("ipc", "seed", "at", "block") if key in tags]
    words += [tags["labels"]] if tags.get("labels", "hard") != "hard" else []
    words += [tags[key] for key in ("protocol", "students") if key in tags and tags["rule"] == "evaluate"]
    for key in ("stage", "phase"):
        words += [f"{key}{tags[key]}"] if tags.get(key, "0") != "0" else []
    return " ".join(words)


def run_tags(attempt: Attempt) -> dict[str, str]:
    """Tags of a run: what the path says (experiment, ipc, seed, ...), what the spec says, then what the job said
    itself.
    """
    start = attempt.first
    tags: dict[str, Any] = {"rule": start["rule"], "output": start["output"], **_path_tags(start["output"])}
    for key in ("method", "dataset", "network", "protocol", "students", "experiment"):
        value = start["spec"].get(key)
        value = value.get("name", value.get("source")) if isinstance(value, Mapping) else value
        if isinstance(value, str):
            tags[key] = value
    now = attempt.start
    tags.update(start["tags"])
    tags.update({"host": now["host"], "slurm_id": now["slurm_id"], "spec_hash": attempt.spec_hash, **now["tags"]})
    tags["sessions"] = sum(event["event"] == "start" for _, event in attempt.lines)
    if "commit" in tags:
        tags["mlflow.source.git.commit"] = tags["commit"]
    tags["mlflow.source.name"] = f"ddlib {start['rule']}"
    return {name(key): text(value) for key, value in tags.items() if value is not None}


def _path_tags(output: str) -> dict[str, str]:
    """Wildcards of `results/<kind>/<experiment, pool or data set>/per10/seed0/stage0/phase0.json`."""
    parts = PurePosixPath(output).parts
    tags = {"experiment": PurePosixPath(parts[2]).stem} if len(parts) > 2 else {}
    for part in parts[3:]:
        if match := _WILDCARD.fullmatch(part.split(".")[0]):
            tags[match[1].replace("per", "ipc")] = match[2]
    return tags


def moving_tags(events: list[dict[str, Any]]) -> dict[str, str]:
    """Tags that change while a job runs: how far it is, and the words it ended with."""
    tags: dict[str, str] = {}
    for event in events:
        if event["event"] == "progress":
            tags["progress"] = f"{event['done']}/{event['total']} {event['unit']}"
        if event["event"] == "end":
            words = {key: value for key, value in event["summary"].items() if not _is_number(value)}
            tags.update(flatten(words))
    return tags


def means(attempt: Attempt) -> dict[str, float]:
    """`accuracy_mean/<network>` of a finished evaluation: over its repeats, each once however often it was told."""
    if attempt.first["rule"] != "evaluate" or not attempt.is_finished:
        return {}
    found: dict[str, dict[int, float]] = {}
    for _, event in attempt.lines:
        for key, value in event["values"].items() if event["event"] == "metric" else ():
            found.setdefault(name(key), {})[event["step"]] = float(value)
    scores = {key: list(repeats.values()) for key, repeats in found.items() if key.startswith("accuracy/")}
    return {key.replace("/", "_mean/", 1): sum(each) / len(each) for key, each in scores.items()}


def on_its_set(attempt: Attempt) -> tuple[dict[str, str], dict[str, float]]:
    """(parameters, metrics) of a job that the run of its set shows as well: the settings of a condensation (its first
    stage and phase), the mean accuracies of an evaluation as `accuracy/<labels>/<protocol>/<network>`.
    """
    tags, spec = run_tags(attempt), attempt.first["spec"]
    if tags["rule"] == "condense" and (tags.get("stage", "0"), tags.get("phase", "0")) == ("0", "0"):
        shown = {key: spec[key] for key in ("settings", "network", "masks", "dataset") if key in spec}
        return dict(flatten(shown)), {}
    place = "/".join(tags.get(key, "") for key in ("labels", "protocol"))
    return {}, {key.replace("_mean/", f"/{place}/", 1): value for key, value in means(attempt).items()}


def settings(event: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters an event brings: the spec at the start, facts such as the chunk size later."""
    found: dict[str, Any] = (
        event["spec"] if event["event"] == "start" else event["values"] if event["event"] == "params" else {}
    )
    return found


def numbers(event: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics an event brings: its values, or the numbers a job ends with (seconds, peak memory, ...)."""
    if event["event"] == "metric":
        return dict(event["values"])
    return {k: v for k, v in event["summary"].items() if _is_number(v)} if event["event"] == "end" else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(name, text) of every leaf, nested names joined by dots; lists stand as JSON."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield name(f"{prefix}{key}"), text(value)


def name(key: str) -> str:
    """`key` with what MLflow does not allow in names replaced by _, at most 250 characters."""
    return _FORBIDDEN.sub("_", str(key))[:250]


def text(value: Any) -> str:
    """`value` as text of at most MAX_TEXT characters."""
    shown = value if isinstance(value, str) else canonical(value)
    return shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 2] + ".."
