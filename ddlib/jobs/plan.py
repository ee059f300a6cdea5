"""What a suite will take (`make plan SUITE=x`): jobs, disk, and hours from steps timed on this machine."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ddlib import disk, project, todo
from ddlib.jobs.amounts import bytes_of, work
from ddlib.jobs.job import guarded
from ddlib.paths import BLOCK, MANIFESTS, per
from ddlib.plan import Plan
from ddlib.pool_settings import kept_epochs

if TYPE_CHECKING:
    from ddlib.methods.cost import Step, Work

PAPER_SCALE_HOURS = 500


@dataclass
class Tally:
    """Sums over jobs by rule: how many, hours on one device, bytes."""

    jobs: Counter[str] = field(default_factory=Counter)
    hours: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, float] = field(default_factory=dict)

    def add(self, rule: str, hours: float, size: float) -> None:
        """One job more."""
        self.jobs[rule] += 1
        self.hours[rule] = self.hours.get(rule, 0.0) + hours
        self.bytes[rule] = self.bytes.get(rule, 0.0) + size


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(prog="python -m ddlib.jobs.plan", description=__doc__)
    options.add_argument("suite", help="a suite, or an experiment, of config.yaml")
    given = options.parse_args()
    plan = project.load()
    suite = project.suite(plan, given.suite)
    open_jobs = {todo.manifest(job) for job in todo.to_do(plan, suite)}
    clock = Clock(plan.config["machine"])
    left, whole = Tally(), Tally()
    for job in plan.jobs(suite):
        hours, size = clock.hours(work(plan, *job)), bytes_of(plan, *job)
        whole.add(job[0], hours, size)
        if todo.manifest(job) in open_jobs:
            left.add(job[0], hours, size)
    print(table(suite, left, whole))
    print("".join(f"\n{line}" for line in pools(plan, suite, open_jobs)), end="")
    print(clock.told())
    print("".join(f"\n{line}" for line in together(plan, suite, clock)), end="")
    print(verdict(suite, left, whole, clock))


class Clock:
    """Times each kind of step once, on the device jobs would use."""

    def __init__(self, machine: dict[str, Any]) -> None:
        import torch

        self.machine, self.began = machine, time.monotonic()
        self.known: dict[str, tuple[float, int, int]] = {}  # key -> seconds, images timed with, images asked for
        self.timed: dict[str, float] = {}
        self.device = "cuda" if torch.cuda.is_available() and machine["device"] != "cpu" else "cpu"
        torch.set_num_threads(machine["threads"])
        cores = f"CPU ({machine['threads']} threads)"
        self.description = torch.cuda.get_device_name() if self.device == "cuda" else cores

    def hours(self, work: Work) -> float:
        """Hours of a job's steps on one device."""
        total = 0.0
        for step, count in work:
            if step.key not in self.known:
                self.known[step.key] = self._timed(step)
            total += count * self.known[step.key][0] / 3600
        return total

    def _timed(self, step: Step) -> tuple[float, int, int]:
        """(seconds, images timed with, images asked for); steps that are timed with as many share that."""
        from ddlib.methods.cost import affordable, seconds

        images = affordable(step, self.device)
        alike = replace(step, images=images)
        if alike.key not in self.timed:
            self.timed[alike.key] = seconds(alike, self.device, self.machine["precision"])[0]
        return self.timed[alike.key] * step.images / images, images, step.images

    def told(self) -> str:
        """What was measured."""
        rows = [("a step", "seconds", "timed with")]
        for key, (taken, timed, asked) in sorted(self.known.items()):
            rows.append((key, f"{taken:.4f}", "all images" if timed >= asked else f"{timed} images, scaled"))
        spent = time.monotonic() - self.began
        return f"\nMeasured on {self.description} in {spent:.0f} s, not compiled:\n{disk.columns(rows)}"


