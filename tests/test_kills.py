"""Killed at any moment, the workflow started again ends with the same results and leaves nothing behind."""

import random
import time
from collections import Counter

import pytest
from every import GPU_RULES, Every
from kills import POWER, SNAKEMAKE, Killer, content, left_behind, table
from test_importer import Memory

from ddlib.importer import Importer

KILLS = 50


def check(whole, killed, suite):
    """The results of a workflow that was killed are those of one that was not; nothing is left, nothing to do."""
    expected, found = content(whole), content(killed)
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []
    assert table(killed, suite).equals(table(whole, suite))
    assert left_behind(killed) == []
    assert killed.plan() == set()
    store = Memory()
    Importer(killed.results, store, print).update()
    last = {run.output: run for run in store.runs() if run.superseded == "false"}
    assert {run.state for run in last.values()} == {"finished"}
    assert {run.state for run in store.runs()} <= {"finished", "failed", "interrupted", "stopped"}


@pytest.mark.soak
def test_fifty_kills_of_jobs_snakemake_and_power_change_no_result(tmp_path_factory, tmp_path):
    whole = Every.finished(tmp_path_factory, tmp_path / "whole")
    quota = {rule: 5 for rule in sorted(GPU_RULES)} | {SNAKEMAKE: 8, POWER: 7}
    assert sum(quota.values()) == KILLS
    moments, kills, began = random.Random(0), [], time.monotonic()
    for attempt in range(3):  # what was too short to be killed so often is killed in another folder
        killed = Every.new(tmp_path / f"killed{attempt}")
        killed.config["machine"]["checkpoint_seconds"] = 0
        killer = Killer(killed, quota, moments)
        killer.run()
        check(whole, killed, "every")
        kills, quota = kills + killer.kills, killer.quota
        print(f"{len(kills)} kills {dict(Counter(kills))}, {killer.starts} starts, {killer.refused} jobs refused while")
        print(f"an orphan worked, {killer.lost_s:.1f} s since a checkpoint; {time.monotonic() - began:.0f} s in all")
        if len(kills) == KILLS:
            break
    assert len(kills) == KILLS, f"still to be killed: {+quota}"
