"""From evaluations and run records to the table of a suite, and its picture.

Accuracies are shares 0-1 of the last epoch: mean and standard deviation (n - 1) over distillation seeds x repeats.
`vs_random` is the difference to random real images under the same protocol, labels and network: paired by distillation
seed (averaged over repeats first), with a 95 % t interval from 5 seeds on. `device_seconds` of a snapshot are those
until then; images condensed together (`budget`) each have those of the whole job, sets picked from one score table
those of scoring, and sets with stored soft labels those of labelling. `label_bytes` are those of soft labels as stored;
labels that a teacher makes while students train take none (but the teacher).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ddlib.artifacts import check_file, read_manifest, read_sealed

COLUMNS = [
    "suite", "dataset", "experiment", "method", "ipc", "labels", "protocol", "network", "outer_iteration",
    "accuracy_mean", "accuracy_std", "n_distill", "n_eval", "vs_random", "vs_random_low", "vs_random_high",
    "device_seconds", "pool_seconds", "peak_memory_mb", "image_bytes", "label_bytes", "published", "published_source",
]  # fmt: skip
COSTS = ["device_seconds", "pool_seconds", "peak_memory_mb"]
KEYS = ["experiment", "ipc", "labels", "protocol", "network", "outer_iteration"]
INTERVAL_FROM = 5
NOTE = (
    "accuracy: share of test images, last epoch, mean +- deviation over n = distillation seeds x students. "
    "vs random: against random real images, paired by seed; an interval is given from 5 distillation seeds on."
)
PUBLISHED = Path(__file__).with_name("published.csv")


def table(suite: str, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table of `suite` from its cells (:func:`ddlib.plan.rows`), all of whose files exist."""
    scores = pd.concat([_scores(row) for row in rows], ignore_index=True) if rows else pd.DataFrame(columns=KEYS)
    if scores.empty:
        return pd.DataFrame(columns=COLUMNS)
    random = _by_seed(scores[scores.method == "random"])
    known = pd.read_csv(PUBLISHED).fillna({"observer": ""})
    found = [_line(group, random, known) for _, group in scores.groupby(KEYS, sort=False, dropna=False)]
    whole = pd.DataFrame(found).assign(suite=suite)
    whole["ipc"] = whole["ipc"].replace(0, pd.NA).astype("Int64")
    order = ["dataset", "protocol", "labels", "network", "ipc", "experiment", "outer_iteration"]
    return whole.sort_values(order, na_position="last")[COLUMNS].reset_index(drop=True)


def read(path: str | Path) -> pd.DataFrame:
    """A table as it was written. ArtifactError if it is not the one that the manifest beside it describes."""
    manifest = Path(path).with_suffix(".json")
    found = pd.read_csv(check_file(manifest, read_manifest(manifest, "table"), "table"))
    return found.assign(ipc=found["ipc"].astype("Int64"))


def _scores(row: Mapping[str, Any]) -> pd.DataFrame:
    """Every student of one cell, with the cell's names and costs."""
    scored = f"{row['stem']}.json"
    students = pd.read_csv(check_file(scored, read_manifest(scored, "evaluation"), "table"))
    runs = [read_sealed(path) for path in row["runs"]]
    card = read_manifest(row["card"][0], "set")["result"] if row["card"] else {"image_bytes": pd.NA}
    names = {
        key: row[key]
        for key in (
            "experiment",
            "dataset",
            "source",
            "method",
            "factor",
            "ipc",
            "seed",
            "labels",
            "protocol",
            "as_published",
        )
    }
    names["observer"] = row.get("observer", "")
    costs = {
        "outer_iteration": int(row["at"][2:-1]) if row["at"] else row["outer"],
        "device_seconds": sum(_spent(run, row["at"]) for run in runs),
        "peak_memory_mb": max((run["peak_memory_mb"] for run in runs), default=0.0),
        "pool_seconds": sum(read_sealed(path)["seconds"] for path in row["pool_runs"]),
        "image_bytes": card["image_bytes"],
        "label_bytes": read_manifest(row["label_file"], "labels")["result"]["bytes"] if "label_file" in row else 0,
    }
    return students.assign(**names, **costs)


def _spent(run: Mapping[str, Any], at: str) -> float:
    """Seconds of a condensation until it was at `at` (NaN where its record is older than these), or whole."""
    return float(run.get("seconds_at", {}).get(at[2:-1], np.nan) if at else run["seconds"])


def _by_seed(scores: pd.DataFrame) -> pd.Series:
    """Mean accuracy over repeats by (dataset, ipc, labels, protocol, network, seed)."""
    keys = ["dataset", "ipc", "labels", "protocol", "network", "seed"]
    return scores.groupby(keys)["accuracy"].mean()


def _line(group: pd.DataFrame, random: pd.Series, known: pd.DataFrame) -> dict[str, Any]:
    """One row of the table from all students of an experiment at an ipc, protocol and network."""
    first = group.iloc[0]
    by_seed = group.groupby("seed")
    line = {key: first[key] for key in [*KEYS, "dataset", "method", "image_bytes", "label_bytes"]}
    line["accuracy_mean"] = round(group.accuracy.mean(), 6)
    line["accuracy_std"] = round(group.accuracy.std(ddof=1), 6) if len(group) > 1 else np.nan
    line["n_distill"], line["n_eval"] = len(by_seed), int(by_seed.size().min())
    line["device_seconds"] = round(by_seed.device_seconds.first().mean(), 1)
    line["pool_seconds"] = round(float(first.pool_seconds), 1)
    line["peak_memory_mb"] = round(group.peak_memory_mb.max(), 1)
    return line | _against_random(group, random) | _published(first, known)


