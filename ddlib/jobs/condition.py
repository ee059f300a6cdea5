"""Networks for a stage of a progressive distillation: trained on the stages before it, then, where the method starts
from a pool, on real data as the pool's were. Killed and started again, a member goes on from its last epoch there.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from ddlib.artifacts import read_manifest
from ddlib.jobs.condense import earlier_stages
from ddlib.jobs.job import Job, at_work, guarded, parser
from ddlib.jobs.train_block import plan_disk, train_members


def main() -> None:
    """Entry point."""
    options = parser(__doc__, gpu=True)
    options.add_argument("--train", type=Path, required=True)
    options.add_argument("--earlier", type=Path, nargs="+", required=True, help="manifests of the stages before")
    options.add_argument("--before", type=Path, help="the block of the same networks one stage before")
    given = options.parse_args()
    spec = given.spec
    tags = {"dataset": spec["dataset"]["source"], "seed": spec["seed"], "stage": spec["stage"], "ipc": spec["ipc"]}
    if len(given.output.parts) >= 6:
        tags["experiment"] = given.output.parts[-6]
    with at_work("condition", given, tags) as job:
        _condition(given, job)


def _condition(given: Namespace, job: Job) -> None:
    from ddlib.data.real import RealData
    from ddlib.pool.condition import ConditionedMember

    spec = given.spec
    plan_disk("condition", spec, spec["snapshots"], given.output.parent)
    data = RealData.load(given.train, job.device, job.machine)
    earlier = earlier_stages(given.earlier)
    assert earlier is not None
    folder, how = given.output.parent, (job.machine["compile"], job.machine["precision"], job.events)

    def make(member: int) -> ConditionedMember:
        return ConditionedMember(spec, member, data, earlier, _start(given, member), folder, *how)

    train_members(given, job, make)


def _start(given: Namespace, member: int) -> dict[str, Any] | None:
    """The snapshot of the member before any real data, one stage before (None: it begins anew)."""
    if given.before is None:
        return None
    manifest = read_manifest(given.before, "block")
    entry = manifest["files"][f"member{member}/epoch0"]
    return {"file": str(given.before.parent / entry["path"]), "sha256": entry["sha256"]}


if __name__ == "__main__":
    guarded(main)
