"""Have a teacher label a synthetic set, so that students are taught without it; killed among the views of many epochs
and started again, it goes on."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ddlib import disk
from ddlib.artifacts import read_manifest, write_manifest
from ddlib.jobs.job import Job, at_work, guarded, parser, say

if TYPE_CHECKING:
    from ddlib.checkpoints import Checkpoint


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
    job.go_on_as(_piece(job, 0))
    made = open_set(given.card)
    teacher = Observer.load(given.teacher, job.device, job.machine["precision"])
    teacher.fits(made, str(given.teacher))
    images = len(made.labels) * made.factor**2
    planned = label_bytes.planned(spec, images, len(made.class_names), made.grid)
    _check_room(given, job, planned)
    say(f"{spec['kind']} labels of {len(made.labels)} images: {disk.readable(planned)}")
    pieces: list[Checkpoint] = []

    def piece(first: int) -> Checkpoint:
        pieces.append(_piece(job, first))
        return pieces[-1]

    with job.checkpoint().held():
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
            piece=piece,
        )
        path = given.output.with_suffix(".safetensors")
        store.save(path)
        result = {"bytes": store.nbytes, "images": store.facts["images"]}
        write_manifest(given.output, "labels", spec, {"labels": path}, result)
        job.facts["seconds_before"] = sum(each.seconds_before for each in pieces)
        # All there may be: a piece that was damaged is made anew up to another epoch.
        job.finished += [_piece(job, first) for first in range(store.facts.get("epochs", 0))]


def _piece(job: Job, first: int) -> Checkpoint:
    """The checkpoint of the views of epoch `first` and some after it."""
    made = job.checkpoint(f".views{first}")
    made.execution = job.execution()
    return made


def _check_room(given: Namespace, job: Job, planned: int) -> None:
    """ValueError unless the labels fit on the disk, beside the pieces of them that a resumed job needs."""
    pieces = 0 if given.spec["kind"] == "static" else planned
    folder = job.checkpoint().stem.parent
    there = disk.total(folder.glob(f"{given.output.stem}.views*.safetensors"))
    disk.check_room(given.output.parent, planned + max(0, pieces - there), f"the labels of {given.card.parent}")


if __name__ == "__main__":
    guarded(main)
