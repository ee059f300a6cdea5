"""A view: which snapshots of a pool's members a method starts from, as a table: the DAG shows what was used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddlib.artifacts import check_file, read_manifest, read_table
from ddlib.pool import METRICS
from ddlib.registry import nearest
from ddlib.view_settings import listed, start_epochs

Row = dict[str, Any]

COLUMNS = ["member", "epoch", "file", "sha256", "metric", "value"]
TARGET = ["target_file", "target_sha256"]
"""The same member's snapshot a horizon further on: columns of views that look ahead alone."""


def select(blocks: Sequence[str | Path], view: Mapping[str, Any], pool: str) -> list[Row]:
    """Rows (member, epoch, file, sha256, metric, value) of the snapshots in the view, and where it has a horizon the
    target's file and hash.

    `blocks`: manifests of the pool's blocks; `view`: members (how many, from 0), and epochs (a list, or start_below:
    all before that one), or a metric with windows (closed intervals [low, high] of shares 0-1; in any of them), or
    both; horizon: epochs ahead, where the target must be. ValueError says what the pool has.
    """
    asked = [row for row in snapshots(blocks) if row["member"] < view["members"]]
    _check(asked, view, pool)
    chosen = asked
    if (epochs := start_epochs(view)) is not None:
        chosen = [row for row in chosen if row["epoch"] in epochs]
    if "metric" in view:
        chosen = [{**row, "metric": view["metric"], "value": row[view["metric"]]} for row in chosen]
        chosen = [row for row in chosen if row["value"] is not None and _in_any(row["value"], view["windows"])]
    if horizon := view.get("horizon", 0):
        ahead = {(row["member"], row["epoch"] - horizon): row for row in asked}
        pairs = ((row, ahead.get((row["member"], row["epoch"]))) for row in chosen)
        chosen = [{**row, **dict(zip(TARGET, (to["file"], to["sha256"]), strict=True))} for row, to in pairs if to]
    if not chosen:
        raise ValueError(_nothing(asked, view, pool))
    columns = COLUMNS + (TARGET if horizon else [])
    ordered = sorted(chosen, key=lambda row: (row["member"], row["epoch"]))
    return [{column: row[column] for column in columns} for row in ordered]


def _in_any(value: float, windows: Sequence[Sequence[float]]) -> bool:
    """Whether a value lies in one of these closed intervals."""
    return any(low <= value <= high for low, high in windows)


def snapshots(blocks: Sequence[str | Path]) -> list[Row]:
    """Every snapshot of the given blocks with its metrics (None: not measured; files relative to the working
    directory)."""
    rows = []
    for block in blocks:
        manifest = read_manifest(block, "block")
        folder = Path(block).parent
        for member in manifest["spec"]["members"]:
            told = read_table(check_file(block, manifest, f"member{member}/metrics"))
            measured = [name for name in METRICS if told and name in told[0]]
            curve = {int(row["epoch"]): {name: _number(row[name]) for name in measured} for row in told}
            for epoch in manifest["result"]["epochs"]:
                entry = manifest["files"][f"member{member}/epoch{epoch}"]
                names = {"member": member, "epoch": epoch, "metric": None, "value": None}
                where = {"file": str(folder / entry["path"]), "sha256": entry["sha256"]}
                rows.append({**names, **where, **curve[epoch]})
    return rows


def _number(text: str) -> float | None:
    return float(text) if text else None


def _check(rows: Sequence[Row], view: Mapping[str, Any], pool: str) -> None:
    """ValueError for members, epochs or a metric that the pool does not have."""
    if (there := len({row["member"] for row in rows})) < view["members"]:
        raise ValueError(f"the view asks for {view['members']} members of pool {pool}; the blocks given hold {there}")
    epochs = {row["epoch"] for row in rows}
    if missing := sorted(set(start_epochs(view) or []) - epochs):
        kept = ", ".join(map(str, sorted(epochs)))
        raise ValueError(
            f"pool {pool} keeps no snapshot of epochs {missing}, only of {kept}. Ask for those or change its snapshots."
        )
    if (metric := view.get("metric")) is not None and metric not in METRICS:
        raise ValueError(f"a pool has no accuracy {metric!r}: {nearest(metric, METRICS)}")


def _nothing(rows: Sequence[Row], view: Mapping[str, Any], pool: str) -> str:
    """What was asked, what there is and what to do, for an empty view."""
    members, epochs = {row["member"] for row in rows}, [row["epoch"] for row in rows]
    held = f"pool {pool} ({len(members)} members, epochs {min(epochs)}-{max(epochs)}"
    if "metric" not in view:
        starts = start_epochs(view)
        asked = "any epoch" if starts is None else f"epochs {listed(starts)}"
        if view.get("horizon"):
            asked += f" with another {view['horizon']} epochs later"
        return f"no snapshot of {asked} in {held}). Ask for epochs the pool keeps, or train it longer."
    metric = view["metric"]
    known = [row for row in rows if row[metric] is not None]
    windows = " or ".join(f"{low:.2f}-{high:.2f}" for low, high in view["windows"])
    asked = f"no checkpoint with {metric} accuracy {windows}"
    if not known:
        return (
            f"{asked} in {held}): it has no {metric} accuracy. Set the data set's `heldout`, or choose another metric."
        )
    values = [row[metric] for row in known]
    last = [row[metric] for row in known if row["epoch"] == max(epochs)] or [float("nan")]
    ranges = f"{min(values):.2f}-{max(values):.2f}, {min(last):.2f}-{max(last):.2f} at the last epoch"
    return f"{asked} in {held}; {metric} {ranges}). Widen the view or change how long the pool trains."
