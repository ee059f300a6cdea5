"""Results of a component change only with its version: jobs are rerun by versions, not by code.

tests/golden/versions.json holds values under the versions they belong to. Where values differ and no version was
raised, this fails. `python tests/test_versions.py --update` adds the values of new versions, and nothing else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pytest
from torch import Tensor
from version_cases import CASES

from ddlib import registry

GOLDEN = Path(__file__).parent / "golden" / "versions.json"
RTOL = 1e-9  # of the largest number of a value: all is computed in float64


def version(name: str) -> int:
    """Of a component, or of a registered method, network or source."""
    for table in (registry.METHODS, registry.NETWORKS, registry.SOURCES):
        if name in table:
            return table[name].version
    return registry.COMPONENTS[name]


def key(name: str) -> str:
    """`train 1 (augment 1, streams 1)`: the versions the values of a component belong to."""
    others = ", ".join(f"{other} {version(other)}" for other in sorted(CASES[name][1]))
    return f"{name} {version(name)}" + (f" ({others})" if others else "")


def flat(value: Any) -> np.ndarray:
    """Numbers of a tensor, array, number or (nested) list of these, as float64 [n]."""
    if isinstance(value, list | tuple):
        return np.concatenate([flat(item) for item in value])
    array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
    return array.astype(np.float64).ravel()


def summary(value: Any) -> list[float]:
    """Short values whole; of long ones their number, ends and two sums in which every place has its own weight."""
    numbers = flat(value)
    if len(numbers) <= 24:
        return [float(number) for number in numbers]
    place = np.arange(len(numbers))
    sums = [float(numbers @ np.cos(0.7 * place)), float(np.abs(numbers) @ (1 + np.sin(1.3 * place)))]
    return [float(len(numbers)), *map(float, numbers[:4]), *map(float, numbers[-4:]), *sums]


def computed(name: str) -> dict[str, list[float]]:
    return {what: summary(value) for what, value in sorted(CASES[name][0]().items())}


def differing(name: str, found: dict[str, list[float]], golden: dict[str, list[float]]) -> list[str]:
    """The values that are not the golden ones, with how far they are off."""
    out = [f"{what}: there or not" for what in sorted(found.keys() ^ golden.keys())]
    for what in sorted(found.keys() & golden.keys()):
        a, b = np.array(found[what]), np.array(golden[what])
        off = (
            np.inf
            if a.shape != b.shape
            else float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-300))
        )
        if not off <= RTOL:
            out.append(f"{what}: off by {off:.1e}")
    return out


def update() -> list[str]:
    """Add values of versions that are new, drop those of versions that are gone; complaints about changed values."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    complaints, new = [], {}
    for name in CASES:
        found = computed(name)
        if (old := golden.get(key(name))) is not None and (wrong := differing(name, found, old)):
            complaints.append(message(name, wrong))
        new[key(name)] = golden.get(key(name), found)
    lines = (f"{json.dumps(at)}: {json.dumps(new[at], sort_keys=True)}" for at in sorted(new))
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return complaints


def message(name: str, wrong: list[str]) -> str:
    where = f"COMPONENTS[{name!r}]" if name in registry.COMPONENTS else f"the version of {name!r}"
    return (
        f"results of {key(name)} have changed ({'; '.join(wrong[:4])}). If that is meant, raise {where} in "
        "ddlib/registry.py and run `python tests/test_versions.py --update`; jobs that use it will run again. If what "
        "changed is one of those in brackets, raise that one."
    )


def test_every_component_method_network_and_built_in_source_has_its_values() -> None:
    pinned = set(CASES) | {other for _, others in CASES.values() for other in others}
    needs_files = {"cifar10", "cifar100"}
    needs_files |= {name for name, entry in registry.SOURCES.items() if entry.facts.get("folder") and name != "folder"}
    assert set(registry.COMPONENTS) <= set(CASES)
    assert {*registry.METHODS, *registry.NETWORKS, *registry.SOURCES} - needs_files <= pinned


@pytest.mark.parametrize("name", CASES)
def test_results_change_only_with_their_version(name: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert key(name) in golden, f"no values for {key(name)}: run `python tests/test_versions.py --update`"
    wrong = differing(name, computed(name), golden[key(name)])
    assert not wrong, message(name, wrong)


def test_values_of_versions_that_are_gone_are_not_kept() -> None:
    assert set(json.loads(GOLDEN.read_text())) == {key(name) for name in CASES}


def test_a_small_change_anywhere_is_noticed() -> None:
    values = np.linspace(0, 1, 100)
    for place in range(100):
        changed = values.copy()
        changed[place] += 1e-4
        assert differing("x", {"a": summary(changed)}, {"a": summary(values)})
    swapped = values.copy()
    swapped[[40, 50]] = swapped[[50, 40]]
    assert differing("x", {"a": summary(swapped)}, {"a": summary(values)})
    assert not differing("x", {"a": summary(values * (1 + 1e-12))}, {"a": summary(values)})
    assert differing("x", {"a": [float("nan")]}, {"a": [1.0]})
    assert differing("x", {"a": [1.0], "b": [1.0]}, {"a": [1.0]})


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        raise SystemExit("usage: python tests/test_versions.py --update")
    raise SystemExit("\n".join(update()) or None)
