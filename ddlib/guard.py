"""Results found without Snakemake's record: do they agree with what the configuration asks for?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .artifacts import ArtifactError, read_manifest

SHOWN = 4


def disagreement(path: str | Path, spec: Mapping[str, Any]) -> str | None:
    """What is wrong with an existing manifest, given the specification that is asked for (None: nothing)."""
    if not Path(path).exists():
        return None
    try:
        have = read_manifest(path)["spec"]
    except ArtifactError as error:
        return str(error)
    differing = list(differences(have, dict(spec)))
    if not differing:
        return None
    shown = "; ".join(differing[:SHOWN]) + (f"; and {len(differing) - SHOWN} more" if len(differing) > SHOWN else "")
    return (
        f"{path} was made with other settings than the configuration asks for, and Snakemake has no record of it: "
        f"{shown}. Delete it to have it made anew, or keep it as it is with: make adopt FILE={path}"
    )


def differences(have: Any, want: Any, where: str = "") -> Iterable[str]:
    """Every value in which two specifications differ, as `key.key is x, asked is y`."""
    if isinstance(have, dict) and isinstance(want, dict):
        for key in sorted(have.keys() | want.keys()):
            yield from differences(have.get(key), want.get(key), f"{where}.{key}" if where else str(key))
    elif have != want:
        yield f"{where} is {have!r}, asked is {want!r}"
