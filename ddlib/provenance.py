"""A suite as one page to read (HTML that needs nothing else): its table, and where every number in it comes from."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from ddlib.artifacts import read_sealed
from ddlib.paths import DATA, MANIFESTS, made_by
from ddlib.tables import NOTE, blocks

_STYLE = (
    "body{font:14px sans-serif;margin:1.5em;color:#222}table{border-collapse:collapse;margin:.6em 0 1.6em}"
    "th,td{border-bottom:1px solid #ccc;padding:.25em .7em;text-align:left;vertical-align:top}th{background:#f2f2f2}"
    "code,pre{font-size:12px}pre{max-width:60em;white-space:pre-wrap}td code{word-break:break-all}"
)
_ABOUT = {
    "prepare_data": "Data",
    "train_block": "Pools",
    "observe": "Observers",
    "score": "Scores of crops",
    "condense": "Condensations",
    "condition": "Conditioned networks",
    "merge": "Synthetic sets",
    "relabel": "Soft labels",
    "evaluate": "Evaluations",
}


def page(suite: str, found: pd.DataFrame, rows: Sequence[Mapping[str, Any]]) -> str:
    """The page of `suite`: `found`, its table, and the manifests and records of cost behind its cells, `rows`
    (:func:`ddlib.plan.rows`), as they are on disk.
    """
    parts = [f"<!doctype html><meta charset='utf-8'><title>{escape(suite)}</title><style>{_STYLE}</style>"]
    parts += [f"<h1>Suite {escape(suite)}</h1>", "<h2>Table</h2>"]
    for head, shown in blocks(found):
        parts += [f"<h3>{escape(head)}</h3>", shown.to_html(index=False, border=0, na_rep="")]
    parts += [f"<p>{escape(NOTE)}</p>", "<h2>Provenance</h2>"]
    parts.append("<p>What each file was made to (settings), its SHA-256, and the run that made it.</p>")
    sections: dict[str, list[Path]] = {}
    for manifest in manifests(rows):
        sections.setdefault(made_by(manifest)[0], []).append(manifest)
    for rule in sorted(sections, key=list(MANIFESTS).index):
        parts += [f"<h3>{_ABOUT[rule]}</h3>", _section(sections[rule])]
    return "\n".join(parts) + "\n"


def manifests(rows: Iterable[Mapping[str, Any]]) -> list[Path]:
    """The manifests behind cells that exist, each once: data, pools, condensations, sets, labels, evaluations."""
    found: dict[str, None] = {}
    for row in rows:
        data = DATA.format(dataset=row["dataset"])
        runs = [f"{path.removesuffix('.run.json')}.json" for path in (*row["pool_runs"], *row["runs"])]
        for path in (f"{data}/train.json", f"{data}/test.json", *runs, *row["card"], f"{row['stem']}.json"):
            found[path] = None
    return [path for path in map(Path, sorted(found)) if path.is_file()]


def _section(paths: Iterable[Path]) -> str:
    """A line a manifest."""
    names = ["made", "settings", "files (SHA-256)", "commit", "device", "versions", "seconds", "peak MB", "ended (UTC)"]
    lines = ["".join(f"<th>{escape(name)}</th>" for name in names)]
    for path in paths:
        lines.append("".join(f"<td>{cell}</td>" for cell in _cells(path)))
    return "<table>\n" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table>"


def _cells(path: Path) -> list[str]:
    """HTML of what a manifest says and, where there is one, its record of cost."""
    manifest = read_sealed(path)
    record = path.with_suffix(".run.json")
    run = read_sealed(record) if record.is_file() else {}
    spec = escape(json.dumps(manifest["spec"], indent=1, sort_keys=True))
    files = "<br>".join(f"{escape(name)} <code>{entry['sha256']}</code>" for name, entry in manifest["files"].items())
    made_of = manifest["result"].get("parts", {})
    files += "".join(f"<br>of {escape(part)} <code>{sha256}</code>" for part, sha256 in made_of.items())
    commit = f"<code>{escape(run['commit'][:12])}</code>{' and changes' if run['dirty'] else ''}" if run else ""
    ended = time.strftime("%Y-%m-%d %H:%M", time.gmtime(run["ended"])) if run else ""
    versions = ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
    return [
        escape(str(path.with_suffix(""))),
        f"<details><summary>show</summary><pre>{spec}</pre></details>",
        files,
        commit,
        escape(run.get("device", "")),
        escape(versions),
        f"{run['seconds']:.1f}" if run else "",
        f"{run['peak_memory_mb']:.0f}" if run else "",
        ended,
    ]
