"""Results found without Snakemake's record: do they agree with what the configuration asks for?"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .artifacts import ArtifactError, read_manifest

SHOWN_DIFFERENCES, SHOWN_PATHS = 4, 10


def disagreement(path: str | Path, spec: Mapping[str, Any]) -> str | None:
    """In what an existing manifest differs from the specification that is asked for (None: in nothing)."""
    if not Path(path).exists():
        return None
    try:
        have = read_manifest(path)["spec"]
    except ArtifactError as error:
        return str(error)
    found = list(differences(have, dict(spec)))
    if not found:
        return None
    return f"{path}: {'; '.join(found[:SHOWN_DIFFERENCES])}{_more(found, SHOWN_DIFFERENCES)}"


def outdated(outputs: Iterable[str], inputs: Iterable[str]) -> str | None:
    """Which existing output is older than which existing input, as Snakemake judges it (None: none is)."""
    made = {path: os.stat(path).st_mtime for path in outputs if os.path.exists(path)}
    given = {path: os.stat(path).st_mtime for path in inputs if os.path.exists(path)}
    if not made or not given:
        return None
    oldest, newest = min(made, key=made.__getitem__), max(given, key=given.__getitem__)
    return f"{oldest} is older than {newest}" if given[newest] > made[oldest] else None


def wrong_order(older: str) -> str:
    """What to say of results without a record that are older than what they are made from."""
    return (
        f"Snakemake has no record of how these results were made, and by its time {older}, which it is made from.\n"
        "Were they copied here, without their times and without .snakemake? Then put the times of all results in order "
        "with: make adopt FILE=results\n"
        "Was what they are made from changed since? Then delete the older ones, to have them made anew."
    )


def _more(found: list[str], shown: int) -> str:
    return f"; and {len(found) - shown} more" if len(found) > shown else ""


def differences(have: Any, want: Any, where: str = "") -> Iterable[str]:
    """Every value in which two specifications differ, as `key.key is x, asked is y`."""
    if isinstance(have, dict) and isinstance(want, dict):
        for key in sorted(have.keys() | want.keys()):
            inside = f"{where}.{key}" if where else str(key)
            if key not in have or key not in want:
                yield f"{inside} is {_shown(have, key)}, asked is {_shown(want, key)}"
            else:
                yield from differences(have[key], want[key], inside)
    elif have != want:
        yield f"{where} is {have!r}, asked is {want!r}"


def _shown(given: Mapping[str, Any], key: str) -> str:
    return repr(given[key]) if key in given else "not given"


def refusal(wrong: Mapping[str, str]) -> str:
    """What to say of manifests that disagree: path -> in what."""
    paths = sorted(wrong)[:SHOWN_PATHS]
    lines = "\n".join(f"  {wrong[path]}" for path in paths)
    named = paths[0] if len(paths) == 1 else f'"{" ".join(paths)}"'
    return (
        "Snakemake has no record of how these results were made, and they are of other settings than the configuration "
        f"asks for, or damaged:\n{lines}{_more(sorted(wrong), SHOWN_PATHS)}\n"
        f"Delete them to have them made anew, or keep them as they are with: make adopt FILE={named}"
    )
