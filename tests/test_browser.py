"""What people look at, in a real Chromium: MLflow over a suite that ran every rule, and Snakemake's report."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from every import Every

pytestmark = pytest.mark.browser
PATIENCE = 60_000  # milliseconds: both cores may be busy with other tests


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> set[str]:
    """The addresses (hexadecimal, as the kernel lists them) at which something listens on a port."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    places = [words[1].split(":") for words in lines if words[3] == "0A"]
    return {address for address, found in places if int(found, 16) == port}


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return Every.finished(tmp_path_factory, tmp_path_factory.mktemp("browser") / "every")


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    """A browser window without a past."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1500, "height": 900})
        context.set_default_timeout(PATIENCE)
        yield context
        browser.close()


@pytest.fixture(scope="module")
def pages(every: Any) -> Iterator[str]:
    """The address that `make ui` prints, while it runs."""
    port = free_port()
    command = [sys.executable, "-m", "ddlib.jobs.track", "--ui", "--port", str(port)]
    with open(every.folder / "ui.log", "w") as log:
        running = subprocess.Popen(command, cwd=every.folder, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert running.stdout is not None
            said = running.stdout.readline()
            found = re.match(r"MLflow: (http://127\.0\.0\.1:\d+/\S+) ", said)
            assert found, said
            yield found[1]
            assert listening(port) == {"0100007F"}, "the pages are for this machine alone"
            assert running.poll() is None, "the pages stay until they are ended"
        finally:
            running.send_signal(signal.SIGINT)
            running.communicate(timeout=60)


@pytest.fixture
def runs(context: Any, pages: str) -> Iterator[Any]:
    """MLflow's list of runs, everything imported."""
    page = context.new_page()
    for _ in range(PATIENCE // 500):  # the server takes ten seconds to answer
        try:
            page.goto(f"{pages}&searchFilter=")  # else it comes back with the filter of the test before
            break
        except Exception as error:
            if "ERR_CONNECTION_REFUSED" not in str(error):
                raise
            page.wait_for_timeout(500)
    while page.get_by_text("matching run").inner_text().split()[0] == "0":  # no import is done yet
        page.wait_for_timeout(1000)
        page.reload()
    yield page
    page.close()


def filtered(page: Any, words: str, count: int) -> Any:
    """The links to the runs that a filter finds, once there are `count`."""
    from playwright.sync_api import expect

    box = page.get_by_role("combobox", name=re.compile("metrics.rmse"))
    box.fill(words)
    box.press("Enter")
    page.keyboard.press("Escape")
    try:
        expect(page.get_by_text("matching run")).to_have_text(re.compile(rf"^{count} matching runs?$"), timeout=10_000)
    except AssertionError:  # the import was still under way when the list was asked for
        page.reload()
        expect(page.get_by_text("matching run")).to_have_text(re.compile(rf"^{count} matching runs?$"))
    return page.get_by_role("grid").get_by_role("link", name=re.compile(r"^(set|condense|evaluate|condition|relabel) "))


def test_runs_are_listed_and_filtered_by_method(runs: Any) -> None:
    from playwright.sync_api import expect

    everything = runs.get_by_role("grid").get_by_role("link", name="set p ipc2 seed0")
    expect(everything).to_be_visible()
    found = filtered(runs, "tags.method = 'pdd_idc' and tags.`suite.every` = 'yes'", 5)
    # 2 stages, the network between them and an evaluation stand below their set
    expect(found).to_have_text(["set p ipc2 seed0"])
    runs.get_by_role("grid").get_by_role("button").first.click()
    names = ["condense p ipc1 seed0", "condense p ipc1 seed0 stage1", "condition p ipc1 seed0 block0 stage1"]
    for name in [*names, "evaluate p ipc2 seed0 quick group"]:
        expect(runs.get_by_role("link", name=name, exact=True)).to_be_visible()
    # the pages show the set above the one that is found
    filtered(runs, "tags.method = 'rded' and tags.rule = 'evaluate' and tags.labels = 'one_each'", 2)


def test_a_curve_is_opened(runs: Any) -> None:
    from playwright.sync_api import expect

    filtered(runs, "tags.rule = 'train_block'", 1)
    runs.get_by_role("link", name="train_block early seed0 block0").click()
    runs.get_by_role("tab", name="Model metrics").click()
    expect(runs.get_by_text("train_augmented").first).to_be_visible()
    curve = runs.locator(".js-plotly-plot path.js-line").first
    expect(curve).to_have_attribute("d", re.compile(r"M.+[LC].+"))  # through epochs, not a point


def test_a_preview_is_opened_and_the_set_has_its_accuracies(runs: Any) -> None:
    from playwright.sync_api import expect

    filtered(runs, "tags.rule = 'merge' and tags.method = 'drop2sparse' and tags.ipc = '1' and tags.seed = '0'", 1)
    runs.get_by_role("link", name="set m ipc1 seed0").click()
    expect(runs.get_by_text("accuracy/hard/quick/small").first).to_be_visible()
    runs.get_by_role("tab", name="Artifacts").click()
    for name in ("card", "set", "images", "preview"):
        expect(runs.get_by_role("listitem").filter(has_text=re.compile(rf"{name}$")).first).to_be_visible()
    runs.get_by_role("listitem").filter(has_text=re.compile("preview$")).first.click()
    runs.get_by_text("preview.png").first.click()
    picture = (
        runs.get_by_role("main").locator("img[src^='blob:'], img[src*='preview'], img[src^='data:image/png']").first
    )
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 100


def test_the_report_is_one_page_that_needs_nothing_else(every: Any, context: Any) -> None:
    """Written by Snakemake; looked at without a network."""
    from playwright.sync_api import expect

    done = every.snakemake("--report", "report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    context.set_offline(True)
    try:
        page.goto((every.folder / "report.html").as_uri())
        page.get_by_role("link", name="Suite every").click()
        shown = {name: page.get_by_role("row").filter(has_text=name) for name in ("figure", "table and provenance")}
        expect(page.get_by_role("row").filter(has_text="table as CSV")).to_be_visible()
        shown["table and provenance"].get_by_role("link").first.click()
        inside = page.frame_locator("iframe, object, embed").first
        expect(inside.get_by_role("heading", name="Suite every")).to_be_visible()
        expect(inside.get_by_role("cell", name="17.5%").first).to_be_visible()
        digest = every.results / "sets/p/ipc2/seed0/card.json"
        made = re.search(r'"sha256": "(\w{64})"', digest.read_text().split('"set"', 1)[1])
        assert made
        expect(inside.get_by_text(made[1]).first).to_be_attached()
        made_by = inside.get_by_role("cell", name="results/condensed/m/per1/seed0/stage0/phase0", exact=True)
        line = inside.get_by_role("row").filter(has=made_by)
        line.get_by_text("show").click()
        expect(line.get_by_text('"method": "drop2sparse"')).to_be_visible()
        shown["figure"].get_by_role("link").first.click()
        expect(page.locator("img[src^='data:image/png']")).to_be_visible()
        page.goto((every.folder / "report.html").as_uri())
        page.get_by_role("link", name="Synthetic sets").click()
        preview = page.get_by_role("row").filter(has=page.get_by_role("cell", name="p", exact=True))
        expect(preview).to_contain_text(re.compile("2.*0.*end.*every"))
        preview.get_by_role("link").first.click()
        picture = page.locator("img[src^='data:image/png']")
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.naturalWidth") > 100
    finally:
        context.set_offline(False)
        page.close()
    assert {address.split(":")[0] for address in asked} <= {"file", "data", "blob"}


def test_the_pages_follow_a_running_workflow_and_mark_what_it_supersedes(every: Any, runs: Any) -> None:
    """The last one, as it changes the results: students of one set are trained anew, for long enough to be seen."""
    filtered(runs, "tags.rule = 'evaluate' and tags.experiment = 'm' and tags.superseded = 'true'", 0)
    every.config["protocols"]["quick"]["epochs"] = 3000
    every.save()
    target = "results/evaluations/m/ipc1/seed0/hard/quick/group.json"
    environment = {**os.environ, "PYTHONPATH": str(every.folder)}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", target]
    with open(every.folder / "running.log", "w") as log:
        workflow = subprocess.Popen(command, cwd=every.folder, env=environment, stdout=log, stderr=log)
        try:
            shown = runs.get_by_text("matching run")
            filtered(runs, "attributes.status = 'RUNNING' and tags.rule = 'evaluate'", 0)
            while not shown.inner_text().startswith("2"):  # the run and, above it, its set
                assert workflow.poll() is None, "it ended without having been shown as running"
                runs.wait_for_timeout(1000)
                runs.reload()
                shown.wait_for()
            assert workflow.wait(timeout=300) == 0
        finally:
            workflow.kill()
            workflow.wait()
    runs.wait_for_timeout(10_000)  # two imports later
    for superseded in ("true", "false"):
        words = f"tags.rule = 'evaluate' and tags.experiment = 'm' and tags.superseded = '{superseded}'"
        filtered(runs, f"{words} and attributes.status = 'FINISHED'", 2)
