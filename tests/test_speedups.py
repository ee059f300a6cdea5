"""Speed-ups: named numbers of outer iterations, the same images as the longer run's snapshots; what is assumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import problem, recipe

from ddlib import presets, project
from ddlib.config import ConfigError, merged, read, resolve
from ddlib.methods.driver import condense
from ddlib.plan import Plan
from ddlib.settings import method_settings

ROOT = Path(__file__).parents[1]


def plan(changes: dict[str, Any]) -> Plan:
    """Of the repository's configuration with `changes`."""
    return Plan(resolve(merged(read(ROOT / "config.yaml"), changes), read(project.SCHEMA)))


@pytest.mark.parametrize("method", ["acc_dd", "drop2sparse"])
@pytest.mark.parametrize("speedup, outer", [(1, 2000), (5, 400), (10, 200), (20, 100)])
def test_a_speedup_is_a_number_of_outer_iterations(method: str, speedup: int, outer: int) -> None:
    settings = method_settings(method, "cifar10", {"speedup": speedup})
    assert settings["outer_iterations"] == outer
    assert "speedup" not in settings


def test_defaults_are_the_papers() -> None:
    assert method_settings("acc_dd", "cifar10", {})["outer_iterations"] == 400
    assert method_settings("drop2sparse", "cifar10", {})["outer_iterations"] == 2000
    assert method_settings("idc", "cifar10", {})["outer_iterations"] == 2000


def test_outer_iterations_given_are_taken_as_they_are_and_both_are_refused() -> None:
    assert method_settings("acc_dd", "cifar10", {"outer_iterations": 10})["outer_iterations"] == 10
    both = {"experiments": {"cifar10_acc_dd": {"settings": {"outer_iterations": 10, "speedup": 5}, "evaluate_at": []}}}
    with pytest.raises(ConfigError, match="speedup is a number of outer iterations by another name: give one"):
        plan(both)


def test_a_speedup_that_is_not_published_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"speedup: 7 is not one of 1, 5, 10, 20"):
        plan({"experiments": {"cifar10_acc_dd": {"settings": {"speedup": 7}, "evaluate_at": []}}})


@pytest.mark.parametrize("method", ["acc_dd", "drop2sparse"])
def test_a_shorter_run_is_the_longer_ones_snapshot(method: str) -> None:
    """20x lies on the way of 5x: one run gives all speed-ups, bit for bit."""
    asked = problem()
    long = condense(recipe(method, asked, outer_iterations=4), asked, (1, 2))
    for outer in (1, 2):
        short = condense(recipe(method, asked, outer_iterations=outer), asked)
        assert torch.equal(short.images, long.snapshots[outer]["images"])


def test_published_numbers_stand_beside_the_papers_own_start_alone() -> None:
    def published(**experiment: Any) -> list[str]:
        return plan({"experiments": {"cifar10_acc_dd": experiment}}).groups("cifar10_acc_dd")[0]["as_published"]

    assert published() == ["idc"]
    assert published(view={"members": 4, "epochs": [2]}) == []
    assert published(pool="cifar10_mini", view={"members": 5, "epochs": [2]}) == []
    assert published(settings={"perturb_high": 0.1}) == []


def test_what_is_assumed_is_said() -> None:
    asked = plan({})
    lines = asked.assumed("cifar")
    assert [line.split(":")[0] for line in lines] == [
        "cifar10_drop2sparse at ipc 10, 50",
        "cifar100_drop2sparse at ipc 1, 10, 50",
    ]
    assert all(presets.ASSUMED["drop2sparse"]["what"] in line for line in lines)
    assert asked.assumed("digits") == []