def together(plan: Plan, suite: str, clock: Clock) -> list[str]:
    """What condensing several ipc of an experiment together (`budget`) saves, or would save."""
    lines = []
    for name in plan.suites[suite]["experiments"]:
        entry = plan.experiments[name]
        ipcs = sorted(entry["ipc"])
        if len(ipcs) < 2 or not plan.sharable(name):
            continue
        names = {"experiment": name, "seed": entry["seeds"][0], "stage": 0, "phase": 0}
        once, apart = (
            sum(clock.hours(work(plan, "condense", {**names, "per": each})) for each in way)
            * entry["phases"] * len(entry["seeds"])
            for way in ([per(ipcs)], ipcs)
        )  # fmt: skip
        takes = "takes" if entry["shared"] else "would take"
        how = f"condensing ipc {', '.join(map(str, ipcs))} together (budget) {takes} {_hours(once)} h"
        lines.append(f"{name}: {how} instead of {_hours(apart)} h")
    return lines


def pools(plan: Plan, suite: str, open_jobs: Container[str]) -> list[str]:
    """What the snapshots of each pool take, what is still to be written, and whether there is room for it."""
    from ddlib.methods.room import parameters

    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for rule, names in plan.jobs(suite):
        if rule == "train_block":
            found.setdefault(names["pool"], []).append((rule, names))
    lines, needed = [], 0.0
    for pool, jobs in found.items():
        spec = plan.spec(*jobs[0])
        members, each = len(jobs) * len(spec["members"]), bytes_of(plan, *jobs[0])
        ahead = each * sum(todo.manifest(job) in open_jobs for job in jobs)
        kept = len(kept_epochs(spec["snapshots"], spec["training"]["epochs"]))
        numbers = parameters(spec["network"], spec["dataset"])
        size, left = disk.readable(each * len(jobs)), disk.readable(ahead)
        lines.append(
            f"pool {pool}: {members} members x {kept} snapshots x {numbers:,} numbers x 4 bytes = {size}, {left} to do"
        )
        needed += ahead
    if needed > (there := disk.free(BLOCK)):
        lines.append(f"no room for these: {disk.readable(there)} are free here, {disk.readable(needed)} are to do")
    return lines


def table(suite: str, left: Tally, whole: Tally) -> str:
    """Jobs, disk and hours by rule: still to do, and in all."""
    rows: list[tuple[str, ...]] = [("rule", "jobs to do", "in all", "disk in all", "device-hours to do", "in all")]
    for rule in (rule for rule in MANIFESTS if whole.jobs[rule]):
        hours = [_hours(tally.hours.get(rule, 0.0)) for tally in (left, whole)]
        rows.append((rule, str(left.jobs[rule]), str(whole.jobs[rule]), disk.readable(whole.bytes[rule]), *hours))
    size = disk.readable(sum(whole.bytes.values()))
    hours = [_hours(sum(tally.hours.values())) for tally in (left, whole)]
    rows.append(("all", str(left.jobs.total()), str(whole.jobs.total()), size, *hours))
    return f"suite {suite} (beside these: its table and figure)\n{disk.columns(rows)}"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3f}" if hours < 1 else f"{hours:.1f}"


def verdict(suite: str, left: Tally, whole: Tally, clock: Clock) -> str:
    """What the hours are, and are not."""
    hours = sum(left.hours.values())
    lines = [
        "Hours are extrapolated: steps timed above x steps asked for, one device at work. Not in them: starting jobs "
        "(seconds each), reading and cropping images, testing students, and what compiling saves. To see what really "
        "ran: make status."
    ]
    if hours > PAPER_SCALE_HOURS:
        lines.append(
            f"This is paper scale: thousands of GPU-hours. As measured on {clock.description} it is about "
            f"{hours:,.0f} device-hours. "
            f"{'Start it where there are GPUs, and' if clock.device == 'cpu' else 'Spread it over GPUs, and'} "
            f"run `make plan SUITE={suite}` there first."
        )
    return "\n" + "\n".join(lines)


if __name__ == "__main__":
    guarded(main)
