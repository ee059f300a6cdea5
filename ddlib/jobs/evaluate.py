"""Train all networks of a group of students on a set, several times each, and score them on the test data."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from ddlib.artifacts import atomic_write, read_manifest, write_manifest
from ddlib.jobs.job import Job, at_work, guarded, parser

COLUMNS = ["network", "repeat", "accuracy", "train_images", "steps"]


def main() -> None:
    """Entry point."""
    options = parser(__doc__, gpu=True)
    options.add_argument("--source", type=Path, required=True, help="a set's card.json, or train.json for `whole`")
    options.add_argument("--test", type=Path, required=True)
    options.add_argument("--table", type=Path, required=True)
    given = options.parse_args()
    names = given.output.with_suffix("").parts
    start = names.index("evaluations") + 1 if "evaluations" in names else len(names) - 1
    tags = {"experiment": names[start], "students": names[-1], "dataset": given.spec["dataset"]["source"]}
    tags |= {"labels": given.spec["labels"], "seed": given.spec["seed"]}
    if len(names) - start >= 6:
        tags |= {"ipc": names[start + 1].removeprefix("ipc"), "protocol": names[-2]}
    with at_work("evaluate", given, tags) as job:
        _evaluate(given, job)


def _evaluate(given: Namespace, job: Job) -> None:
    import pandas as pd

    from ddlib.data.real import RealData
    from ddlib.train.evaluate import evaluate

    spec = given.spec
    test = RealData.load(given.test, job.device)
    manifest = read_manifest(given.test, "data")
    job.events.dataset(test.name, manifest["files"]["tensors"]["sha256"], given.test, "test")
    source = _source(given, job, test)
    rows = []
    for row in evaluate(
        source,
        test,
        spec["students"],
        spec["protocol"],
        (test.channels, test.height, test.width),
        test.classes,
        spec["seed"],
        spec["set"] == "whole",
        job.machine["compile"],
        job.machine["precision"],
        job.events,
    ):
        rows.append(row)
        job.events.metric(row["repeat"], **{f"accuracy/{row['network']}": row["accuracy"]})
    with atomic_write(given.table) as temporary:
        pd.DataFrame(rows, columns=COLUMNS).to_csv(temporary, index=False)
    write_manifest(given.output, "evaluation", spec, {"table": given.table}, {"students": len(rows)})
    job.events.artifact(given.table, "table")


def _source(given: Namespace, job: Job, test: Any) -> Any:
    """The whole training data, or a synthetic set decoded; refused when its classes are not the test data's."""
    from ddlib.data.real import RealData
    from ddlib.sets.synthetic import SyntheticSet
    from ddlib.train.evaluate import Labelled

    if given.spec["set"] == "whole":
        return RealData.load(given.source, job.device).fit()
    card = read_manifest(given.source, "set")
    entry = card["files"]["set"]
    made = SyntheticSet.load(given.source.parent / entry["path"], entry["sha256"])
    if made.class_order_hash != test.class_order_hash:
        raise ValueError(
            f"{given.source} numbers its classes {made.class_names[:3]}.. and the test data {test.class_names[:3]}..: "
            "they are different data sets or orders. Prepare the data the set was made from."
        )
    if made.space != "unit":
        raise ValueError(f"{given.source} holds {made.space} pixels; students are trained on shares 0-1 (space unit)")
    images, labels = made.decode()
    return Labelled(images.to(job.device), labels.to(job.device), made.mean, made.std)


if __name__ == "__main__":
    guarded(main)
