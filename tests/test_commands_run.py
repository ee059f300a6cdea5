"""Commands work as typed (workflow/plugins): real Snakemake, as a user starts it, on a tiny workflow."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TARGET = "results/tables/cifar.csv"
OTHER = "results/tables/digits.csv"
SNAKEFILE = """
rule all:
    input: "results/tables/all.csv"
rule table:
    output: "results/tables/{suite}.csv"
    resources: gpu=1
    shell: "echo {wildcards.suite} > {output}"
rule spawned:
    output: "results/spawned.txt"
    resources: gpu=1
    run:
        import sys
        assert "--target-jobs" in sys.argv and "--" not in sys.argv
        open(output[0], "w").write(repr(sys.argv))
"""


def test_importing_the_plugin_elsewhere_changes_nothing():
    code = "import sys, snakemake_logger_plugin_ddlib; print(sys.argv[1:], 'snakemake.cli' in sys.modules)"
    typed = ["--resources", "gpu=4", TARGET]
    assert _run([sys.executable, "-c", code, *typed]).stdout.strip() == f"{typed} False"


@pytest.fixture
def workflow(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    profile = tmp_path / "profiles" / "default"
    profile.mkdir(parents=True)
    (profile / "profile.yaml").write_text("keep-going: true\nrerun-triggers: [mtime]\n")
    return tmp_path


@pytest.mark.parametrize(
    "typed",
    [
        "-n --cores 8 --resources gpu=4 T",
        "--cores 8 -n --resources gpu=4 T",
        "--cores 8 --resources gpu=4 T -n",
        "-n --cores 8 --resources=gpu=4 T",
        "-n --cores 8 --resources gpu=4 -- T",
        "T -n --cores 8 --resources gpu=4",
        "-n --cores 8 --resource gpu=4 T",
        "-n --cores 8 --config seed=1 T",
        "-n --cores 8 --set-resources table:gpu=2 T",
        "-n --cores 8 --default-resources mem_mb=10 T",
    ],
)
def test_snakemake_plans_what_was_typed(workflow, typed):
    done = _run([_snakemake(), *_words(typed)], cwd=workflow)
    assert done.returncode == 0, done.stderr
    assert f"output: {TARGET}" in done.stdout
    assert "all.csv" not in done.stdout


def test_targets_on_both_sides_through_python_m(workflow):
    done = _run([sys.executable, "-m", "snakemake", *_words("-n T --cores 8 --resources gpu=4 O")], cwd=workflow)
    assert done.returncode == 0, done.stderr
    assert f"output: {TARGET}" in done.stdout
    assert f"output: {OTHER}" in done.stdout


def test_a_mistake_stays_an_error(workflow):
    for typed, answer in [("gpu T", "ValueError"), ("gpu=4 mem_mb T", "No rule to produce mem_mb")]:
        done = _run([_snakemake(), "-n", "--cores", "8", "--resources", *_words(typed)], cwd=workflow)
        assert done.returncode == 1
        assert answer in done.stdout + done.stderr


def test_it_runs_and_spawned_jobs_are_left_alone(workflow):
    typed = ["--cores", "2", "--resources", "gpu=1", TARGET, "results/spawned.txt"]
    done = _run([_snakemake(), *typed], cwd=workflow)
    assert done.returncode == 0, done.stderr
    assert (workflow / TARGET).read_text() == "cifar\n"
    assert "--target-jobs" in (workflow / "results/spawned.txt").read_text()


def _words(text):
    return [{"T": TARGET, "O": OTHER}.get(word, word) for word in text.split()]


def _snakemake():
    beside = Path(sys.executable).with_name("snakemake")
    found = str(beside) if beside.exists() else shutil.which("snakemake")
    assert found, "snakemake is not installed beside this Python"
    return found


def _run(command, cwd=None):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
