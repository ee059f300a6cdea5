"""What is refused, and how it is said: copied results, bad configurations, two Snakemakes at once."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from tiny import Tiny, card, condensed, scored, shown


@pytest.fixture
def tiny(tmp_path_factory, tmp_path):
    return Tiny.finished(tmp_path_factory, tmp_path / "repo")


@pytest.fixture
def copied(tiny):
    """Results without Snakemake's record."""
    shutil.rmtree(tiny.folder / ".snakemake")
    return tiny


def test_copied_results_of_the_same_settings_are_used(copied):
    assert copied.plan() == set()


def test_copied_results_of_other_settings_are_refused_until_adopted(copied):
    settings = copied.config["experiments"]["b"]["settings"] = dict(copied.config["experiments"]["b"]["settings"])
    settings["inner_steps"] = 2
    path = f"results/{condensed('b')}"
    said = copied.refused()
    assert "settings.inner_steps is 1, asked is 2" in said
    assert f"make adopt FILE={path}" in said
    manifest = copied.folder / path
    before = json.loads(manifest.read_text())
    time_before = manifest.stat().st_mtime_ns
    done = copied.job("adopt", str(manifest))  # an absolute path will do
    assert done.returncode == 0, done.stderr
    assert "settings.inner_steps is 1, asked is 2" in done.stdout
    after = json.loads(manifest.read_text())
    assert after.pop("adopted") == {"from": before["spec"]}
    assert after["spec"].pop("settings") == before["spec"].pop("settings") | {"inner_steps": 2}
    assert after.pop("sha256") != before.pop("sha256")
    assert after == before
    assert manifest.stat().st_mtime_ns == time_before
    assert copied.plan() == set()
    assert "nothing to adopt" in copied.job("adopt", path).stdout


def test_adopting_back_forgets(copied):
    copied.config["protocols"]["quick"]["repeats"] = 2
    copied.save()
    path = f"results/{scored('a')}"
    before = json.loads((copied.folder / path).read_text())
    assert copied.job("adopt", path).returncode == 0
    copied.config["protocols"]["quick"]["repeats"] = 1
    copied.save()
    assert copied.job("adopt", path).returncode == 0
    assert json.loads((copied.folder / path).read_text()) == before  # to the seal


def test_what_cannot_be_adopted(copied):
    copied.config["protocols"]["quick"]["repeats"] = 2
    copied.save()
    table = copied.results / scored("a").replace(".json", ".csv")
    text = table.read_text()
    table.write_text(text + "x")
    wrong = copied.job("adopt", f"results/{scored('a')}")
    assert wrong.returncode == 1
    assert f"results/{scored('a')} cannot be adopted: " in wrong.stderr
    assert f"results/{scored('a')[:-5]}.csv is not the file its manifest describes" in wrong.stderr
    table.unlink()
    assert "which does not exist: it cannot be adopted" in copied.job("adopt", f"results/{scored('a')}").stderr
    assert "is no manifest of the workflow" in copied.job("adopt", "config.yaml").stderr
    stranger = copied.results / scored("ab")
    stranger.parent.mkdir(parents=True)
    stranger.write_text("{}")
    assert "has no experiment 'ab'; " in copied.job("adopt", f"results/{scored('ab')}").stderr


def test_a_damaged_manifest_is_named(copied):
    (copied.results / card("a")).write_text("{")
    assert f"results/{card('a')} is damaged" in copied.refused()


def test_every_problem_of_a_configuration_is_named_before_any_job(tmp_path):
    tiny = Tiny.new(tmp_path / "repo")
    a = tiny.config["experiments"]["a"]
    a["settings"] = {"image_lr": "1e-3", "inner_step": 1, "factor": "two", "metric": "mze"}
    a["students"] = "goup"
    said = tiny.refused()
    assert "experiments.a.settings: unknown setting 'inner_step'; did you mean 'inner_steps'?" in said
    assert "experiments.a.settings.factor: 'two' is a str, it must be a int such as 2" in said
    assert "experiments.a.settings.metric: 'mze' is not one of" in said
    assert "experiments.a.students: no network or group of students is called 'goup'; did you mean 'group'?" in said
    assert "image_lr" not in said
    assert not list(tiny.results.rglob("*.json")) if tiny.results.exists() else True


def test_a_configuration_of_the_wrong_form_is_refused(tmp_path):
    tiny = Tiny.new(tmp_path / "repo")
    tiny.config["machine"] |= {"tracking": False, "thread": 1}
    tiny.config["experiments"]["Bad-Name"] = tiny.config["experiments"]["b"]
    said = tiny.refused()
    assert "machine.tracking: False is not one of local, none (YAML reads off, no and false alike: quote" in said
    assert "machine: unknown key 'thread'; did you mean 'threads'?" in said
    assert "'Bad-Name' is no name" in said


def test_an_unknown_suite_is_refused(tiny):
    assert "results/tables/tinny.csv" in tiny.refused("results/tables/tinny.csv")


def test_two_snakemakes_at_once_and_a_stale_lock(tiny):
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "results/tables/a.csv"]
    environment = {**os.environ, "PYTHONPATH": str(tiny.folder)}
    first = subprocess.Popen(
        command, cwd=tiny.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 60
        while not any((tiny.folder / ".snakemake" / "locks").glob("*")):
            assert time.monotonic() < until
            assert first.poll() is None
            time.sleep(0.01)
        os.kill(first.pid, signal.SIGSTOP)
        second = tiny.snakemake("results/figures/a.png")
        assert second.returncode == 1
        assert "cannot be locked" in second.stderr
        assert not (tiny.results / "figures" / "a.png").exists()
        assert "a Snakemake is at work" in tiny.job("clean", "tiny", "--yes").stderr
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first.pid, signal.SIGKILL)
        first.wait()
    stale = tiny.snakemake("results/figures/a.png")
    assert stale.returncode == 1
    assert "--unlock" in stale.stderr
    assert tiny.snakemake("--unlock").returncode == 0
    assert tiny.plan("results/figures/a.png") == shown("a")


def test_two_snakemakes_at_once_on_different_targets(tiny):
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "results/tables/a.csv"]
    environment = {**os.environ, "PYTHONPATH": str(tiny.folder)}
    with subprocess.Popen(command, cwd=tiny.folder, env=environment, stderr=subprocess.DEVNULL) as first:
        until = time.monotonic() + 60
        while not any((tiny.folder / ".snakemake" / "locks").glob("*")):
            assert time.monotonic() < until
            time.sleep(0.01)
        os.kill(first.pid, signal.SIGSTOP)
        try:
            second = tiny.snakemake("results/tables/b.csv")
        finally:
            os.kill(first.pid, signal.SIGCONT)
        assert second.returncode == 0, second.stderr
        assert first.wait(120) == 0
    assert tiny.plan("results/tables/a.csv", "results/tables/b.csv") == set()


@pytest.mark.parametrize(("tracking", "imported"), [("none", False), ("local", True)])
def test_tracking(tiny, tracking, imported):
    tiny.config["machine"]["tracking"] = tracking
    tiny.save()
    done = tiny.snakemake("results/tables/a.csv")
    assert done.returncode == 0, done.stderr
    assert (tiny.results / "mlflow.db").exists() is imported
    assert ("new events brought into" in done.stdout + done.stderr) is imported
