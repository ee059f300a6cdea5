"""Score random crops of real images with an observer; killed and started again, it goes on."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ddlib.artifacts import read_manifest, write_manifest
from ddlib.jobs.job import Job, at_work, guarded, parser, say


def main() -> None:
    """Entry point."""
    options = parser(__doc__, gpu=True)
    options.add_argument("--train", type=Path, required=True)
    options.add_argument("--observer", type=Path, required=True)
    given = options.parse_args()
    tags = {"observer": given.observer.parent.name, "dataset": given.spec["dataset"]["source"]}
    with at_work("score", given, {**tags, "seed": given.spec["seed"]}) as job:
        _score(given, job)


def _score(given: Namespace, job: Job) -> None:
    from ddlib.data.native import open_native
    from ddlib.data.real import RealData
    from ddlib.pool.observer import Observer
    from ddlib.sets.realism import score_crops

    spec = given.spec
    checkpoint = job.checkpoint()
    job.go_on_as(checkpoint)
    data = RealData.load(given.train, job.device, job.machine)
    how = job.machine["precision"], job.machine["compile"], data.classes * spec["mipc"] * spec["crops"]
    observer = Observer.load(given.observer, job.device, *how)
    checkpoint.execution = job.computes(observer.compiler)
    observer.fits(data, str(given.observer))
    dataset = read_manifest(given.train, "data")["files"]["tensors"]["sha256"]
    job.events.dataset(data.name, dataset, given.train)
    table = score_crops(
        open_native(given.train, data, job.machine),
        data,
        observer,
        classes=range(data.classes),
        mipc=spec["mipc"],
        crops=spec["crops"],
        size=data.height,
        factor=spec["factor"],
        seed=spec["seed"],
        device=job.device,
        threads=job.machine["threads"] + 1,
        checkpoint=checkpoint,
        events=job.events,
        dataset=dataset,
        observer=observer.digest,
    )
    path = given.output.with_suffix(".safetensors")
    table.save(path)
    best = {name: round(float(table.score[:, place].mean()), 6) for name, place in (("best", 0), ("worst", -1))}
    write_manifest(given.output, "scores", spec, {"scores": path}, best)
    job.facts["seconds_before"] = checkpoint.seconds_before
    job.finished.append(checkpoint)
    many = data.classes * spec["mipc"]
    say(f"{many} images, {many * spec['crops']} crops; mean cross entropy from {best['best']} to {best['worst']}")


if __name__ == "__main__":
    guarded(main)
