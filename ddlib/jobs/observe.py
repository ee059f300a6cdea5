"""Take an observer from a pool or a file, and check it on real training images before it judges anything."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from ddlib.artifacts import save_tensors, write_manifest, write_table
from ddlib.jobs.job import Job, at_work, guarded, parser, say


def main() -> None:
    """Entry point."""
    options = parser(__doc__, gpu=True)
    options.add_argument("--train", type=Path, required=True)
    options.add_argument("--block", type=Path, help="manifest of the pool's block it is a checkpoint of")
    options.add_argument("--weights", type=Path, help="file of its weights")
    options.add_argument("--table", type=Path, required=True)
    given = options.parse_args()
    tags = {"observer": given.output.parent.name, "dataset": given.spec["dataset"]["source"]}
    with at_work("observe", given, tags) as job:
        _observe(given, job)


def _observe(given: Namespace, job: Job) -> None:
    from ddlib.artifacts import sha256_file
    from ddlib.data.real import RealData
    from ddlib.pool.observer import Observer, check, confusion
    from ddlib.train.loop import State

    spec = given.spec
    data = RealData.load(given.train, job.device, job.machine)
    weights = given.output.with_name("weights.safetensors")
    net, tensors, expected = _network(given, data)
    save_tensors(weights, tensors, {"observer": given.output.parent.name})
    state = State.from_tensors(tensors, job.device)
    size = spec["dataset"]["size"]
    observer = Observer(net, state, sha256_file(weights), data.class_order_hash, size, job.machine["precision"])
    held = bool(data.heldout.any())
    found = confusion(observer, data.heldout_part() if held else data.fit(), spec["gate"]["images"])
    named = zip(data.class_names, found.tolist(), strict=True)
    write_table(given.table, ["class", *data.class_names], ([name, *row] for name, row in named))
    what = f"observer {given.output.parent.name}"
    on = f"{given.train.parent.name} ({'held-out' if held else 'training'} images)"
    facts = check(found, data.class_names, expected, spec["gate"]["within"], what, on)
    result: dict[str, Any] = {**facts, "class_order_hash": data.class_order_hash, "heldout": held}
    write_manifest(given.output, "observer", spec, {"weights": weights, "confusion": given.table}, result)
    if given.weights:
        job.facts["weights_sha256"] = sha256_file(given.weights)  # plans compare: is it still this file?
    job.events.metric(0, accuracy=facts["accuracy"])
    job.events.artifact(given.table, "table")
    say(f"{what}: {facts['accuracy']:.1%} of {facts['images']} images of {on}, classes as they should be")


def _network(given: Namespace, data: Any) -> tuple[Any, dict[str, Any], float | None]:
    """(network, tensors of its state, the accuracy it is known to have)."""
    from ddlib.pool.observer import build, from_block

    spec = given.spec
    net = build(spec["network"], spec["dataset"])
    if given.block:
        tensors, clean, heldout = from_block(given.block, spec["member"], spec["epoch"])
        return net, tensors, heldout if bool(data.heldout.any()) else clean
    from ddlib.weights import load_weights

    params, buffers = load_weights(given.weights, net, spec.get("outputs"))
    named = {f"params/{name}": value for name, value in params.items()}
    return net, {**named, **{f"buffers/{name}": value for name, value in buffers.items()}}, spec["accuracy"]


if __name__ == "__main__":
    guarded(main)
