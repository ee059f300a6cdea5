"""A view: which snapshots of a pool's members a method starts from, as a table: the DAG shows what was used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ddlib.artifacts import check_file, read_manifest
from ddlib.pool import METRICS
from ddlib.registry import nearest
from ddlib.view_settings import listed, start_epochs

COLUMNS = ["member", "epoch", "file", "sha256", "metric", "value"]
TARGET = ["target_file", "target_sha256"]
"""The same member's snapshot a horizon further on: columns of views that look ahead alone."""


def select(blocks: Sequence[str | Path], view: Mapping[str, Any], pool: str) -> pd.DataFrame:
    """Rows (member, epoch, file, sha256, metric, value) of the snapshots in the view, and where it has a horizon the
    target's file and hash.

    `blocks`: manifests of the pool's blocks; `view`: members (how many, from 0), and epochs (a list, or start_below:
    all before that one), or a metric with windows (closed intervals [low, high] of shares 0-1; in any of them), or
    both; horizon: epochs ahead, where the target must be. ValueError says what the pool has.
    """
    table = snapshots(blocks)
    asked = table[table.member < view["members"]]
    _check(asked, view, pool)
    chosen = asked
    if (epochs := start_epochs(view)) is not None:
        chosen = chosen[chosen.epoch.isin(epochs)]
    if "metric" in view:
        chosen = chosen.assign(metric=view["metric"], value=chosen[view["metric"]])
        chosen = chosen[np.any([chosen.value.between(*window) for window in view["windows"]], axis=0)]
    if horizon := view.get("horizon", 0):
        ahead = asked.assign(epoch=asked.epoch - horizon)[["member", "epoch", "file", "sha256"]]
        ahead = ahead.rename(columns={"file": "target_file", "sha256": "target_sha256"})
        chosen = chosen.merge(ahead, on=["member", "epoch"])
    if chosen.empty:
        raise ValueError(_nothing(asked, view, pool))
    columns = COLUMNS + (TARGET if horizon else [])
    return chosen.sort_values(["member", "epoch"])[columns].reset_index(drop=True)


def snapshots(blocks: Sequence[str | Path]) -> pd.DataFrame:
    """Every snapshot of the given blocks with its metrics (files relative to the working directory)."""
    rows = []
    for block in blocks:
        manifest = read_manifest(block, "block")
        folder = Path(block).parent
        for member in manifest["spec"]["members"]:
            curve = pd.read_csv(check_file(block, manifest, f"member{member}/metrics")).set_index("epoch")
            for epoch in manifest["result"]["epochs"]:
                entry = manifest["files"][f"member{member}/epoch{epoch}"]
                names = {"member": member, "epoch": epoch, "metric": None, "value": None}
                where = {"file": str(folder / entry["path"]), "sha256": entry["sha256"]}
                rows.append({**names, **where, **curve.loc[epoch].to_dict()})
    return pd.DataFrame(rows)


def _check(table: pd.DataFrame, view: Mapping[str, Any], pool: str) -> None:
    """ValueError for members, epochs or a metric that the pool does not have."""
    if (there := table.member.nunique()) < view["members"]:
        raise ValueError(f"the view asks for {view['members']} members of pool {pool}; the blocks given hold {there}")
    if missing := sorted(set(start_epochs(view) or []) - set(table.epoch)):
        kept = ", ".join(str(epoch) for epoch in sorted(set(table.epoch)))
        raise ValueError(
            f"pool {pool} keeps no snapshot of epochs {missing}, only of {kept}. Ask for those or change its snapshots."
        )
    if (metric := view.get("metric")) is not None and metric not in METRICS:
        raise ValueError(f"a pool has no accuracy {metric!r}: {nearest(metric, METRICS)}")


def _nothing(table: pd.DataFrame, view: Mapping[str, Any], pool: str) -> str:
    """What was asked, what there is and what to do, for an empty view."""
    members = table.member.nunique()
    held = f"pool {pool} ({members} members, epochs {table.epoch.min()}-{table.epoch.max()}"
    if "metric" not in view:
        starts = start_epochs(view)
        asked = "any epoch" if starts is None else f"epochs {listed(starts)}"
        if view.get("horizon"):
            asked += f" with another {view['horizon']} epochs later"
        return f"no snapshot of {asked} in {held}). Ask for epochs the pool keeps, or train it longer."
    metric = view["metric"]
    values, last = table[metric].dropna(), table[table.epoch == table.epoch.max()][metric].dropna()
    windows = " or ".join(f"{low:.2f}-{high:.2f}" for low, high in view["windows"])
    asked = f"no checkpoint with {metric} accuracy {windows}"
    if values.empty:
        return (
            f"{asked} in {held}): it has no {metric} accuracy. Set the data set's `heldout`, or choose another metric."
        )
    ranges = f"{values.min():.2f}-{values.max():.2f}, {last.min():.2f}-{last.max():.2f} at the last epoch"
    return f"{asked} in {held}; {metric} {ranges}). Widen the view or change how long the pool trains."
