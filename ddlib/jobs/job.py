"""What every job does around its work: a device, events, a clear error, and the record of what it cost."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib
import json
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddlib.artifacts import ArtifactError, digest, read_manifest, sha256_file, write_sealed
from ddlib.checkpoints import Checkpoint
from ddlib.devices import lease
from ddlib.events import Events, NullEvents
from ddlib.writing import StorageError

if TYPE_CHECKING:
    from ddlib.train.compiler import Compiler

RESULTS = Path("results")


def parser(doc: str | None, gpu: bool = False) -> argparse.ArgumentParser:
    """The options all jobs share: --spec and --output, and for jobs on a device --machine, --gpus and --run."""
    options = argparse.ArgumentParser(description=doc)
    options.add_argument("--spec", type=json.loads, required=True, help="the job's resolved specification (JSON)")
    options.add_argument("--output", type=Path, required=True, help="the manifest to write")
    if gpu:
        options.add_argument("--machine", type=json.loads, required=True, help="machine settings (JSON)")
        options.add_argument("--gpus", type=int, default=0, help="devices to lease")
        options.add_argument("--run", type=Path, required=True, help="the record of cost and circumstances to write")
    return options


def guarded(main: Callable[[], None]) -> None:
    """Run a job; an error that is the user's to mend is one line, not a traceback. Exit code 1."""
    try:
        main()
    except (ValueError, FloatingPointError, FileNotFoundError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


@dataclass
class Job:
    """A job at work: `device` for tensors, `events`, and facts for ``*.run.json``."""

    device: str
    description: str
    machine: Mapping[str, Any]
    output: Path
    spec: Mapping[str, Any]
    events: NullEvents
    inputs: str = ""  # a digest of what it is made from
    facts: dict[str, Any] = field(default_factory=dict)
    finished: list[Checkpoint] = field(default_factory=list)  # discarded when everything is written

    def checkpoint(self, part: str = "") -> Checkpoint:
        """Checkpoints of this job's output (or of a part of it), of no use once its inputs have another content."""
        seconds = self.machine["checkpoint_seconds"]
        return Checkpoint(RESULTS, stem(self.output) + part, self.spec, seconds, say=say, inputs=self.inputs)

    def go_on_as(self, checkpoint: Checkpoint) -> None:
        """Compute as the session did that wrote the checkpoint, if there is one: threads, chunk, precision and the
        decision to compile change the last bits, and a resumed job ends with the bytes of an uninterrupted one."""
        former = checkpoint.former_execution()
        changed = [f"{key}: {value}" for key, value in former.items() if self.machine.get(key) != value]
        if former:
            self.machine = {**self.machine, **former}
            _set_threads(self.machine, self.device)
            say(f"going on from a checkpoint{', as it was begun: ' + ', '.join(changed) if changed else ''}")

    def execution(self) -> dict[str, Any]:
        """What of this session's machine settings changes the last bits, for checkpoints."""
        return {key: self.machine[key] for key in ("threads", "precision", "deterministic")}

    def computes(self, compiler: Compiler, class_chunk: int | None = None) -> dict[str, Any]:
        """How this session computes, for its checkpoints and the record of the run."""
        chunk = self.machine["class_chunk"] if class_chunk is None else class_chunk
        self.facts |= {"compile_reason": compiler.reason, "class_chunk": chunk}
        return {**self.execution(), "class_chunk": chunk, "compile": "always" if compiler.enabled else "never"}


def say(text: str) -> None:
    """A line for the log and the terminal."""
    print(text, file=sys.stderr, flush=True)


def stem(output: Path) -> str:
    """The manifest's path below results/, without suffix: what events and checkpoints are filed under."""
    path = output.with_suffix("")
    return str(path.relative_to(RESULTS)) if path.is_relative_to(RESULTS) else str(path).lstrip("/")


@contextlib.contextmanager
def at_work(rule: str, options: argparse.Namespace, tags: Mapping[str, Any]) -> Iterator[Job]:
    """Lease a device (before torch is imported), open the events, and write ``*.run.json`` when the work is done.

    No two processes work on one output: the later one waits, and leaves (exit code 0) if the other has made it.
    """
    machine, spec = options.machine, options.spec
    events = Events(RESULTS / "events" / f"{stem(options.output)}.jsonl")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    own = Checkpoint(RESULTS, stem(options.output), spec, 0.0, say, _content(options))
    if own.outlast() and _is_made(options):
        say(f"{options.output} was finished by that process, from the same inputs: it is taken as it is")
        raise SystemExit(0)
    with own.held(), lease(machine, options.gpus, say=say) as held:
        import_torch()
        _set_threads(machine, held.device)
        keep_memory()
        began, wall = time.time(), time.monotonic()
        job = Job(held.device, held.description, machine, options.output, spec, events, own.inputs)
        resumed = any((RESULTS / "checkpoints").glob(f"{stem(options.output)}.*.safetensors"))
        commit, dirty = _commit()
        events.start(
            rule,
            str(options.output),
            spec,
            {**tags, "device": held.description, "commit": commit, "dirty": dirty},
            resumed=resumed,
        )
        try:
            yield job
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"
            events.end(status, error=f"{type(error).__name__}: {error}"[:500])
            raise
        seconds = time.monotonic() - wall + job.facts.pop("seconds_before", 0.0)
        record = _record(job, held, seconds, began, commit, dirty)
        write_sealed(options.run, record)
        for checkpoint in job.finished:
            checkpoint.discard()
        job.events.end("finished", seconds=seconds, peak_memory_mb=record["peak_memory_mb"])


def import_torch() -> None:
    """Import torch, most of a small job's start: without stops to collect garbage (an eighth), and without its
    compiler as long as nothing is compiled (half)."""
    gc.disable()
    try:
        importlib.import_module("torch")
    finally:
        gc.enable()
    from ddlib.train.compiler import spare_compiler

    spare_compiler()


def _content(options: argparse.Namespace) -> str:
    """A digest of the files that a job is given, or that the manifests it is given name."""
    given = {name: value for name, value in vars(options).items() if name not in ("output", "run", "table")}
    lists = [value if isinstance(value, list) else [value] for value in given.values()]
    paths = [path for several in lists for path in several if isinstance(path, Path)]
    return digest([_hashes(path) for path in paths])


def _hashes(path: Path) -> list[str]:
    if path.suffix == ".json":
        return [file["sha256"] for file in read_manifest(path)["files"].values()]
    return [sha256_file(path)] if path.is_file() else []


def _is_made(options: argparse.Namespace) -> bool:
    """Whether output and record are there, made to this specification, with the files that the output names."""
    try:
        manifest = read_manifest(options.output)
    except ArtifactError:
        return False
    files = [(options.output.parent / file["path"], file["sha256"]) for file in manifest["files"].values()]
    whole = all(path.is_file() and sha256_file(path) == known for path, known in files)
    return whole and options.run.is_file() and digest(manifest["spec"]) == digest(options.spec)


def _set_threads(machine: Mapping[str, Any], device: str) -> None:
    import torch

    torch.set_num_threads(machine["threads"])
    if device == "cuda":
        tf32 = machine["precision"] == "tf32"
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to repeat itself
        torch.backends.cudnn.deterministic = machine["deterministic"]
        torch.use_deterministic_algorithms(machine["deterministic"], warn_only=True)


def keep_memory() -> bool:
    """Have glibc keep the memory that tensors free, as the next step wants it again; False where there is no glibc.

    By default every large tensor is mapped anew from the kernel and its pages filled with zeros: a quarter of the CPU
    time of a training step. Results do not change.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    trim, pad, mappings = -1, -2, -4  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX of malloc.h
    return all([libc.mallopt(mappings, 0), libc.mallopt(trim, 2**31 - 1), libc.mallopt(pad, 2**26)])


def _record(job: Job, held: Any, seconds: float, began: float, commit: str, dirty: bool) -> dict[str, Any]:
    import torch

    versions = {"python": platform.python_version(), "torch": torch.__version__}
    kept = {key: job.machine[key] for key in ("threads", "class_chunk", "compile", "precision", "deterministic")}
    return {
        **kept,
        **job.facts,
        "device": held.description,
        "seconds": round(seconds, 3),
        "peak_memory_mb": round(peak_memory_mb(job.device), 1),
        "commit": commit,
        "dirty": dirty,
        "host": socket.gethostname(),
        "versions": versions,
        "started": round(began, 3),
        "ended": round(time.time(), 3),
        "slurm_id": os.environ.get("SLURM_JOB_ID"),
    }


def peak_memory_mb(device: str) -> float:
    """Peak memory of this process so far in MB: allocated on the GPU, or resident on the CPU."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


def _commit() -> tuple[str, bool]:
    """(git commit of the code, whether it was changed since); "unknown" outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        return _git(root, "rev-parse", "HEAD"), bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return "unknown", False
