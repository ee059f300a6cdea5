"""What jobs reported (`events.py`), read back: the attempts of an output, each with its events.

Lines torn by a kill are skipped; a job that was continued from its checkpoint is one attempt.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Attempt:
    """One attempt as read back: `lines` are (end of the line in bytes, event), its start events among them."""

    id: str
    spec_hash: str
    lines: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    @property
    def first(self) -> dict[str, Any]:
        """Its first start event."""
        return self.lines[0][1]

    @property
    def start(self) -> dict[str, Any]:
        """Its last start event: the process that works, or worked, on it."""
        return [event for _, event in self.lines if event["event"] == "start"][-1]

    @property
    def last(self) -> dict[str, Any]:
        """Its last event."""
        return self.lines[-1][1]

    @property
    def end(self) -> dict[str, Any] | None:
        """Its end event; None while it runs, or if it was killed."""
        return self.last if self.last["event"] == "end" else None

    @property
    def is_finished(self) -> bool:
        """Whether it came to its good end."""
        return self.end is not None and self.end["status"] == "finished"


def read_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The events of a file with the byte at which each line ends; torn lines are skipped. A missing file has none."""
    if not Path(path).is_file():
        return
    place = 0
    with open(path, "rb") as handle:
        for line in handle:
            place += len(line)
            try:
                event = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and "event" in event:
                yield place, event


def read_attempts(path: str | Path) -> list[Attempt]:
    """The attempts in a file, the one that was started or continued last at the end."""
    found: dict[str, Attempt] = {}
    now: Attempt | None = None
    for place, event in read_lines(path):
        if event["event"] == "start":
            now = found.pop(event["attempt"], None) or Attempt(event["attempt"], event["spec_hash"])
            found[now.id] = now
        if now is not None:
            now.lines.append((place, event))
    return list(found.values())


def is_alive(start: Mapping[str, Any]) -> bool | None:
    """Whether the process of a start event still lives; None if it is another host's and can't be known."""
    if start.get("host") != socket.gethostname():
        return None
    try:
        os.kill(int(start["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
