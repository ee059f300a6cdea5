"""Make a synthetic set of official image tensors (MTT's and PDD's images_best.pt and labels_best.pt)."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddlib import project
from ddlib.artifacts import read_manifest, sha256_file, write_manifest
from ddlib.jobs.job import guarded, say
from ddlib.paths import DATA
from ddlib.registry import nearest


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(prog="python -m ddlib.jobs.import_set", description=__doc__)
    options.add_argument("images", type=Path, metavar="IMAGES", help="images_best.pt")
    options.add_argument("labels", type=Path, metavar="LABELS", help="labels_best.pt")
    options.add_argument("--dataset", required=True, help="the data set of config.yaml that they are of")
    options.add_argument(
        "--space",
        choices=("unit", "normalised", "whitened"),
        required=True,
        help="what the pixels are (MTT: normalised, with ZCA whitened)",
    )
    options.add_argument("--step-size", type=float, help="the learned learning rate of students")
    options.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    bring_in(options.parse_args())


def bring_in(given: argparse.Namespace) -> None:
    """Write set.safetensors and card.json to the folder `given.output`. ValueError where it has a set."""
    datasets = project.load().config["datasets"]
    if given.dataset not in datasets:
        raise ValueError(f"no data set is called {given.dataset!r}; {nearest(given.dataset, datasets)}")
    tensors, card = given.output / "set.safetensors", given.output / "card.json"
    if there := [path for path in (tensors, card) if path.exists()]:
        raise ValueError(f"{there[0]} exists: name a new folder, or delete it first")
    train = Path(f"{DATA.format(dataset=given.dataset)}/train.json")
    if not train.exists():
        raise ValueError(f"{train} does not exist, which knows the classes. Make it: snakemake --cores all {train}")
    data = read_manifest(train, "data")
    from ddlib.sets.official import read_official

    made = read_official(given.images, given.labels, data["result"], given.space, given.step_size)
    if given.space == "whitened":
        from ddlib.data.whitening import Whitening

        entry = data["files"]["whitening"]
        made = made.with_fit(Whitening.load(train.parent / entry["path"], entry["sha256"]))
    made.save(tensors)
    spec = {
        "dataset": data["spec"]["dataset"],
        "imported": {p.name: sha256_file(p) for p in (given.images, given.labels)},
    }
    result = {**made.facts(), "images": len(made.labels), "image_bytes": made.image_bytes}
    write_manifest(card, "set", spec, {"set": tensors}, result)
    say(f"{len(made.labels)} images, {made.space} pixels, in {given.output}")


if __name__ == "__main__":
    guarded(main)
