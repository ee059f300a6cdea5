"""Which classes of a folder a data set has, and in what order: published lists, a list of one's own, or a seed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddlib import registry

LISTS = Path(__file__).parent / "lists"


def published(name: str) -> tuple[str, ...]:
    """The class folders (WordNet ids) of a list in ddlib/data/lists, in its order."""
    lines = (LISTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line.split()[0] for line in lines if line.strip() and not line.startswith("#"))


def chosen(spec: Mapping[str, Any], there: Sequence[str], where: Path) -> tuple[str, ...]:
    """Names of class folders by label: as many as `spec["classes"]`, of those `there`, the folders in `where`.

    In the order of `spec["class_list"]`, else of the source's published list, else sorted. With `class_seed` 0 these
    are the first ones; with another seed they are drawn as IDC draws them: the first of numpy's permutation
    (RandomState) of all. ValueError where a class has no folder or their number is another.

    A folder of the source's list may also have been renamed to five digits, 00000 being its first (as RDED stores its
    data sets).
    """
    listed = spec.get("class_list") or _listed(spec["source"], there)
    everything, wanted = tuple(listed or there), int(spec["classes"])
    if "class_seed" in spec:
        everything = _drawn(everything, wanted, int(spec["class_seed"]))
    if missing := [name for name in everything if name not in there]:
        raise ValueError(
            f"{where} lacks {len(missing)} of the {len(everything)} classes asked for: {_some(missing)}. There are "
            f"{_some(list(there))}"
        )
    if len(everything) != wanted:
        raise ValueError(
            f"the configuration says classes: {wanted}, {where} has {len(everything)} folders: {_some(everything)}. "
            f"Set classes: {len(everything)}, name those you want with class_list, or draw them with class_seed"
        )
    return everything


def _listed(source: str, there: Sequence[str]) -> tuple[str, ...]:
    """The published list of a source; empty if it has none, or if all folders are called by five digits."""
    name = registry.SOURCES[source].facts.get("list")
    numbered = bool(there) and all(re.fullmatch(r"\d{5}", folder) for folder in there)
    return () if name is None or numbered else published(name)


def _drawn(names: tuple[str, ...], count: int, seed: int) -> tuple[str, ...]:
    """The first `count` of `names`, or (seed above 0) `count` of them at random."""
    if count > len(names):
        raise ValueError(f"the configuration says classes: {count}, there are {len(names)} to choose from")
    if seed == 0:
        return names[:count]
    import numpy as np

    return tuple(names[i] for i in np.random.RandomState(seed).permutation(len(names))[:count])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", .. ({len(names)})" if len(names) > 5 else "")
