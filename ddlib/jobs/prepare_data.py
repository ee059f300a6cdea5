"""Read a data set from its source, check it, and write its train and test parts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ddlib import registry
from ddlib.jobs.job import guarded, say


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--spec", type=json.loads, required=True)
    options.add_argument("--machine", type=json.loads, required=True)
    options.add_argument("--train", type=Path, required=True)
    options.add_argument("--test", type=Path, required=True)
    given = options.parse_args()
    spec = given.spec["dataset"]
    source = registry.lookup(registry.SOURCES, spec["source"], "data source")
    if source.facts.get("folder"):
        import torch

        torch.set_num_threads(1)  # images are decoded in threads of their own
        source.load()(given.spec, given.machine, given.train, given.test, say)
        return
    train, test = source.load()(spec, given.machine)
    whitening = None
    if "whitening" in spec:
        import torch

        from ddlib.data.whitening import fitted, whitened

        torch.set_num_threads(given.machine["threads"])
        fit, whitening = fitted(train, spec["whitening"], given.train.parent)
        train, test = whitened(train, fit), whitened(test, fit)
    for part, data, path in (("train", train, given.train), ("test", test, given.test)):
        data.save(path.parent, part, given.spec, whitening)
        say(f"{part}: {len(data.labels)} images of {data.classes} classes, {list(data.images.shape[1:])}")


if __name__ == "__main__":
    guarded(main)
