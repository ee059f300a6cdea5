"""Have a teacher label a synthetic set, so that students are taught without it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ddlib import disk
from ddlib.artifacts import read_manifest, write_manifest
from ddlib.jobs.job import Job, at_work, guarded, parser, say


def main() -> None:
    """Entry point."""
    options = parser(__doc__, gpu=True)
    options.add_argument("--card", type=Path, required=True)
    options.add_argument("--teacher", type=Path, required=True, help="manifest of the observer that labels")
    given = options.parse_args()
    tags = {"labels": given.output.parent.name, "views": given.output.stem, "teacher": given.teacher.parent.name}
    card = read_manifest(given.card, "set")
    tags |= {"experiment": card["spec"]["name"], "method": card["result"]["method"]}
    tags |= {key: card["spec"][key] for key in ("ipc", "seed")}
    with at_work("relabel", given, {**tags, "dataset": given.spec["dataset"]["source"]}) as job:
        _relabel(given, job)


def _relabel(given: Namespace, job: Job) -> None:
    from ddlib import label_bytes
    from ddlib.pool.observer import Observer
    from ddlib.sets.dataset import open_set
    from ddlib.sets.labelling import make

    spec = given.spec
    made = open_set(given.card)
    teacher = Observer.load(given.teacher, job.device, job.machine["precision"])
    teacher.fits(made, str(given.teacher))
    images = len(made.labels) * made.factor**2
    planned = label_bytes.planned(spec, images, len(made.class_names), made.grid)
    disk.check_room(given.output.parent, planned, f"the labels of {given.card.parent}")
    say(f"{spec['kind']} labels of {len(made.labels)} images: {disk.readable(planned)}")
    store = make(
        spec["kind"],
        made,
        teacher,
        spec.get("protocol", {}),
        seed=spec["seed"],
        teacher=teacher.digest,
        epochs=spec.get("epochs", 0),
        precision=spec["precision"],
        top_k=spec["top_k"],
        device=job.device,
        events=job.events,
    )
    path = given.output.with_suffix(".safetensors")
    store.save(path)
    result = {"bytes": store.nbytes, "images": store.facts["images"]}
    write_manifest(given.output, "labels", spec, {"labels": path}, result)


if __name__ == "__main__":
    guarded(main)
