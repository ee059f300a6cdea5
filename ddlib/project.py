"""The configuration of a folder as the workflow sees it: config.yaml, config.local.yaml over it, checked, planned.

Written once, for the workflow and for every command that looks at a suite without running it. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import config
from .plan import Plan
from .registry import nearest

SCHEMA = Path(__file__).parents[1] / "workflow" / "schemas" / "config.schema.yaml"


def load(folder: str | Path = ".", over: Mapping[str, Any] | None = None) -> Plan:
    """The plan of the configuration in `folder`.

    config.local.yaml is merged over config.yaml where there is one, and `over` (what a command line gives) over both.
    ConfigError with every problem found, before anything is done.
    """
    return planned(given(folder, over))


def given(folder: str | Path = ".", over: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `load` plans, as it stands in the files and on the command line: not yet checked."""
    found = config.read(Path(folder) / "config.yaml")
    local = Path(folder) / "config.local.yaml"
    if local.exists():
        found = config.merged(found, config.read(local))
    return config.merged(found, over or {})


def planned(found: Mapping[str, Any]) -> Plan:
    """The plan of what `given` found. ConfigError with every problem."""
    return Plan(config.resolve(found, config.read(SCHEMA)))


def suite(plan: Plan, name: str) -> str:
    """`name`, if it is a suite (or an experiment, which is one too). ValueError with the nearest one if not."""
    if name not in plan.suites:
        raise ValueError(f"no suite is called {name!r}; {nearest(name, plan.suites)}")
    return name
