"""Write requirements.lock: what a fresh environment holds after installing pyproject's dependencies with all extras.

`make lock` runs it. The file names versions only - no registry, no folder of wheels, no path of the machine it was made
on - so it installs wherever pip finds the packages. Packages that PyTorch needs on Linux alone carry a marker.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Versions held back on purpose; everything else is the newest that fits pyproject.toml.
PINS = {
    "torch": "2.15.0",
    "torchvision": "0.29.2",  # torchvision's wheel goes with the CUDA build of one version of torch, also without a GPU
    "mlflow": "3.17.2",  # 3.18.0 cannot be installed: the mlflow-skinny it asks for was never published
}
LINUX_ONLY = re.compile(r"^(nvidia-|cuda-|triton$)")
NOT_LOCKED = {"pip", "ddlib"}

HEADER = """\
# Every package of `.venv`, pinned. Written by `make lock`; don't edit by hand (tests/test_packaging.py reads it).
# Made with Python {version}; for Python 3.11 and later on Linux (with or without a GPU) and macOS.
"""


def requirements() -> list[str]:
    """All dependencies and extras of pyproject.toml, then the pins."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    return [*project["dependencies"], *extras, *(f"{name}=={version}" for name, version in PINS.items())]


def locked_line(frozen: str) -> str:
    """One line of the lock for one line `name==version` of pip freeze; ValueError for anything else."""
    match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", frozen)
    if match is None:
        raise ValueError(
            f"pip installed {frozen!r}, which is not a plain published version. Unset PIP_FIND_LINKS and the like, "
            "or pin another version in tools/lock.py."
        )
    name = re.sub(r"[-_.]+", "-", match[1]).lower()
    marker = ' ; sys_platform == "linux"' if LINUX_ONLY.match(name) else ""
    return f"{name}=={match[2]}{marker}"


def lock(folder: Path) -> str:
    """The text of the lock file; `folder` is where the virtual environment is made."""
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements()], check=True)
    frozen = subprocess.run(
        [str(python), "-m", "pip", "freeze", "--all"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    lines = sorted(locked_line(line) for line in frozen if line.split("==")[0] not in NOT_LOCKED)
    return HEADER.format(version=".".join(map(str, sys.version_info[:3]))) + "\n".join(lines) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ddlib-lock-") as folder:
        text = lock(Path(folder) / "venv")
    (ROOT / "requirements.lock").write_text(text)
    print(f"requirements.lock: {len(text.splitlines()) - 2} packages")


if __name__ == "__main__":
    main()