def _against_random(group: pd.DataFrame, random: pd.Series) -> dict[str, float]:
    """Difference to random real images, paired by seed; the interval only from 5 pairs on."""
    nothing = {"vs_random": np.nan, "vs_random_low": np.nan, "vs_random_high": np.nan}
    if group.method.iloc[0] in ("random", "whole"):
        return nothing
    mine = _by_seed(group)
    shared = mine.index.intersection(random.index)
    if shared.empty:
        return nothing
    paired = (mine.loc[shared] - random.loc[shared]).to_numpy()
    found = {**nothing, "vs_random": round(float(paired.mean()), 6)}
    if len(paired) >= INTERVAL_FROM:
        from scipy.special import stdtrit  # scipy.stats would take three quarters of a second to import

        half = stdtrit(len(paired) - 1, 0.975) * paired.std(ddof=1) / np.sqrt(len(paired))
        found |= {"vs_random_low": round(paired.mean() - half, 6), "vs_random_high": round(paired.mean() + half, 6)}
    return found


def _published(first: pd.Series, known: pd.DataFrame) -> dict[str, Any]:
    """What the paper states for the same method, data, ipc, network and protocol, with the paper's own settings."""
    same = pd.Series(bool(first.as_published), index=known.index)
    for key in ("method", "source", "factor", "ipc", "network", "observer", "protocol", "outer_iteration"):
        same &= known[key] == first[key]
    if not same.any():
        return {"published": np.nan, "published_source": ""}
    entry = known[same].iloc[0]
    source = entry.reference if entry.verified else f"{entry.reference} (unverified)"
    return {"published": entry.accuracy, "published_source": source}


def text(found: pd.DataFrame) -> str:
    """The table for people: percentages, one line a row, blocks by data set, protocol and network."""
    if found.empty:
        return "nothing has been evaluated yet"
    return "\n\n".join([*(f"{head}\n{shown.to_string(index=False)}" for head, shown in blocks(found)), NOTE])


def blocks(found: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """(heading, rows in percent) by data set, protocol, labels and network."""
    for (dataset, protocol, labels, network), block in found.groupby(
        ["dataset", "protocol", "labels", "network"], sort=False
    ):
        shown = pd.DataFrame(
            {
                "experiment": block.experiment,
                "ipc": [("all" if pd.isna(ipc) else str(ipc)) for ipc in block.ipc],
                "outer": block.outer_iteration,
                "accuracy": [
                    _percent(mean, std) for mean, std in zip(block.accuracy_mean, block.accuracy_std, strict=True)
                ],
                "n": [f"{d} x {e}" for d, e in zip(block.n_distill, block.n_eval, strict=True)],
                "vs random": [_difference(row) for row in block.itertuples()],
                "seconds": ["" if pd.isna(value) else f"{value:.0f}" for value in block.device_seconds],
                "published": ["" if pd.isna(value) else f"{value:.1%}" for value in block.published],
            }
        )
        yield f"{dataset}, protocol {protocol}, {labels} labels, network {network}", shown


def _percent(mean: float, std: float) -> str:
    return f"{mean:.1%}" if pd.isna(std) else f"{mean:.1%} +- {100 * std:.1f}"


def _difference(row: Any) -> str:
    if pd.isna(row.vs_random):
        return ""
    interval = (
        "" if pd.isna(row.vs_random_low) else f" [{100 * row.vs_random_low:+.1f}, {100 * row.vs_random_high:+.1f}]"
    )
    return f"{100 * row.vs_random:+.1f}{interval}"


def figure(found: pd.DataFrame, path: str | Path) -> None:
    """Accuracy over images per class, a panel per data set, protocol and network; `whole` as a line."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, ScalarFormatter

    from ddlib.writing import atomic_write

    keys = ["dataset", "protocol", "labels", "network"]
    panels = list(found.groupby(keys, sort=False)) or [(("", "", "", ""), found)]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    drawing = Figure(figsize=(4.4 * columns, 3.4 * lines + 0.4), layout="constrained")
    axes = drawing.subplots(lines, columns, squeeze=False).flatten()
    names = sorted(found.experiment.unique())
    for axis, (key, panel) in zip(axes, panels, strict=False):
        final = panel[panel.outer_iteration == panel.groupby("experiment").outer_iteration.transform("max")]
        for name, curve in final[final.ipc.notna()].groupby("experiment", sort=False):
            style = {"color": f"C{names.index(name) % 10}", "label": name, "capsize": 3, "marker": "o"}
            baseline = name.endswith(("__random", "__initial", "__crops"))
            axis.errorbar(
                curve.ipc.astype(float), 100 * curve.accuracy_mean, 100 * curve.accuracy_std.fillna(0),
                linestyle="--" if baseline else "-", **style,
            )  # fmt: skip
        for _, row in final[final.ipc.isna()].iterrows():
            axis.axhline(100 * row.accuracy_mean, color="gray", linestyle=":", label=row.experiment)
        ticks = sorted(float(ipc) for ipc in final.ipc.dropna().unique())
        if ticks:
            axis.set_xscale("log")
            axis.set_xticks(ticks)
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.xaxis.set_minor_locator(NullLocator())
        axis.set_title(", ".join(part for part in key if part != "hard"), fontsize=9)
        axis.set_xlabel("images per class")
        axis.set_ylabel("test accuracy (%)")
        axis.grid(alpha=0.3)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles: dict[str, Any] = {}
    for axis in axes[: len(panels)]:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    if handles:
        drawing.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    with atomic_write(path) as temporary:
        drawing.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
