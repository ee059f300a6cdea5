"""Bring the events of jobs into MLflow: `--once` now, `--follow` until Ctrl-C, `--ui` with the pages of MLflow beside
it.

Run by the workflow after every run, and by `make ui`. Needs no GPU and writes nothing but the database and its
artifacts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ddlib.importer import event_files
from ddlib.plan_labels import PlanLabels
from ddlib.tracking import TrackingError, import_events, prepare, shown, tracking_uri


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or 1 with one clear line if MLflow can't be reached or used."""
    parser = argparse.ArgumentParser(prog="python -m ddlib.jobs.track", description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--once", action="store_true", help="import what is new and leave")
    mode.add_argument("--follow", action="store_true", help="import every five seconds until Ctrl-C")
    mode.add_argument("--ui", action="store_true", help="start MLflow's pages and follow until Ctrl-C")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of results (default: results)")
    parser.add_argument(
        "--tracking", default="local", choices=("local", "none"), help="the machine setting of that name"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address of the pages (default: this machine only)")
    parser.add_argument("--port", type=int, default=5000, help="port of the pages (default: 5000)")
    options = parser.parse_args(argv)
    try:
        return _run(options)
    except (TrackingError, ValueError) as error:
        print(f"tracking: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _run(options: argparse.Namespace) -> int:
    uri = tracking_uri(options.results, options.tracking)
    if uri is None:
        print("tracking is none: nothing is brought into MLflow (machine: tracking: local in config.yaml).")
        return 0
    labels = PlanLabels(options.results.resolve().parent)
    empty = not event_files(options.results)
    if empty:
        print(
            f"no events under {options.results / 'events'} yet: no job has started. Run the workflow first.", flush=True
        )
    if options.once:
        count = 0 if empty else import_events(options.results, uri, labels=labels)
        print(f"{count} new events brought into {shown(uri)}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options.follow:
        import_events(options.results, uri, follow=True, labels=labels)
        return 0
    with _pages(options, uri) as server:
        ended = (lambda: server.poll() is not None) if server else (lambda: False)
        import_events(options.results, uri, follow=True, stop=ended, labels=labels)
    raise TrackingError("MLflow's pages ended by themselves: what they said is above.")


@contextlib.contextmanager
def _pages(options: argparse.Namespace, uri: str) -> Iterator[subprocess.Popen[bytes] | None]:
    """MLflow's web pages as a process of its own, ended with this one; for a server there is nothing to start."""
    _, experiment = prepare(options.results, uri)  # makes a new database before the pages look for one
    if uri.startswith(("http://", "https://")):
        print(f"runs are at {shown(uri)} ; new events are brought there until Ctrl-C", flush=True)
        yield None
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, options.port))
        except OSError as error:
            raise TrackingError(
                f"{options.host}:{options.port} can't be used ({error.strerror}): give another --port"
            ) from None
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--workers", "1"]
    command += ["--host", options.host, "--port", str(options.port)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    page = f"http://{options.host}:{options.port}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    print(f"MLflow: {page} (in about ten seconds; Ctrl-C ends it)", flush=True)
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
