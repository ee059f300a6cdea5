"""MLflow: the only module that knows it. Brings the events of jobs (JSON lines under results/events) there.

`results/` is the truth and MLflow a view of it: one writer, behind a lock, so nothing races, a dead server never ends a
job, and a lost database is made again by the next import. Idempotent: a run is found again by the tag `ddlib.key`
(output, spec hash, attempt), the tag `ddlib.bytes` says up to which byte of its file it has been imported. A job
continued from its checkpoint continues its run; a rerun is a new run, and the old one is tagged `superseded`.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddlib.artifacts import canonical
from ddlib.importer import BYTES, KEY, Importer, Labels, Run
from ddlib.writing import locked

EXPERIMENT = "ddlib"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
_ABOUT = {
    "mlflow.experimentKind": "custom_model_development",  # its page opens on runs, not on traces of language models
    "mlflow.note.content": "Runs of ddlib, brought here from results/events. What to type into the search box, and what"
    " the tags mean: docs/mlflow.md.",
}
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "stopped": "KILLED"}
_FOREIGN = ("mlflow", "sqlalchemy", "alembic", "requests", "urllib3", "sqlite3")
_KEPT = (
    "The events under results/events are as they were: repair it and import again (make ui, or the next workflow run)."
)


class TrackingError(RuntimeError):
    """MLflow can't be reached or used. The events are as they were; the next import brings them in."""


def tracking_uri(results: str | Path, tracking: str = "local") -> str | None:
    """Where to: MLFLOW_TRACKING_URI if set, else results/mlflow.db (absolute); None for `tracking: none`."""
    if tracking not in ("local", "none"):
        raise ValueError(f"tracking must be local or none, not {tracking!r}; a server is named by MLFLOW_TRACKING_URI")
    if tracking == "none":
        return None
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(results).resolve() / 'mlflow.db'}"


def import_events(
    results: str | Path,
    uri: str | None,
    follow: bool = False,
    *,
    every_s: float = 5.0,
    say: Callable[[str], None] = print,
    stop: Callable[[], bool] = lambda: False,
    labels: Labels = lambda output, spec_hash: {},
) -> int:
    """Bring new events into MLflow at `uri` (None: do nothing); return how many. A second importer at once leaves.

    `follow`: go on every `every_s` seconds until `stop()`; another importer or a dead server is then waited for.
    `labels`: what the plan knows of a run. TrackingError (without `follow`) if MLflow can't be reached or used.
    """
    count, said = 0, ""
    while uri is not None:
        trouble = f"another importer is at work on {results}: it brings these events in."
        with locked(Path(results, ".mlflow.lock"), blocking=False) as mine:
            try:
                for new in _updates(results, uri, every_s if follow else None, say, stop, labels) if mine else ():
                    count, said, trouble = count + new, "", ""
            except TrackingError as error:
                if not follow:
                    raise
                trouble = str(error)
        if trouble and trouble != said:
            say(trouble)
        if not follow or stop():
            break
        said = trouble
        time.sleep(every_s)
    return count


def _updates(
    results: str | Path,
    uri: str,
    every_s: float | None,
    say: Callable[[str], None],
    stop: Callable[[], bool],
    labels: Labels,
) -> Iterator[int]:
    """Events added by one import after the other (only one if `every_s` is None)."""
    with _explained(uri):
        importer = Importer(results, MlflowStore(results, uri), say, labels)
        yield importer.update()
        while every_s is not None and not stop():
            time.sleep(every_s)
            yield importer.update()


