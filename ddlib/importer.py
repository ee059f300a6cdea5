"""Which events go where: attempts become runs, each event once. The rules alone; where runs are kept is the `Store`'s
business.

A run is found again by its key (output, spec hash, attempt) and remembers up to which byte of its file it holds, so
importing twice adds nothing and following a live file adds only its new lines. A job continued from its checkpoint
continues its run; a rerun is a new run and the old one is marked superseded; a job whose process is gone without an end
event is stopped. The latest runs of a set's jobs are children of its own (rule `merge`), which shows their accuracies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from ddlib.attempts import Attempt, is_alive, read_attempts, read_lines
from ddlib.families import Families
from ddlib.run_facts import (
    flatten,
    means,
    moving_tags,
    name,
    numbers,
    on_its_set,
    run_key,
    run_name,
    run_tags,
    settings,
)

KEY, BYTES, PARENT = "ddlib.key", "ddlib.bytes", "mlflow.parentRunId"
Labels = Callable[[str, str], Mapping[str, str]]
"""(output, spec hash) -> tags that only the plan knows, such as its suites; none of what is not asked for so."""


@dataclass
class Run:
    """What the store holds of one attempt."""

    id: str
    output: str
    key: str
    deleted: bool = False
    done_bytes: int = 0
    state: str = ""
    superseded: str = ""
    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)


class Store(Protocol):
    """Where runs are kept (`tracking.py` has MLflow's); times in milliseconds since 1970."""

    def runs(self) -> list[Run]:
        """All runs it holds."""

    def create(self, key: str, output: str, shown: str, time_ms: int) -> Run:
        """A new run with the tags KEY and output."""

    def add(
        self,
        run: Run,
        params: Mapping[str, str] | None = None,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add parameters and metrics (name, value, time, step; the same twice is once) and set tags."""

    def artifact(self, run: Run, path: Path, kind: str, time_ms: int) -> None:
        """Copy a file; a preview is shown as an image too."""

    def dataset(self, run: Run, event: Mapping[str, Any]) -> None:
        """Say which data it used."""

    def state(self, run: Run, state: str, time_ms: int) -> None:
        """Running again, or ended at `time_ms`: finished, failed, interrupted or stopped."""


def event_files(results: str | Path) -> list[Path]:
    """The event files below `results`, sorted."""
    return sorted(Path(results, "events").rglob("*.jsonl"))


class Importer:
    """Asks the store once what it holds, then adds what is new in the event files, as often as `update` is called."""

    def __init__(
        self,
        results: str | Path,
        store: Store,
        say: Callable[[str], None],
        labels: Labels = lambda output, spec_hash: {},
    ) -> None:
        self.results, self.store, self.say, self.labels = Path(results).resolve(), store, say, labels
        self.families = Families(self.results, say)
        self.known: dict[str, dict[str, Run]] = {}
        for run in store.runs():
            self.known.setdefault(run.output, {})[run.key] = run

    def update(self) -> int:
        """Import what is new in every event file, then relate the runs; return the number of events."""
        count = sum(self._file(path) for path in event_files(self.results) if not self._is_done(path))
        self.families.learn(self.known)
        for runs in self.known.values():
            for run in runs.values():
                if not run.deleted:
                    self._relate(run)
        return count

    def _is_done(self, path: Path) -> bool:
        """Whether the store has all of the file and nothing in it can change unless it grows."""
        _, start = next(iter(read_lines(path)), (0, {"event": ""}))
        if start["event"] != "start":
            return False
        runs = self.known.get(start["output"], {})
        if run_key(Attempt(start["attempt"], start["spec_hash"], [(0, start)])) not in runs:
            return False
        whole = max(run.done_bytes for run in runs.values()) == path.stat().st_size
        return whole and all(run.deleted or run.state != "running" for run in runs.values())

    def _file(self, path: Path) -> int:
        attempts = read_attempts(path)
        count = sum(self._attempt(attempt, latest=attempt is attempts[-1]) for attempt in attempts)
        if attempts:
            self._supersede(attempts[-1])
        return count

    def _attempt(self, attempt: Attempt, latest: bool) -> int:
        key, output = run_key(attempt), attempt.first["output"]
        runs = self.known.setdefault(output, {})
        if key not in runs:
            runs[key] = self.store.create(key, output, run_name(attempt), _ms(attempt.first))
        run = runs[key]
        if run.deleted:
            return 0
        new = [event for end, event in attempt.lines if end > run.done_bytes]
        if new:
            self._log(run, attempt, new)
        alive = latest and is_alive(attempt.start) is not False
        state = attempt.end["status"] if attempt.end else "running" if alive else "stopped"
        self._state(run, state, _ms(attempt.last))
        return len(new)

    def _log(self, run: Run, attempt: Attempt, new: list[dict[str, Any]]) -> None:
        """Add events to a run; the byte mark comes last, so that an import cut short is made good by the next."""
        params = {k: v for event in new for k, v in flatten(settings(event)) if k not in run.params}
        values = [(name(k), float(v), _ms(e), int(e.get("step", 0))) for e in new for k, v in numbers(e).items()]
        self.store.add(run, params, values + [(k, v, _ms(attempt.last), 0) for k, v in means(attempt).items()])
        if (parent := self._parent(run)) and run.tags.get(PARENT) == parent.id:
            self._show_on(parent, attempt)
        for event in new:
            if event["event"] == "dataset":
                self.store.dataset(run, event)
            if event["event"] == "artifact":
                path = self.results.parent / event["path"]
                if path.is_file():
                    self.store.artifact(run, path, event["kind"], _ms(event))
                else:
                    self.say(f"{path} is gone: its run is shown without it.")
        done = attempt.lines[-1][0]
        told = {**run_tags(attempt), **moving_tags(new)}
        told |= self.labels(run.output, attempt.spec_hash)
        self.store.add(run, tags={**told, BYTES: str(done)})
        run.params.update(params)
        run.tags.update(told)
        run.done_bytes = done

    def _state(self, run: Run, state: str, time_ms: int) -> None:
        if run.state != state:
            self.store.state(run, state, time_ms)
            run.state = state

    def _supersede(self, latest: Attempt) -> None:
        """Mark every run of this output but the latest, those of lost event files too."""
        for key, run in self.known[latest.first["output"]].items():
            mark = "false" if key == run_key(latest) else "true"
            if run.deleted or run.superseded == mark:
                continue
            if mark == "true" and run.state == "running":
                self._state(run, "stopped", _ms(latest.first))
            self.store.add(run, tags={"superseded": mark})
            run.superseded = mark

    def _latest(self, output: str) -> Run | None:
        """The run of an output that is not superseded."""
        runs = self.known.get(output, {}).values()
        return next((run for run in runs if run.superseded == "false" and not run.deleted), None)

    def _parent(self, run: Run) -> Run | None:
        """The latest run of the set that it belongs to."""
        card = self.families.set_of(run.output)
        return self._latest(card) if card else None

    def _relate(self, run: Run) -> None:
        """Give a run the labels of the plan, and a latest one its place below its set, where they are not so yet.

        Its place comes after what it shows there, so that an import cut short is made good by the next.
        """
        tags = dict(self.labels(run.output, run.tags.get("spec_hash", "")))
        tags |= {key: "no" for key in run.tags if tags and key.startswith("suite.") and key not in tags}
        parent = self._parent(run) if run.superseded == "false" else None
        if parent and run.tags.get(PARENT) != parent.id:
            path = self.results / "events" / PurePosixPath(run.output).relative_to("results").with_suffix(".jsonl")
            for attempt in read_attempts(path)[-1:]:
                self._show_on(parent, attempt)
            tags[PARENT] = parent.id
        changed = {key: value for key, value in tags.items() if run.tags.get(key) != value}
        if changed:
            self.store.add(run, tags=changed)
            run.tags.update(changed)

    def _show_on(self, parent: Run, attempt: Attempt) -> None:
        """On the run of a set: how it was condensed, and the accuracies it was evaluated with."""
        params, values = on_its_set(attempt)
        params = {key: value for key, value in params.items() if key not in parent.params}
        self.store.add(parent, params, [(key, value, _ms(attempt.last), 0) for key, value in values.items()])
        parent.params.update(params)


def _ms(event: Mapping[str, Any]) -> int:
    return int(1000 * event["time"] + 0.5)
