"""Files that can be trusted: equal content = equal bytes, hashes checked on reading.

Tensors are safetensors (no pickle is ever read), everything else JSON or CSV. An artifact of the workflow is a
*manifest* (small JSON, what the DAG depends on) and the files it names with their SHA-256. Manifests hold what was
asked for and what came out; what changes from run to run (seconds, host, commit) goes to ``*.run.json`` beside them.
Both are *sealed*: they hold the SHA-256 of their own content.

**Errors**: :class:`ArtifactError` names the file, what is wrong with it and what to do.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ddlib.writing import atomic_write, write_text

if TYPE_CHECKING:
    import torch

FORMAT = 2
"""Of manifests and ``*.run.json``. Format 1 had no seal; it is still read."""
SEAL = "sha256"
_META_KEY = "ddlib"
_AGAIN = "Delete it and run the workflow again."


class ArtifactError(ValueError):
    """A file of ours is missing, damaged or not what it is taken for."""


def canonical(value: Any) -> str:
    """JSON text of `value` that is the same for equal values (sorted keys, no blanks)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes, streamed."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as readable JSON with sorted keys, atomically."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n")


def write_table(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV with a head, atomically; None and not-a-number are empty."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([["" if value != value else value for value in row] for row in rows])


def read_table(path: str | Path) -> list[dict[str, str]]:
    """The rows of a CSV file of ours by the names in its head, as text. ArtifactError if it is missing."""
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            return list(csv.DictReader(handle))
    except FileNotFoundError:
        raise ArtifactError(
            f"{path} does not exist. Delete the manifest that names it to have both made anew."
        ) from None


def read_json(path: str | Path) -> Any:
    """Read a JSON file of ours. ArtifactError if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist. Let the workflow make it: snakemake --cores all {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged ({error}). {_AGAIN}") from None


def write_sealed(path: str | Path, value: Mapping[str, Any]) -> dict[str, Any]:
    """Write `value` as JSON with its format and the digest of itself, atomically; return what was written."""
    held = json.loads(canonical({**value, "format": FORMAT}))  # as it will be read: names of keys are text there
    held.pop(SEAL, None)
    sealed = {**held, SEAL: digest(held)}
    write_json(path, sealed)
    return sealed


def read_sealed(path: str | Path) -> Any:
    """Read what `write_sealed` wrote, or an unsealed file of format 1. ArtifactError if it is not as it was written."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is not a file of ours: it holds no JSON object. {_AGAIN}")
    found = value.get(SEAL)
    if found is None and value.get("format", 1) == 1:
        return value
    if found != digest({key: held for key, held in value.items() if key != SEAL}):
        raise ArtifactError(f"{path} is not as it was written: its content does not have the digest it holds. {_AGAIN}")
    return value


def save_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any] | None = None) -> str:
    """Write tensors (any device, made contiguous) and JSON metadata as safetensors, atomically; return the SHA-256.

    The metadata stands in one key, sorted: several keys would come out in random order and change the bytes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    with atomic_write(path) as temporary:
        try:
            save_file(plain, temporary, metadata={_META_KEY: canonical(dict(meta or {}))})
        except SafetensorError as error:  # its own name for what the system said
            code = re.search(r"(?:code:|os error) (\d+)", str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
        found = sha256_file(temporary)
    return found


def content_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) of names, types, shapes and bytes of tensors, in the order of their names."""
    import torch

    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(canonical([name, str(value.dtype), list(value.shape)]).encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def load_tensors(
    path: str | Path, sha256: str | None = None, device: str = "cpu"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a safetensors file of ours: (tensors, metadata). `sha256`: what the file's bytes must hash to."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise ArtifactError(
            f"{path} does not exist. The manifest beside it names it: delete the manifest to remake both."
        )
    if sha256 is not None and (found := sha256_file(path)) != sha256:
        raise ArtifactError(
            f"{path} is not the file its manifest describes (sha256 {found[:12]}.., expected {sha256[:12]}..). "
            "Delete it and its manifest and run the workflow again."
        )
    try:
        with safe_open(path, framework="pt", device=device) as handle:
            names = handle.keys()
            tensors = {name: handle.get_tensor(name) for name in names}
            meta = json.loads((handle.metadata() or {}).get(_META_KEY, "{}"))
    except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged ({error}). Delete it and run the workflow again.") from None
    return tensors, meta


def describe_file(path: str | Path, root: str | Path) -> dict[str, Any]:
    """What a manifest says of one file: path relative to the manifest's folder, SHA-256, bytes."""
    path = Path(path)
    return {
        "path": os.path.relpath(path, root),
        "sha256": sha256_file(path),
        "bytes": path.stat().st_size,
    }


def write_manifest(
    path: str | Path, kind: str, spec: Mapping[str, Any], files: Mapping[str, str | Path], result: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the manifest of an artifact.

    `kind`: what it is ("data", "block", "phase", ...); `spec`: the resolved specification the job was given;
    `files`: name -> path; `result`: deterministic facts about the content.
    """
    root = Path(path).parent
    described = {name: describe_file(file, root) for name, file in files.items()}
    return write_sealed(path, {"kind": kind, "spec": dict(spec), "files": described, "result": dict(result)})


def read_manifest(path: str | Path, kind: str | None = None) -> dict[str, Any]:
    """Read a manifest and check its format and kind (the files it names are checked when they are loaded)."""
    manifest: dict[str, Any] = read_sealed(path)
    if manifest.get("format") not in (1, FORMAT) or "files" not in manifest:
        raise ArtifactError(f"{path} is not a manifest of format {FORMAT}. {_AGAIN}")
    if kind is not None and manifest.get("kind") != kind:
        raise ArtifactError(f"{path} is a manifest of kind {manifest.get('kind')!r}, not {kind!r}.")
    for entry in manifest.get("files", {}).values():
        if (named := PurePath(entry["path"])).is_absolute() or ".." in named.parts:
            raise ArtifactError(f"{path} names {str(named)!r}, out of its own folder: it is none of ours. Delete it.")
    return manifest


def check_file(path: str | Path, manifest: Mapping[str, Any], name: str) -> Path:
    """Path of the file `name` of the manifest read from `path`, whose hash is checked: tables and pictures."""
    entry = manifest["files"].get(name)
    if entry is None:
        raise ArtifactError(f"{path} does not say what its {name} is to hash to (made by an older ddlib?). {_AGAIN}")
    file = Path(path).parent / str(entry["path"])
    if not file.is_file():
        raise ArtifactError(f"{file} does not exist. {path} names it: delete that to remake both.")
    if (found := sha256_file(file)) != entry["sha256"]:
        raise ArtifactError(
            f"{file} is not the file its manifest describes (sha256 {found[:12]}.., expected "
            f"{entry['sha256'][:12]}..). Delete it and {path} and run the workflow again."
        )
    return file


def load_file(
    path: str | Path, manifest: Mapping[str, Any], name: str
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Load the safetensors `name` of the manifest read from `path`, checking its hash."""
    entry = manifest["files"][name]
    return load_tensors(Path(path).parent / entry["path"], entry["sha256"])
