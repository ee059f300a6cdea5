"""The table of a run as text and as CSV."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

SHOWN = {
    "part": "part",
    "code": "code",
    "precision": "precision",
    "seconds": "seconds",
    "times_plain_fp32": "x plain",
    "target": "target",
    "met": "met",
    "share_of_matrix_rate": "of matrix rate",
    "peak_mb": "peak MB",
    "live_mb": "alive MB",
    "live_mb_a_step": "MB a step",
    "warm_up_seconds": "warm-up s",
    "relative_error": "gradient error",
}
ROUND = {
    "seconds": 4,
    "times_plain_fp32": 2,
    "share_of_matrix_rate": 3,
    "peak_mb": 0,
    "live_mb": 2,
    "live_mb_a_step": 3,
    "warm_up_seconds": 1,
}


def text(table: pd.DataFrame) -> str:
    """What a reader looks at: machine, one line a variant, and whether the targets are met."""
    first = table.iloc[0]
    shown = table[[name for name in SHOWN if name in table]].copy()
    if "met" in shown:
        shown["met"] = shown["met"].map({True: "yes", False: "no"})
    shown = shown.round({name: digits for name, digits in ROUND.items() if name in shown}).rename(columns=SHOWN)
    compiled = "ddlib compiled" if first["compiled"] else "ddlib not compiled"
    head = f"{first['device']}, {first['threads']} threads, torch {first['torch']}, {compiled}; {first['size']}"
    notes = [
        "seconds: best of the turns; of matching for one class, of network for one step, of inner for the whole.",
        "x plain: how many times as fast as the plain code in fp32 (trajectory: as the unrolled gradient).",
        "Warm-up (compilation) is not in the seconds.",
    ]
    return "\n".join([head, "", shown.to_string(index=False, na_rep="", float_format="%.4g"), "", *notes])


def write(table: pd.DataFrame, folder: Path) -> Path:
    """The CSV of a run, named after the device."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{table['file'].iloc[0]}.csv"
    table.drop(columns="file").to_csv(path, index=False, float_format="%.6g")
    return path
