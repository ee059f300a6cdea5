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
    given = config.read(Path(folder) / "config.yaml")
    local = Path(folder) / "config.local.yaml"
    if local.exists():
        given = config.merged(given, config.read(local))
    return Plan(config.resolve(config.merged(given, over or {}), config.read(SCHEMA)))


def suite(plan: Plan, name: str) -> str:
    """`name`, if it is a suite (or an experiment, which is one too). ValueError with the nearest one if not."""
    if name not in plan.suites:
        raise ValueError(f"no suite is called {name!r}; {nearest(name, plan.suites)}")
    return name
