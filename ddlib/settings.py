"""Settings that config.yaml gives for a preset: is each known, of its type, and a value that can be?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from . import presets
from .registry import NETWORKS, SOURCES, nearest

MOST, MOST_EPOCHS = 10**7, 10**5
BOOLEAN = " (YAML reads off, no and false alike: quote the word)"


def method_settings(method: str, source: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method on a data source: its preset with `given` over it.

    `speedup` divides the outer iterations of the preset, unless `given` says how many there are; it is no setting of
    the job, so that 5x of 2000 and 400 are the same work.
    """
    known = presets.METHOD_SETTINGS[method]
    resolved = {**known["default"], **known.get(source, {}), **given}
    speedup = resolved.pop("speedup", 1)
    if "outer_iterations" not in given:
        whole = resolved["outer_iterations"]
        resolved["outer_iterations"] = max(whole // speedup, min(1, whole))
    return resolved


def settings_problems(where: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """What is wrong with `given` settings, of which `defaults` has all; the type is that of the default."""
    problems = []
    for key, value in given.items():
        if key not in defaults:
            problems.append(f"{where}: unknown setting {key!r}; {nearest(key, defaults)}")
        elif problem := type_problem(f"{where}.{key}", value, defaults[key]) or value_problem(where, key, value):
            problems.append(problem)
    return problems


def type_problem(where: str, value: Any, default: Any) -> str | None:
    """What is wrong with a setting's type, judged by its default (None: nothing)."""
    wanted = type(default)
    fits = isinstance(value, wanted) and not (wanted is not bool and isinstance(value, bool))
    if wanted is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    if fits:
        return None
    hint = BOOLEAN if isinstance(value, bool) else ""
    if value is None:
        nothing = "nothing is given (YAML reads null, ~ and a lone key so)"
        return f"{where}: {nothing}: it must be a {wanted.__name__} such as {default!r}"
    return f"{where}: {value!r} is a {type(value).__name__}, it must be a {wanted.__name__} such as {default!r}{hint}"


def value_problem(where: str, key: str, value: Any) -> str | None:
    """What is wrong with a setting's value (None: nothing)."""
    where = f"{where}.{key}"
    if key in presets.CHOICES and value not in presets.CHOICES[key]:
        known = [str(choice) for choice in presets.CHOICES[key]]
        return f"{where}: {value!r} is not one of {', '.join(known)}; {nearest(value, known)}"
    if key.endswith("augment"):
        return _augment_problem(where, value)
    if key == "crop_area":
        shares = len(value) in (0, 2) and all(isinstance(at, int | float) and 0 < at <= 1 for at in value)
        fits = shares and list(value) == sorted(value)
        return None if fits else f"{where}: {value} must be the least and the largest share of an image, or []"
    if key == "decay_at":
        numbers = all(isinstance(at, int | float) and not isinstance(at, bool) and 0 < at < 1 for at in value)
        return None if numbers else f"{where}: {value} must be shares of the training, between 0 and 1"
    return _number_problem(where, key, value) if isinstance(value, int | float) else None


def size_problems(where: str, networks: Mapping[str, Mapping[str, Any]], dataset: Mapping[str, Any]) -> list[str]:
    """Which of these networks (name -> architecture and options) do not take images as small as a data set's."""
    facts = {
        "size": math.inf,
        "channels": 0,
        **(SOURCES[dataset["source"]].facts if dataset["source"] in SOURCES else {}),
    }
    facts |= {key: dataset[key] for key in ("size",) if key in dataset}
    size = 32 if (facts["channels"], facts["size"]) == (1, 28) else facts["size"]
    least = {n: NETWORKS[e["architecture"]].facts for n, e in networks.items() if e["architecture"] in NETWORKS}
    return [
        f"{where}: {name} ({networks[name]['architecture']}) needs images of at least {needs['smallest']} px; those of "
        f"{dataset['source']} have {facts['size']}"
        for name, needs in least.items()
        if size < needs.get("smallest", 0)
    ]


def _number_problem(where: str, key: str, value: float) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where}: {value} is no number to work with"
    if value > (most := MOST_EPOCHS if key == "epochs" else MOST):
        return f"{where}: {value} is more than {most}: no training takes so many"
    if value < 0:
        return f"{where}: {value} is negative"
    if value == 0 and key in presets.POSITIVE:
        return f"{where}: it must be more than 0"
    if value > 1 and key.endswith("probability"):
        return f"{where}: {value} is no probability: it must be from 0 to 1"
    return None


def _augment_problem(where: str, value: str) -> str | None:
    groups = [] if value in ("", "none") else value.split("_")
    for group in groups:
        if group not in (known := {*presets.AUGMENTATIONS, *presets.CROPPINGS}):
            return f"{where}: no augmentation is called {group!r}; {nearest(group, known)}"
    if len(set(groups)) < len(groups):
        return f"{where}: {value!r} names an augmentation twice"
    return None
