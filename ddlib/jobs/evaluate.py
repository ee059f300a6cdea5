"""Train all networks of a group of students on a set, several times each, and score them on the test data; killed and
started again, it goes on."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from ddlib.artifacts import read_manifest, write_manifest, write_table
from ddlib.jobs.job import Job, at_work, guarded, parser

COLUMNS = ["network", "repeat", "accuracy", "train_images", "steps"]


def main() -> None:
    """Entry point."""
    options = parser(__doc__, gpu=True)
    options.add_argument("--source", type=Path, required=True, help="a set's card.json, or train.json for `whole`")
    options.add_argument("--test", type=Path, required=True)
    options.add_argument("--labels", type=Path, help="manifest of the set's soft labels")
    options.add_argument("--teacher", type=Path, help="manifest of the observer that labels as students train")
    options.add_argument("--table", type=Path, required=True)
    given = options.parse_args()
    names = given.output.with_suffix("").parts
    start = names.index("evaluations") + 1 if "evaluations" in names else len(names) - 1
    tags = {"experiment": names[start], "students": names[-1], "dataset": given.spec["dataset"]["source"]}
    tags |= {"labels": given.spec["labels"], "seed": given.spec["seed"], "method": "whole"}
    if given.spec["set"] != "whole":
        tags["method"] = read_manifest(given.source, "set")["result"]["method"]
    if len(names) - start >= 6:
        tags |= {"ipc": names[start + 1].removeprefix("ipc"), "protocol": names[-2]}
    with at_work("evaluate", given, tags) as job:
        _evaluate(given, job)


def _evaluate(given: Namespace, job: Job) -> None:
    from ddlib.data.real import RealData
    from ddlib.train.evaluate import evaluate
    from ddlib.train.lessons import lessons
    from ddlib.train.standing import Standing

    spec = given.spec
    checkpoint = job.checkpoint()
    job.go_on_as(checkpoint)
    checkpoint.execution = job.execution()
    test = RealData.load(given.test, job.device, job.machine)
    manifest = read_manifest(given.test, "data")
    job.events.dataset(test.name, manifest["files"]["tensors"]["sha256"], given.test, "test")
    held = _source(given, job, test)
    rates, groups = [], _alike(spec, given.labels is not None)
    standing = Standing(checkpoint, sum(len(students) * protocol["repeats"] for protocol, students in groups))
    for protocol, students in groups:
        source = held if isinstance(held, RealData) else lessons(held[0], protocol, held[1], job.device)
        if isinstance(source, list) and protocol.get("learned_lr"):
            rates += [lesson.lr for lesson in source]
        for row in evaluate(
            source,
            test,
            students,
            protocol,
            (test.channels, test.height, test.width),
            test.classes,
            spec["seed"],
            not isinstance(source, list),
            job.machine["compile"],
            job.machine["precision"],
            job.events,
            standing,
        ):
            job.events.metric(row["repeat"], **{f"accuracy/{row['network']}": row["accuracy"]})
    _write(given, job, standing.rows, rates)
    job.facts["seconds_before"] = checkpoint.seconds_before
    job.finished.append(checkpoint)


def _write(given: Namespace, job: Job, rows: list[dict[str, Any]], rates: list[float | None]) -> None:
    """The table and its manifest. `rates`: of the lessons, where they were learned."""
    write_table(given.table, COLUMNS, ([row[column] for column in COLUMNS] for row in rows))
    result: dict[str, Any] = {"students": len(rows)}
    if rates:
        result["learning_rates"] = rates
    write_manifest(given.output, "evaluation", given.spec, {"table": given.table}, result)
    job.events.artifact(given.table, "table")


def _alike(spec: Any, recorded: bool) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(protocol, students it is the same for), in the order of the students. `recorded`: on labels that are kept."""
    from ddlib.protocol_settings import student_protocol

    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for name, network in spec["students"].items():
        own = student_protocol(spec["protocol"], name, recorded and spec["label"]["kind"] == "per_view")
        same = next((students for protocol, students in found if protocol == own), None)
        if same is None:
            found.append((own, same := {}))
        same[name] = network
    return found


def _source(given: Namespace, job: Job, test: Any) -> Any:
    """The whole training data, or a synthetic set and its labels; refused when its classes are not the test data's."""
    from ddlib.data.real import RealData
    from ddlib.sets.synthetic import SyntheticSet

    if given.spec["set"] == "whole":
        whole = RealData.load(given.source, job.device, job.machine)
        _check_space(given.source, whole, test)
        return whole.fit()
    card = read_manifest(given.source, "set")
    entry = card["files"]["set"]
    made = SyntheticSet.load(given.source.parent / entry["path"], entry["sha256"])
    if made.class_order_hash != test.class_order_hash:
        raise ValueError(
            f"{given.source} numbers its classes {made.class_names[:3]}.. and the test data {test.class_names[:3]}..: "
            "they are different data sets or orders. Prepare the data the set was made from."
        )
    _check_space(given.source, made, test)
    return made, _labels(given, job, made)


def _labels(given: Namespace, job: Job, made: Any) -> Any:
    """What students are taught of each image: hard or own, a label store, or a teacher to ask."""
    if given.teacher:
        from ddlib.pool.observer import Observer

        teacher = Observer.load(given.teacher, job.device, job.machine["precision"])
        teacher.fits(made, str(given.teacher))
        return teacher
    if given.labels:
        from ddlib.sets.labels import LabelStore

        entry = read_manifest(given.labels, "labels")["files"]["labels"]
        return LabelStore.load(given.labels.parent / entry["path"], entry["sha256"])
    return given.spec["labels"]


def _check_space(path: Path, source: Any, test: Any) -> None:
    """ValueError unless students are trained and scored on pixels of one space, whitened by one fit."""
    if source.space == test.space and source.whitening == test.whitening:
        return
    if source.space != test.space:
        raise ValueError(
            f"{path} holds {source.space} pixels, the test data of {test.name} {test.space} ones: students are scored "
            "in the space they are trained in. Evaluate it on a data set in its space (with or without `whitening`)."
        )
    fits = " and the test data ".join(f"by fit {str(each.whitening)[:12]}.." for each in (source, test))
    raise ValueError(
        f"{path} was whitened {fits}: they were fitted on other images or otherwise. Make the set anew from the data "
        "set it is scored on, or evaluate it on the data set it was made from."
    )


if __name__ == "__main__":
    guarded(main)
