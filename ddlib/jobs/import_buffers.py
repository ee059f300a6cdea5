"""Take official replay buffers (MTT's and PDD's, .pt) as the members of a configured pool, instead of training them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddlib import disk, project
from ddlib.artifacts import sha256_file, write_manifest, write_sealed
from ddlib.jobs.job import guarded, say
from ddlib.paths import BLOCK, DATA
from ddlib.plan import Plan
from ddlib.registry import nearest


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(prog="python -m ddlib.jobs.import_buffers", description=__doc__)
    options.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="replay_buffer_0.pt ...: experts become members in this order",
    )
    options.add_argument("--pool", required=True, help="a pool of config.yaml: its network, epochs and snapshots")
    given = options.parse_args()
    for line in bring_in(project.load(), given.pool, given.files):
        say(line)


def bring_in(plan: Plan, pool: str, files: Sequence[Path]) -> list[str]:
    """Write the members and manifests of a pool's blocks from buffers; say what was made of what.

    Everything is checked before anything is written. ValueError with numbers where buffers and pool do not agree.
    """
    per_block = len(_importable(plan, pool)["members"])
    hashes = {file: sha256_file(file) for file in files if file.is_file()}
    if len(set(hashes.values())) < len(hashes):
        raise ValueError("two of the files are the same: its experts would be members twice")
    from ddlib.methods.room import left
    from ddlib.pool.buffers import check_experts, read_experts, write_members

    experts = read_experts(files)
    if len(experts) % per_block:
        raise ValueError(
            f"{len(experts)} experts do not fill blocks of {per_block} (members_per_block of pool {pool}): "
            f"{len(experts) % per_block} would be left over. Choose a divisor of {len(experts)}, such as 1"
        )
    chosen = [plan.spec("train_block", {"pool": pool, "block": block}) for block in range(len(experts) // per_block)]
    manifests = [Path(f"{BLOCK.format(pool=pool, block=block)}.json") for block in range(len(chosen))]
    if there := [path for path in manifests if path.exists()]:
        raise ValueError(f"{there[0]} exists: delete it, or import into a pool of another name")
    shapes = check_experts(experts, chosen[0])
    total = sum(left("train_block", spec, (0, 0), 0) for spec in chosen)
    disk.check_room(manifests[0].parent, total, f"the snapshots of {len(experts)} experts")
    named = {file.name: digest for file, digest in hashes.items()}
    for number, (spec, path) in enumerate(zip(chosen, manifests, strict=True)):
        own = experts[number * per_block : (number + 1) * per_block]
        made, result = write_members(own, spec, shapes, path.parent)
        result["buffers"] = {expert.file: named[expert.file] for expert in own}
        write_sealed(path.with_suffix(".run.json"), {"device": "imported", "seconds": 0.0, "peak_memory_mb": 0.0})
        write_manifest(path, "block", spec, made, result)
    kept = len(result["epochs"])
    return [
        f"pool {pool}: {len(experts)} members, {kept} snapshots each, {disk.readable(total)}, in {len(chosen)} blocks",
        f"taken as trained by: {_said(chosen[0]['training'])} (a buffer does not say how its experts were)",
    ]


def _importable(plan: Plan, pool: str) -> dict[str, Any]:
    """The specification of the first block of a pool that may be imported. ValueError for one that cannot."""
    pools = plan.config["pools"]
    if pool not in pools:
        raise ValueError(f"no pool is called {pool!r} in the configuration; {nearest(pool, pools)}")
    if pools[pool].get("diversity"):
        raise ValueError(
            f"pool {pool} has members that differ (diversity), which a buffer says nothing of: leave it out"
        )
    spec = plan.spec("train_block", {"pool": pool, "block": 0})
    if spec["training"]["record_events"]:
        raise ValueError(f"pool {pool} records events (record_events), of which a buffer holds none: leave it out")
    train = Path(f"{DATA.format(dataset=pools[pool]['dataset'])}/train.json")
    if not train.exists():
        raise ValueError(
            f"{train} does not exist: made after the pool, it would have the pool trained anew. Make it first: "
            f"snakemake --cores all {train}"
        )
    return spec


def _said(training: dict[str, Any]) -> str:
    names = ("optimiser", "lr", "momentum", "weight_decay", "batch", "epochs", "augment")
    return ", ".join(f"{name} {training[name]}" for name in names)


if __name__ == "__main__":
    guarded(main)
