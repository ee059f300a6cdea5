"""What a job reports while it runs: JSON lines appended to one file per output, whatever becomes of the job.

One line per event: ``{"time": unix seconds, "event": "start" | "params" | "metric" | "progress" | "artifact" |
"dataset" | "end", ...}``. Each is one append, so a kill leaves at most one torn last line, which readers skip and the
next attempt closes. An *attempt* is a run of the job from its beginning; a job that continues from its checkpoint
(`resumed`) continues the attempt. Nothing here knows MLflow.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddlib.artifacts import canonical, digest
from ddlib.attempts import read_attempts

STATUSES = ("finished", "failed", "interrupted")


class NullEvents:
    """Events for a notebook: accepted and forgotten."""

    def start(
        self,
        rule: str,
        output: str,
        spec: Mapping[str, Any],
        tags: Mapping[str, Any] | None = None,
        *,
        resumed: bool = False,
    ) -> str:
        """Begin an attempt (or continue the last one of the same spec); return its id."""
        attempt = secrets.token_hex(4)
        self._put(
            "start", rule=rule, output=output, spec=dict(spec), tags=dict(tags or {}), attempt=attempt, resumed=resumed
        )
        return attempt

    def params(self, values: Mapping[str, Any]) -> None:
        """Facts that hold for the whole attempt and are not in the spec (chunk size, compiled or not)."""
        self._put("params", values=dict(values))

    def metric(self, step: int, **values: float) -> None:
        """Numbers at `step` (epoch, outer iteration, ...); not a number and infinity are kept as text."""
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(
                    f"metric {name!r} must be a plain number, not {type(value).__name__}: use .item() or float()"
                )
        self._put("metric", step=int(step), values={k: v if math.isfinite(v) else str(v) for k, v in values.items()})

    def artifact(self, path: str | Path, kind: str) -> None:
        """A file worth looking at (`kind`: preview, card, set, ...); path relative to the working directory, or
        absolute.
        """
        self._put("artifact", path=str(path), kind=kind)

    def dataset(self, name: str, sha256: str, path: str | Path, context: str = "train") -> None:
        """The data used: name, SHA-256 of its tensors, manifest, and what for (train, test)."""
        self._put("dataset", name=name, sha256=sha256, path=str(path), context=context)

    def progress(self, done: int, total: int, unit: str, eta_s: float | None) -> None:
        """How far the job is, and the seconds still to go (None: not known yet)."""
        self._put("progress", done=done, total=total, unit=unit, eta_s=None if eta_s is None else round(eta_s, 1))

    def end(self, status: str, **summary: Any) -> None:
        """The end of the attempt: finished, failed or interrupted, with a few facts."""
        if status not in STATUSES:
            raise ValueError(f"an attempt ends {', '.join(STATUSES)}, not {status!r}")
        self._put("end", status=status, summary=summary)

    def _put(self, event: str, **values: Any) -> None:
        canonical(values)  # what could not be written is refused in notebooks too


class Events(NullEvents):
    """Events appended to `path` (made with its folder at the first one). A full disk is said once and does not end
    the job.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._warned = False
        self._torn = False  # a kill or a full disk cut the last line: the next one begins on a line of its own

    def start(
        self,
        rule: str,
        output: str,
        spec: Mapping[str, Any],
        tags: Mapping[str, Any] | None = None,
        *,
        resumed: bool = False,
    ) -> str:
        """As NullEvents.start; adds host, process id and SLURM id, closes a line torn by a kill, and continues nothing
        that has finished.
        """
        known = digest(dict(spec))
        former = [a for a in read_attempts(self.path) if a.spec_hash == known and not a.is_finished] if resumed else []
        attempt = former[-1].id if former else secrets.token_hex(4)
        self._torn = self._is_torn()
        self._put(
            "start",
            rule=rule,
            output=output,
            spec=dict(spec),
            spec_hash=known,
            tags=dict(tags or {}),
            attempt=attempt,
            resumed=resumed,
            host=socket.gethostname(),
            pid=os.getpid(),
            slurm_id=os.environ.get("SLURM_JOB_ID"),
        )
        return attempt

    def _is_torn(self) -> bool:
        """Whether the last line has no end: a kill or a full disk cut it."""
        if not self.path.is_file() or not self.path.stat().st_size:
            return False
        with open(self.path, "rb") as handle:
            handle.seek(-1, os.SEEK_END)
            return handle.read(1) != b"\n"

    def _put(self, event: str, **values: Any) -> None:
        line = canonical({"time": round(time.time(), 3), "event": event, **values}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                found = (b"\n" if self._torn else b"") + line.encode()
                written = os.write(handle, found)
                self._torn = written < len(found) and (written > 0 or self._torn)
            finally:
                os.close(handle)
        except OSError as error:
            if not self._warned:
                print(
                    f"events of this job can't be written to {self.path} ({error}); it goes on without.",
                    file=sys.stderr,
                )
            self._warned = True
