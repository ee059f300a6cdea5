"""Train a block of pool members on real data; killed and started again, it goes on."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddlib import disk
from ddlib.artifacts import write_manifest
from ddlib.jobs.job import Job, at_work, guarded, parser, say
from ddlib.pool_settings import kept_epochs


def main() -> None:
    """Entry point."""
    options = parser(__doc__, gpu=True)
    options.add_argument("--train", type=Path, required=True)
    given = options.parse_args()
    spec = given.spec
    tags = {"pool": given.output.parent.name, "dataset": spec["dataset"]["source"], "seed": spec["seed"]}
    with at_work("train_block", given, tags) as job:
        from ddlib.data.real import RealData
        from ddlib.pool.member import MemberTraining

        plan_disk("train_block", spec, kept_epochs(spec["snapshots"], spec["training"]["epochs"]), given.output.parent)
        data = RealData.load(given.train, job.device, job.machine)
        how = job.machine["compile"], job.machine["precision"], job.events
        train_members(given, job, lambda member: MemberTraining(spec, member, data, given.output.parent, *how))


def train_members(given: Namespace, job: Job, make: Callable[[int], Any]) -> None:
    """Train what `make` gives for every member of a block, one after the other, each with a checkpoint of its own, and
    write the block's manifest."""
    files: dict[str, Path] = {}
    result: dict[str, Any] = {"members": {}}
    seconds_before = 0.0
    for member in given.spec["members"]:
        own = job.checkpoint(f".member{member}")
        job.go_on_as(own)
        training = make(member)
        own.execution = job.computes(training.compiler)
        trained = training.run(own)
        seconds_before += own.seconds_before
        job.finished.append(own)
        files |= trained["files"]
        result["members"][str(member)] = trained["last"]
        result["epochs"] = trained["epochs"]
    write_manifest(given.output, "block", given.spec, files, result)
    job.facts["seconds_before"] = seconds_before


def plan_disk(rule: str, spec: Mapping[str, Any], kept: Sequence[int], folder: Path) -> None:
    """Say what the snapshots (of epochs `kept`) of a block of `rule` will take. ValueError if that, less what is there
    already, is not free."""
    from ddlib.methods.room import left

    members = spec["members"]
    needed = left(rule, spec, (0, 0), 0)
    there = [folder / f"member{member}" / f"epoch{epoch}.safetensors" for member in members for epoch in kept]
    what = f"the {len(there)} snapshots of {len(members)} members ({len(kept)} epochs each)"
    say(f"{what} take {disk.readable(needed)}; {disk.readable(disk.free(folder))} are free")
    disk.check_room(folder, needed - disk.total(file for file in there if file.is_file()), what)


if __name__ == "__main__":
    guarded(main)
