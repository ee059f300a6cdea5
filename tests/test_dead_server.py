"""A tracking server that is down or hangs does not stop a workflow, is said, and gets the events once it is back."""

import contextlib
import socket
import time

import pytest
from test_importer import Memory
from tiny import Tiny

from ddlib.importer import Importer, event_files


@contextlib.contextmanager
def nobody():
    """The address of a port at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextlib.contextmanager
def silence():
    """The address of a server that takes every call and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(("server", "why"), [(nobody, "refused"), (silence, "timed out")])
def test_a_workflow_ends_well_without_its_tracking_server(tmp_path_factory, tmp_path, server, why):
    tiny = Tiny.finished(tmp_path_factory, tmp_path / "repo")
    tiny.config["machine"]["tracking"] = "local"
    tiny.save()
    before = {path: path.read_bytes() for path in event_files(tiny.results)}
    began = time.monotonic()
    with server() as address:
        done = tiny.run("-m", "snakemake", "--cores", "2", "results/tables/a.csv", MLFLOW_TRACKING_URI=address)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 120
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("tracking: ")]
    assert f"no MLflow server answers at {address}" in said
    assert why in said
    assert "import again (make ui, or the next workflow run)" in said
    assert (tiny.results / "tables/a.csv").exists()
    assert not (tiny.results / "mlflow.db").exists()
    assert {path: path.read_bytes() for path in event_files(tiny.results)} == before
    store = Memory()
    assert Importer(tiny.results, store, print).update() == sum(text.count(b"\n") for text in before.values())
    assert {run.state for run in store.runs()} == {"finished"}
