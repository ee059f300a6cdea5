"""Where a long job is, on disk: killed at any moment and started again, it goes on from there.

Two generations are kept, so that a file damaged by the kill leaves the one before; a checkpoint of another
specification, or of other inputs, is never used. A lock keeps an orphan of a killed Snakemake and its successor apart.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddlib.artifacts import ArtifactError, content_hash, digest, load_tensors, save_tensors
from ddlib.writing import locked, remove_abandoned, storing

if TYPE_CHECKING:
    import torch

FOLDER = "checkpoints"


class Checkpoint:
    """Checkpoints of one output of one specification.

    `folder`/checkpoints/<output>.<spec hash>.{0,1}.safetensors; `seconds`: the least time between two savings;
    `inputs`: a digest of what it is made from.
    """

    def __init__(
        self,
        folder: str | Path,
        output: str,
        spec: Mapping[str, Any],
        seconds: float,
        say: Callable[[str], None] = print,
        inputs: str = "",
    ) -> None:
        self.hash = digest(dict(spec))
        self.stem = Path(folder) / FOLDER / f"{output}.{self.hash[:16]}"
        self.seconds, self.say, self.inputs = seconds, say, inputs
        self._generation, self._began, self._last = 0, time.monotonic(), time.monotonic()
        self.seconds_before = 0.0  # what earlier sessions spent on it, as of the checkpoint loaded
        self.execution: dict[str, Any] = {}  # how this session computes (threads, chunk, ...), kept beside the state

    def _file(self, generation: int) -> Path:
        return self.stem.with_name(f"{self.stem.name}.{generation % 2}.safetensors")

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The newest valid checkpoint as (tensors, facts), or None. Says what it refuses, and why."""
        found = self._newest()
        if found is None:
            return None
        tensors, meta = found
        self._generation, self.seconds_before = meta["generation"], meta["seconds"]
        return tensors, meta["facts"]

    def former_execution(self) -> dict[str, Any]:
        """How the session computed that wrote the newest valid checkpoint ({} if there is none)."""
        found = self._newest()
        return {} if found is None else dict(found[1]["execution"])

    def _newest(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        found = []
        for generation in (0, 1):
            path = self._file(generation)
            if not path.exists():
                continue
            try:
                tensors, meta = load_tensors(path)
                if meta.get("content") != content_hash(tensors):
                    raise ArtifactError(f"{path} is damaged: its content is not what was written")
            except ArtifactError as error:
                self.say(f"checkpoint not used: {error}")
                continue
            if meta.get("spec") != self.hash:
                self.say(f"checkpoint not used: {path} belongs to another specification")
                continue
            if meta.get("inputs", self.inputs) != self.inputs:
                self.say(f"checkpoint not used: {path} was begun with other inputs, which were made anew since")
                continue
            found.append((tensors, meta))
        return max(found, key=lambda item: item[1]["generation"], default=None)

    @property
    def spent(self) -> float:
        """Spent on it until now: by the sessions before, and by this one."""
        return self.seconds_before + time.monotonic() - self._began

    @property
    def due(self) -> bool:
        """Whether `seconds` have passed since the last saving."""
        return time.monotonic() - self._last >= self.seconds

    def save(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Write the next generation over the one before the last."""
        self._generation += 1
        meta = {"spec": self.hash, "generation": self._generation, "facts": dict(facts), "seconds": self.spent}
        meta |= {"inputs": self.inputs, "execution": self.execution, "content": content_hash(tensors)}
        save_tensors(self._file(self._generation), tensors, meta)
        self._last = time.monotonic()

    def discard(self) -> None:
        """Remove them, after success."""
        for generation in (0, 1):
            self._file(generation).unlink(missing_ok=True)
            remove_abandoned(self._file(generation))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other process away from this output. ValueError if one is at work on it."""
        with locked(self._lock, blocking=False) as mine:
            if not mine:
                raise ValueError(
                    f"another process is still working on {self.stem.name} (an orphan of a killed run?). "
                    "Wait for it or end it; nothing was changed."
                )
            try:
                with storing(self._lock):
                    self._lock.write_text(f"{socket.gethostname()} {os.getpid()} {self.inputs}")
                yield
            finally:
                self._lock.unlink(missing_ok=True)

    @property
    def _lock(self) -> Path:
        return self.stem.with_name(f"{self.stem.name}.lock")

    def outlast(self) -> bool:
        """Wait, and say so, until no other process is at work on this output; whether one was, from the same inputs."""
        same = False
        while not self._free():
            host, pid, inputs = self._holder()
            same = inputs == self.inputs
            self.say(
                f"another process is still working on {self.stem.name} (process {pid} on {host}, an orphan of a killed "
                "run?): waiting for it. If you end it instead, this one goes on from its checkpoint."
            )
            with locked(self._lock):
                self._lock.unlink(missing_ok=True)
        return same

    def _holder(self) -> tuple[str, str, str]:
        """Host, process id and digest of the inputs, as who holds it noted them."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            host, pid, inputs = self._lock.read_text().split(" ")
            return host, pid, inputs
        return "?", "?", "?"

    def _free(self) -> bool:
        if not self._lock.exists():
            return True
        with locked(self._lock, blocking=False) as mine:
            if mine:
                self._lock.unlink(missing_ok=True)
            return mine
