"""What a run of the workflow was started with, for its jobs on other machines: a file named in the environment.

Snakemake starts anew in each job of a cluster and reads the configuration again, hours after the run was started, and
is not told the limits of `--resources`. A file edited meanwhile would make jobs to other settings than those that the
run recorded, so jobs take what was handed over. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .writing import write_text

VARIABLE = "DDLIB_STARTED_WITH"


def hand_over(folder: Path, config: Mapping[str, Any], gpus: int | None) -> None:
    """Write the configuration (unresolved) and the most GPUs allowed (None: any number) for the jobs of this run, which
    inherit the environment. `folder` must be seen by their machines."""
    text = json.dumps({"config": dict(config), "gpus": gpus}, indent=1) + "\n"  # in their order
    path = folder.resolve() / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    write_text(path, text)
    os.environ[VARIABLE] = str(path)


def handed_over() -> dict[str, Any] | None:
    """{"config", "gpus"} of the run that this job belongs to, or None where the environment did not come along.

    ValueError if the file is gone.
    """
    path = os.environ.get(VARIABLE)
    if path is None:
        return None
    try:
        found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path} is not there: the settings of the run that this job belongs to. Were they deleted, or does this "
            "machine not see the folder of the workflow? Start the workflow again"
        ) from None
    return found
