"""Merge class phases and stages into one synthetic set, with a card that describes it and a picture of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddlib.artifacts import read_manifest, write_manifest
from ddlib.events import Events
from ddlib.jobs.job import RESULTS, guarded, import_torch, parser, say, stem
from ddlib.paths import part


def main() -> None:
    """Entry point."""
    options = parser(__doc__)
    options.add_argument("--parts", type=Path, nargs="+", required=True)
    options.add_argument("--data", type=Path, help="train.json of a whitened data set, whose fit the set is to hold")
    options.add_argument("--tensors", type=Path, required=True)
    options.add_argument("--preview", type=Path, required=True)
    given = options.parse_args()
    import_torch()
    from ddlib.sets.preview import preview
    from ddlib.sets.synthetic import SyntheticSet, merge

    wanted = "set" if given.spec["at"] is None else f"at{given.spec['at']}"
    sets: dict[str, list[SyntheticSet]] = {wanted: [], "initial": []}
    for path in given.parts:
        manifest = read_manifest(path, "phase")
        for name, held in sets.items():
            entry = manifest["files"][part(manifest["spec"]["ipc"], given.spec["ipc"], name)]
            held.append(SyntheticSet.load(path.parent / entry["path"], entry["sha256"]))
    made, initial = (merge(sets[kind]) for kind in (wanted, "initial"))
    if given.data:
        made, initial = _with_fit(given.data, made, initial)
    made.save(given.tensors)
    condensed = read_manifest(given.parts[0], "phase")["spec"]
    method, own = condensed["method"], part(condensed["ipc"], given.spec["ipc"], wanted)
    title = f"{given.spec['name']}, ipc {given.spec['ipc']}, seed {given.spec['seed']}"
    preview(made, initial, given.preview, title)
    result = {
        **made.facts(),
        "method": method,
        "images": len(made.labels),
        "decoded_images": len(made.labels) * made.factor**2,
        "image_bytes": made.image_bytes,
        "parts": {str(path): read_manifest(path)["files"][own]["sha256"] for path in given.parts},
    }
    files = {"set": given.tensors, "preview": given.preview}
    write_manifest(given.output, "set", given.spec, files, result)
    events = Events(RESULTS / "events" / f"{stem(given.output)}.jsonl")
    tags = {"experiment": given.spec["name"], "method": method, "dataset": made.name}
    events.start("merge", str(given.output), given.spec, {**tags, "ipc": given.spec["ipc"], "seed": given.spec["seed"]})
    for kind, path in {"card": given.output, **files}.items():
        events.artifact(path, kind)
    events.end("finished")
    say(f"{len(made.labels)} stored images ({result['decoded_images']} decoded), {made.image_bytes} bytes")


def _with_fit(data: Path, *made: Any) -> Any:
    """Sets with the whitening that the data they were made from went through."""
    from ddlib.data.whitening import Whitening

    manifest = read_manifest(data, "data")
    entry = manifest["files"]["whitening"]
    fit = Whitening.load(data.parent / entry["path"], entry["sha256"])
    return [each.with_fit(fit) for each in made]


if __name__ == "__main__":
    guarded(main)
