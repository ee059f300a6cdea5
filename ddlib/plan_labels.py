"""What only the plan knows of a job, as tags of its run: the suites it belongs to, its method and data as tables name
them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ddlib import project
from ddlib.artifacts import digest
from ddlib.config import ConfigError
from ddlib.paths import MANIFESTS
from ddlib.plan import Plan
from ddlib.progressive import name_of


class PlanLabels:
    """Tags by output and spec hash, from the configuration in `folder` as it is now (read again when it changes).

    A run made to another specification than is asked for has none: what the plan says is not true of it. Nor has any
    where there is no configuration; a wrong one is said.
    """

    def __init__(self, folder: str | Path, say: Callable[[str], None] = print) -> None:
        self.files = [Path(folder, name) for name in ("config.yaml", "config.local.yaml")]
        self.say = say
        self._seen: list[float] | None = None
        self._jobs: dict[str, tuple[str, dict[str, Any]]] = {}
        self._suites: dict[str, list[str]] = {}
        self._found: dict[str, tuple[str, dict[str, str]]] = {}
        self._plan: Plan | None = None

    def __call__(self, output: str, spec_hash: str) -> Mapping[str, str]:
        """The tags of the run of `output` made to the specification of that hash."""
        self._refresh()
        if self._plan is None or output not in self._jobs:
            return {}
        if output not in self._found:
            self._found[output] = self._tags(self._plan, output)
        asked, tags = self._found[output]
        return tags if asked == spec_hash else {}

    def _refresh(self) -> None:
        seen = [path.stat().st_mtime if path.is_file() else 0.0 for path in self.files]
        if seen == self._seen:
            return
        self._seen, self._plan, self._jobs, self._suites, self._found = seen, None, {}, {}, {}
        if not seen[0]:
            return
        try:
            plan = project.load(self.files[0].parent)
        except ConfigError as error:
            self.say(f"runs are shown without their suites, as the configuration is wrong: {error}")
            return
        for suite in plan.config["suites"]:
            for rule, names in plan.jobs(suite):
                output = MANIFESTS[rule][0].format(**names)
                self._jobs[output] = (rule, names)
                self._suites.setdefault(output, []).append(suite)
        self._plan = plan

    def _tags(self, plan: Plan, output: str) -> tuple[str, dict[str, str]]:
        """(hash of the specification that is asked for, tags)."""
        rule, names = self._jobs[output]
        asked = digest(json.loads(json.dumps(plan.spec(rule, names))))
        suites = self._suites[output]
        tags = {"suite": " ".join(suites), **{f"suite.{suite}": "yes" for suite in suites}}
        if "experiment" in names:
            entry = plan.experiments[names["experiment"]]
            tags |= {"method": name_of(entry), "dataset": entry["dataset"]}
            tags |= {"network": entry["network"]} if entry["network"] else {}
        if "pool" in names:
            entry = plan.config["pools"][names["pool"]]
            tags |= {"dataset": entry["dataset"], "network": entry["network"]}
        return asked, tags
