"""Killed at any moment, the workflow started again ends with the same results and leaves nothing behind."""

import os
import random
import shutil
import signal
import time
from collections import Counter

import pytest
from every import GPU_RULES, Every
from kills import POWER, SNAKEMAKE, Killer, content, jobs, left_behind, processes, started, table, until
from test_importer import Memory
from tiny import Tiny, condensed

from ddlib.importer import Importer

KILLS = 50


def check(whole, killed, suite, *targets):
    """The results of a workflow that was killed are those of one that was not; nothing is left, nothing to do."""
    expected, found = content(whole), content(killed)
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []
    assert table(killed, suite).equals(table(whole, suite))
    assert left_behind(killed) == []
    assert killed.plan(*targets) == set()
    store = Memory()
    Importer(killed.results, store, print).update()
    last = {run.output: run for run in store.runs() if run.superseded == "false"}
    assert {run.state for run in last.values()} == {"finished"}
    assert {run.state for run in store.runs()} <= {"finished", "failed", "interrupted", "stopped"}


def stopped_at_work(snakemake, folder):
    """The one job of a Snakemake, stopped (SIGSTOP) once it is at work: its process id."""

    def at_work():
        assert snakemake.poll() is None, "it ended too soon"
        holders = [path.read_text().split()[1:2] for path in (folder / "results/checkpoints").rglob("*.lock")]
        return [pid for pid in jobs(folder) if [str(pid)] in holders]

    until(at_work)
    (pid,) = at_work()
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_a_job_all_at_once_and_snakemake_alone_killed(tmp_path_factory, tmp_path):
    whole = Tiny.finished(tmp_path_factory, tmp_path / "whole")
    killed = Tiny.finished(tmp_path_factory, tmp_path / "killed")
    killed.config["machine"]["checkpoint_seconds"] = 0
    killed.save()
    target, log = f"results/{condensed('a')}", tmp_path / "log"
    shutil.rmtree((killed.folder / target).parent)

    job_alone = started(killed, log, target)
    os.kill(stopped_at_work(job_alone, killed.folder), signal.SIGKILL)
    assert job_alone.wait(60) == 1
    assert "Error in rule condense" in log.read_text()

    all_at_once = started(killed, log, target)
    stopped_at_work(all_at_once, killed.folder)
    os.killpg(all_at_once.pid, signal.SIGKILL)
    all_at_once.wait()
    assert killed.snakemake("--unlock").returncode == 0

    snakemake_alone = started(killed, log, target)
    orphan = stopped_at_work(snakemake_alone, killed.folder)
    snakemake_alone.kill()
    snakemake_alone.wait()
    assert killed.snakemake("--unlock").returncode == 0
    again = started(killed, log, target)
    until(lambda: f"(process {orphan} on " in log.read_text())
    os.kill(orphan, signal.SIGCONT)
    assert again.wait(60) == 0
    assert f"{target} was finished by that process, from the same inputs" in log.read_text()
    until(lambda: not processes(killed.folder))
    check(whole, killed, "tiny", target)


@pytest.mark.soak
def test_fifty_kills_of_jobs_snakemake_and_power_change_no_result(tmp_path_factory, tmp_path):
    whole = Every.finished(tmp_path_factory, tmp_path / "whole")
    quota = dict.fromkeys(sorted(GPU_RULES), 5) | {SNAKEMAKE: 8, POWER: 7}
    assert sum(quota.values()) == KILLS
    moments, kills, began = random.Random(0), [], time.monotonic()
    for attempt in range(3):  # what was too short to be killed so often is killed in another folder
        killed = Every.new(tmp_path / f"killed{attempt}")
        killed.config["machine"]["checkpoint_seconds"] = 0
        killer = Killer(killed, whole.results, quota, moments)
        killer.run()
        check(whole, killed, "every")
        kills, quota = kills + killer.kills, killer.quota
        print(f"{len(kills)} kills {dict(Counter(kills))}, {killer.starts} starts, {time.monotonic() - began:.0f} s,")
        print(f"{killer.waited} waited for an orphan, {killer.taken} took what it made; {killer.lost_s:.1f} s lost")
        if len(kills) == KILLS:
            break
    assert len(kills) == KILLS, f"still to be killed: {+quota}"
