"""Writing that fails at every rule, on a full disk or without the right to: one clear line, nothing lost, and the same
results once it is mended."""

import contextlib
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest
from commands import finished, run_here
from every import Every, rule_of

from ddlib.tables import COSTS

LIMITS = (0, 1000, 4000)  # bytes a file may grow to: different files of a job fail


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    return finished(tmp_path_factory, "faults")


def one_of_each(every):
    """A job of every rule."""
    return {rule_of(output): output for output in sorted(every.commands)}


@contextlib.contextmanager
def full_at(size):
    """No file may grow beyond `size` bytes: what writing to a full disk is, for this process alone."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def held(folder):
    """Everything below a folder but events: path -> hash."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.relative_to(folder).parts[0] not in ("events", "logs")
    }


RULES = ["prepare_data", "train_block", "observe", "score", "draw_masks", "select_view", "condition"]
RULES += ["select_conditioned", "condense", "relabel", "merge", "evaluate", "tabulate", "plot"]


@pytest.mark.parametrize("rule", RULES)
def test_a_full_disk_is_said_and_harms_nothing(every, tmp_path, rule):
    output = one_of_each(every)[rule]
    folder = shutil.copytree(every.folder, tmp_path / "repo", symlinks=True)
    results, path = folder / "results", folder / "results" / output.replace("tables/every.csv", "tables/every.json")
    before = held(results)
    path.unlink()
    without, failures = held(results), 0
    for size in LIMITS:
        with full_at(size):
            code, said = run_here(folder, every.commands[output])
        if code == 0:  # all its files are smaller
            break
        failures += 1
        assert code == 1
        last = said.splitlines()[-1]
        assert last.startswith("error: ")
        assert "disk is full" in last
        assert "File too large" in last
        assert not path.exists()
        assert {name: found for name, found in held(results).items() if name in without} == without
        assert not [name for name in held(results) if name.endswith(".tmp")]
    assert failures
    code, said = run_here(folder, every.commands[output])
    assert code == 0, said
    after = held(results)
    changing = {name for name in after if name.endswith(".run.json") or name.startswith(("tables/", "figures/"))}
    assert {name: found for name, found in after.items() if name not in changing} == {
        name: found for name, found in before.items() if name not in changing
    }


# -- results that may not be written: root writes all the same, so what lets it do so is taken from it --------------

PLAIN = [] if os.getuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
UNPRIVILEGED = pytest.mark.skipif(bool(PLAIN) and shutil.which("setpriv") is None, reason="root, and no setpriv")


def unprivileged(every, *words):
    """A command of this Python that writes only what it has the right to."""
    command = [*PLAIN, sys.executable, *words]
    environment = {**os.environ, "PYTHONPATH": str(every.folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=every.folder, env=environment, capture_output=True, text=True, timeout=every.patience, check=False
    )


def may_write(folder, yes):
    """Give or take the right to write a folder and all that is in it."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200 if yes else path.stat().st_mode & ~0o222)


@pytest.fixture
def locked_away(every, tmp_path):
    """Finished results that nobody may write."""
    found = Every(shutil.copytree(every.folder, tmp_path / "repo", symlinks=True))
    found.commands = every.commands
    may_write(found.results, False)
    yield found
    may_write(found.results, True)


@UNPRIVILEGED
def test_results_that_may_not_be_written_can_be_read_and_are_left_as_they_are(locked_away):
    before = held(locked_away.results)
    for command in (["ddlib.jobs.show", "every"], ["ddlib.jobs.verify"], ["ddlib.jobs.status"]):
        done = unprivileged(locked_away, "-m", *command)
        assert done.returncode == 0, done.stdout + done.stderr
    locked_away.config["experiments"]["m"]["settings"] = {
        **locked_away.config["experiments"]["m"]["settings"],
        "inner_steps": 2,
    }
    locked_away.save()
    done = unprivileged(locked_away, "-m", "snakemake", "--cores", "2")
    assert done.returncode == 1
    assert "Write-protected output files for rule" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    module, arguments = locked_away.commands["condensed/m/per1/seed0/stage0/phase0.json"]
    done = unprivileged(locked_away, "-m", module, *arguments)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: results/")
    assert "may not be written by" in last
    assert "Permission denied" in last
    assert held(locked_away.results) == before


@pytest.mark.soak
def test_a_workflow_goes_on_from_a_full_disk_with_the_same_results(every, tmp_path):
    """The whole suite on a tiny file system that grows each time it is full."""
    small = Every.new(tmp_path / "repo")
    small.results.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", small.results], check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        said = []
        for size in (200, 500, 800, 1100, 1400, 1800, 2500, 10_000):
            done = small.snakemake()
            if done.returncode == 0:
                break
            said.append(done.stdout + done.stderr)
            assert "Traceback" not in said[-1], said[-1]
            assert "No space left on device" in said[-1] or "there are only" in said[-1], said[-1]
            subprocess.run(["mount", "-o", f"remount,size={size}k", small.results], check=True)
        assert done.returncode == 0
        assert len(said) >= 3
        assert not [name for name in held(small.results) if name.endswith(".tmp") or name.startswith("checkpoints/")]
        tables = [pd.read_csv(each.results / "tables/every.csv").drop(columns=COSTS) for each in (small, every)]
        pd.testing.assert_frame_equal(*tables)
        assert small.job("verify").returncode == 0
    finally:
        subprocess.run(["umount", "-l", small.results], check=True)