def prepare(results: str | Path, uri: str) -> tuple[Any, str]:
    """(MlflowClient, id of our experiment), made if need be: one process at a time, several crash a new database."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    if uri.startswith(("http://", "https://")):
        _knock(uri)
    with locked(Path(results, ".mlflow.create.lock")), _explained(uri):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None and found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        remote = uri.startswith(("http://", "https://", "databricks"))
        place = None if remote else (Path(results).resolve() / "mlruns").as_uri()
        number = found.experiment_id if found is not None else client.create_experiment(EXPERIMENT, place)
        held = found.tags if found is not None else {}
        for key, value in _ABOUT.items():
            if held.get(key) != value:
                client.set_experiment_tag(number, key, value)
    return client, str(number)


def shown(uri: str) -> str:
    """`uri` without user name and password."""
    return re.sub(r"//[^/\s]*@", "//", uri)


def _knock(uri: str) -> None:
    """One quick request, so that a dead server is found in seconds. Any answer will do (some want a login first)."""
    try:
        urllib.request.urlopen(f"{shown(uri).rstrip('/')}/health", timeout=10).close()
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise TrackingError(f"no MLflow server answers at {shown(uri)} ({shown(str(error))}). {_KEPT}") from None


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Errors of MLflow and of what it stands on as one TrackingError."""
    try:
        yield
    except Exception as error:
        ours = type(error).__module__.split(".")[0] not in _FOREIGN
        if ours and not isinstance(error, OSError):
            raise
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise TrackingError(f"MLflow at {shown(uri)} can't be used: {shown(words[0])[:300]} {_KEPT}") from error


class MlflowStore:
    """Runs of the experiment `ddlib` in an MLflow server or database (see `importer.Store`)."""

    def __init__(self, results: str | Path, uri: str) -> None:
        self.client, self.experiment = prepare(results, uri)

    def runs(self) -> list[Run]:
        """All our runs, deleted ones too (they stay deleted)."""
        from mlflow.entities import ViewType

        found: list[Run] = []
        token: str | None = None
        while token is None or token:
            page = self.client.search_runs([self.experiment], "", ViewType.ALL, max_results=1000, page_token=token)
            found += [_run(run) for run in page if KEY in run.data.tags]
            token = page.token or ""
        return found

    def create(self, key: str, output: str, shown: str, time_ms: int) -> Run:
        """A new run."""
        tags = {KEY: key, "output": output}
        made = self.client.create_run(self.experiment, start_time=time_ms, tags=tags, run_name=shown)
        return Run(made.info.run_id, output, key)

    def add(
        self,
        run: Run,
        params: Mapping[str, str] | None = None,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Parameters and tags 100 a call, metrics (name, value, time, step) 1000 a call: MLflow's limits."""
        from mlflow.entities import Metric, Param, RunTag

        for part in _parts([Param(*item) for item in (params or {}).items()], 100):
            self.client.log_batch(run.id, params=part)
        for part in _parts([Metric(*value) for value in metrics], 1000):
            self.client.log_batch(run.id, metrics=part)
        for part in _parts([RunTag(*item) for item in (tags or {}).items()], 100):
            self.client.log_batch(run.id, tags=part)

    def artifact(self, run: Run, path: Path, kind: str, time_ms: int) -> None:
        """Copy a file into the run's folder `kind`; a preview also to where the pages compare images (`images/`)."""
        self.client.log_artifact(run.id, str(path), kind)
        if kind == "preview":
            import mlflow

            try:
                picture = mlflow.Image(str(path))
            except OSError:  # no picture, or a damaged one: it is there as a file, as it is
                return
            self.client.log_image(run.id, picture, key=kind, step=0, timestamp=time_ms)

    def dataset(self, run: Run, event: Mapping[str, Any]) -> None:
        """Say which data it used, by our digest (MLflow keeps 36 characters, we give 32)."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = Dataset(event["name"], event["sha256"][:32], "local", canonical({"uri": event["path"]}))
        self.client.log_inputs(run.id, [DatasetInput(data, [InputTag("mlflow.data.context", event["context"])])])

    def state(self, run: Run, state: str, time_ms: int) -> None:
        """Running again, or ended at `time_ms`."""
        if state == "running":
            self.client.update_run(run.id, status="RUNNING")
        else:
            self.client.set_terminated(run.id, _STATUS[state], time_ms)
        self.add(run, tags={"status": state})


def _run(run: Any) -> Run:
    tags, deleted = run.data.tags, run.info.lifecycle_stage == "deleted"
    state, superseded = tags.get("status", ""), tags.get("superseded", "")
    done = int(tags.get(BYTES, 0))
    held = set(run.data.params), dict(tags)
    return Run(run.info.run_id, tags["output"], tags[KEY], deleted, done, state, superseded, *held)


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
