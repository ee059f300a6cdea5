"""What is shipped agrees with itself: pyproject, lock, conda environments, Makefile, licence and citation."""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = [line for group in PROJECT["optional-dependencies"].values() for line in group]
TARGETS = ["help", "venv", "demo", "test", "soak", "bench", "check", "audit", "ui", "status", "table", "report", "plan"]
TARGETS += ["clean-suite", "du", "verify", "adopt", "rename", "lock"]


def lock_lines():
    text = (ROOT / "requirements.lock").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins():
    found = [Requirement(line) for line in lock_lines()]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in found}


@pytest.fixture(scope="module")
def lock_tool():
    spec = importlib.util.spec_from_file_location("ddlib_lock_tool", ROOT / "tools" / "lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lock_holds_versions_and_nothing_else():
    """No registry, no path, no option line: it installs wherever pip finds the packages."""
    line_form = re.compile(r'[a-z0-9-]+==[0-9][A-Za-z0-9.]*( ; sys_platform == "linux")?')
    assert [line for line in lock_lines() if not line_form.fullmatch(line)] == []
    assert "://" not in (ROOT / "requirements.lock").read_text()
    assert len(pins()) == len(lock_lines()) > 100


@pytest.mark.parametrize("dependency", [*PROJECT["dependencies"], *EXTRAS])
def test_lock_pins_each_dependency(dependency):
    wanted = Requirement(dependency)
    assert wanted.specifier.contains(pins()[canonicalize_name(wanted.name)])


def test_lock_pins_what_the_dependencies_need():
    """The closure over what is installed here (packages that are not installed here can't be looked into)."""
    pinned, seen = pins(), set()
    todo = [Requirement(line) for line in [*PROJECT["dependencies"], *EXTRAS]]
    while todo:
        wanted = todo.pop()
        for extra in ["", *sorted(wanted.extras)]:
            name = canonicalize_name(wanted.name)
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            assert name == "pip" or name in pinned
            try:
                needs = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            todo += [
                need for need in map(Requirement, needs) if not need.marker or need.marker.evaluate({"extra": extra})
            ]
    assert len(seen) > 50


def test_packages_of_linux_alone_carry_a_marker():
    marked = {line.split("==")[0] for line in lock_lines() if "sys_platform" in line}
    assert {"triton", "cuda-toolkit", "nvidia-cublas"} <= marked
    assert not marked & {"torch", "torchvision", "numpy"}
    assert [line for line in lock_lines() if line.startswith("nvidia-") and "linux" not in line] == []


def test_held_back_versions_are_in_the_lock(lock_tool):
    assert {name: pins()[name] for name in lock_tool.PINS} == lock_tool.PINS


@pytest.mark.parametrize("frozen", ["torch==2.13.0+cpu", "ddlib @ file:///somewhere", "-e git+ssh://host/x#egg=x"])
def test_what_is_no_published_version_is_not_locked(lock_tool, frozen):
    with pytest.raises(ValueError, match=r"not a plain published version\. Unset PIP_FIND_LINKS"):
        lock_tool.locked_line(frozen)


def test_conda_environments_agree_with_pyproject():
    files = sorted((ROOT / "envs").glob("*.yaml"))
    assert files
    for file in files:
        content = yaml.safe_load(file.read_text())
        (pip_section,) = [entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict)]
        assert sorted(pip_section) == sorted(PROJECT["dependencies"]), file.name
        assert f"python{PROJECT['requires-python']}" in content["dependencies"], file.name
        assert content["channels"], file.name


def test_rules_name_environments_that_exist():
    named = [
        (rules, path)
        for rules in (ROOT / "workflow").rglob("*.smk")
        for path in re.findall(r'conda:\s*"([^"]+)"', rules.read_text())
    ]
    assert named
    assert [(rules.name, path) for rules, path in named if not (rules.parent / path).is_file()] == []


def make(*words, cwd=ROOT):
    """Run make as from a shell, also when the tests were started by make."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("target", TARGETS)
def test_makefile_target(target):
    done = make("-n", target, "SUITE=cifar")
    assert done.returncode == 0, done.stderr
    if target in ("table", "plan", "clean-suite"):
        assert done.stdout.rstrip().endswith(" -- 'cifar'")


def test_make_alone_lists_all_targets():
    done = make()
    assert re.findall(r"^  make (\S+)", done.stdout, flags=re.MULTILINE) == TARGETS


def test_python_that_is_too_old_is_named(tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = make("venv", f"PYTHON={old}", cwd=tmp_path)
    assert done.returncode != 0
    assert "needs Python 3.11 or later" in done.stdout
    assert "Python 3.9.2" in done.stdout


def test_licence_citation_changelog_and_contributing():
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert "END OF TERMS AND CONDITIONS" in (ROOT / "LICENSE").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    for heading in ("## Add a method", "## Tests", "## When results change: versions", "## Clean room"):
        assert heading in contributing


def test_wheel_holds_all_of_ddlib_and_the_plugin():
    held = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "ddlib").rglob("*") if path.suffix in (".py", ".csv")}
    assert wanted - held == set()
    assert "snakemake_logger_plugin_ddlib/__init__.py" in held


def test_the_gate_is_executable_and_stands_alone():
    gate = ROOT / ".ci" / "run"
    assert os.access(gate, os.X_OK)
    assert "shared" not in gate.read_text()
