"""Train a block of pool members on real data; killed and started again, it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddlib.artifacts import write_manifest
from ddlib.jobs.job import at_work, guarded, parser


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

        data = RealData.load(given.train, job.device)
        files: dict[str, Path] = {}
        result: dict[str, Any] = {"members": {}}
        seconds_before = 0.0
        with job.checkpoint().held():
            for member in spec["members"]:
                own = job.checkpoint(f".member{member}")
                job.go_on_as(own)
                training = MemberTraining(
                    spec,
                    member,
                    data,
                    given.output.parent,
                    job.machine["compile"],
                    job.machine["precision"],
                    job.events,
                )
                own.execution = job.computes(training.compiler)
                trained = training.run(own)
                seconds_before += own.seconds_before
                job.finished.append(own)
                files |= trained["files"]
                result["members"][str(member)] = trained["last"]
                result["epochs"] = trained["epochs"]
            write_manifest(given.output, "block", spec, files, result)
            job.facts["seconds_before"] = seconds_before


if __name__ == "__main__":
    guarded(main)
