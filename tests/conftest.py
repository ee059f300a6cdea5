"""What holds for every test: one thread, and no MLflow server or telemetry of the one who runs them.

Tests of programs that are not installed are skipped, or fail where DDLIB_REQUIRE names their marker (as the gate does).
"""

import os
import shutil

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true", GIT_PYTHON_REFRESH="quiet")

import torch

torch.set_num_threads(1)

PROGRAMS = {"slurm": ("slurmctld", "slurmd", "munged", "sbatch"), "browser": ("chromium",)}


def missing(marker: str) -> list[str]:
    """The programs that tests of a marker need and that are not installed."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return [name for name in PROGRAMS[marker] if shutil.which(name, path=path) is None]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose programs are not there; fail it where they are required."""
    for marker in PROGRAMS:
        if item.get_closest_marker(marker) and (names := missing(marker)):
            said = f"{marker}: not installed: {', '.join(names)}"
            if marker in os.environ.get("DDLIB_REQUIRE", "").split():
                pytest.fail(f"{said} (required by DDLIB_REQUIRE)", pytrace=False)
            pytest.skip(said)
