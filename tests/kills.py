"""Kills of jobs, of Snakemake and of all at once (a power cut), at random moments of a workflow that is under way.

A moment lies a random while after something new has happened (a job has started, or written lines or checkpoints), so
that each kill finds the work further on, however busy the machine is.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd

from ddlib.tables import COSTS

SNAKEMAKE, POWER = "snakemake", "power cut"
ORPHAN = "another process is still working"


def until(true, seconds=120.0):
    """Wait for something; the test fails if it does not come true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def processes(folder):
    """Processes (not defunct ones) that work in a folder: id -> words of the command."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(entry / "cwd") == str(folder):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
    return found


def jobs(folder):
    """Jobs at work in a folder: process id -> (rule, output below results/, without suffix)."""
    found = {}
    for pid, words in processes(folder).items():
        if words[1:2] == ["-m"] and words[2].startswith("ddlib.jobs.") and ("--output" in words or "--table" in words):
            option = "--output" if "--output" in words else "--table"
            output = words[words.index(option) + 1].removeprefix("results/")
            found[pid] = words[2].removeprefix("ddlib.jobs."), output.rpartition(".")[0]
    return found


def started(tiny, log, *words):
    """Snakemake on two cores in a process group of its own, with what it says at the end of a file."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tiny.folder)}
    with open(log, "a") as file:
        return subprocess.Popen(
            command, cwd=tiny.folder, env=environment, stdout=file, stderr=file, start_new_session=True
        )


class Killer:
    """Runs the workflow of a checkout (`tiny`) to its end through kills. `whole`: results of one that was not killed,
    to know how long jobs are; `quota`: how often which rule, SNAKEMAKE and POWER are still to be killed; `moments`:
    random numbers."""

    def __init__(self, tiny, whole, quota, moments):
        self.tiny, self.whole, self.quota, self.moments = tiny, whole, Counter(quota), moments
        self.log = tiny.folder / "killed.log"
        self.kills, self.waited, self.taken, self.lost_s, self.starts = [], 0, 0, 0.0, 0
        self._seen = set()  # jobs that are done with, or have had their kill

    def run(self):
        """Start the workflow, kill, start it again, until it is finished; then wait for what orphans still do."""
        self.tiny.save()
        while True:
            before, text = len(self.kills), self._text()
            code = self._one_run()
            said = self._text()[len(text) :]
            self.waited += said.count(ORPHAN)
            self.taken += said.count("it is taken as it is")
            assert "Traceback" not in said, said[-3000:]
            if code == 0:
                break
            assert len(self.kills) > before, said[-3000:]  # nothing else ends a run
        until(lambda: not processes(self.tiny.folder))

    def _one_run(self):
        self.starts += 1
        snakemake = started(self.tiny, self.log)
        while snakemake.poll() is None:
            new = {pid: what for pid, what in jobs(self.tiny.folder).items() if pid not in self._seen}
            if not new or not +self.quota:
                time.sleep(0.01)
                continue
            pid, (rule, output) = max(sorted(new.items()), key=lambda item: self.quota[item[1][0]])
            self._seen.add(pid)
            victim = self._victim(rule)
            if victim and self._comes(pid, output) and snakemake.poll() is None:
                self._kill(victim, pid, output, snakemake)
        return snakemake.wait()

    def _victim(self, rule):
        """What to kill as a job of a rule is at work: mostly that job, else Snakemake or all; None: nothing."""
        others = [name for name in (SNAKEMAKE, POWER) if self.quota[name] > 0]
        if self.moments.random() < 0.2 and others:
            return self.moments.choice(others)
        return rule if self.quota[rule] > 0 else None

    def _comes(self, pid, output):
        """Wait for a random moment of a job; False if it has ended before."""
        events = self.whole / f"events/{output}.jsonl"
        lines = events.read_bytes().count(b"\n") if events.is_file() else 0
        wanted = self.moments.choice([number for number in (0, 0, 1, 2, 3, 5, 8) if number <= max(0, lines - 2)])
        before, here = self._signs(output), time.monotonic()
        while len(self._signs(output) - before) < wanted and self._lives(pid) and time.monotonic() - here < 60:
            time.sleep(0.005)
        time.sleep(self.moments.uniform(0, 1.0 if wanted == 0 else 0.1))
        return self._lives(pid)

    def _lives(self, pid):
        return pid in jobs(self.tiny.folder)

    def _signs(self, output):
        """What a job has left so far: its lines of events, and its checkpoints by when they were written."""
        events = self.tiny.results / f"events/{output}.jsonl"
        lines = events.read_bytes().count(b"\n") if events.is_file() else 0
        return {("line", number) for number in range(lines)} | {("checkpoint", *one) for one in self._written(output)}

    def _written(self, output):
        folder = (self.tiny.results / "checkpoints" / output).parent
        found = set()
        for path in folder.glob(f"{Path(output).name}.*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                found.add((path.name, path.stat().st_mtime_ns))
        return found

    def _kill(self, victim, pid, output, snakemake):
        began = Path(f"/proc/{pid}").stat().st_mtime if self._lives(pid) else time.time()
        kept = max((time_ns / 1e9 for _, time_ns in self._written(output)), default=began)
        if victim == POWER:
            os.killpg(snakemake.pid, signal.SIGKILL)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(snakemake.pid if victim == SNAKEMAKE else pid, signal.SIGKILL)
        if victim != SNAKEMAKE:  # else the job goes on without it
            self.lost_s += time.time() - max(kept, began)
            until(lambda: pid not in processes(self.tiny.folder))
        self.quota[victim] -= 1
        self.kills.append(victim)
        if victim in (SNAKEMAKE, POWER):
            snakemake.wait()
            self._unlock()

    def _unlock(self):
        """Snakemake keeps the folder locked after its death, and says what to do."""
        if any((self.tiny.folder / ".snakemake/locks").glob("*")):
            done = self.tiny.snakemake("--unlock")
            assert done.returncode == 0, done.stderr

    def _text(self):
        return self.log.read_text() if self.log.is_file() else ""


COSTLY = re.compile(r"(events|logs|tables|mlruns)/.*|.*\.run\.json|mlflow\.db.*|\..*\.lock")


def content(tiny):
    """Every result but those that hold costs: path below results/ -> bytes."""
    files = {str(path.relative_to(tiny.results)): path for path in tiny.results.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not COSTLY.fullmatch(name)}


def table(tiny, suite):
    """A table without its three columns of costs."""
    return pd.read_csv(tiny.results / f"tables/{suite}.csv").drop(columns=COSTS)


def left_behind(tiny):
    """What a finished workflow should not have left: half-written files, checkpoints, locks, processes."""
    files = [str(path) for path in tiny.results.rglob("*.tmp")]
    files += [str(path) for path in (tiny.results / "checkpoints").rglob("*") if path.is_file()]
    files += [str(path) for path in (tiny.folder / ".snakemake/locks").glob("*")]
    files += [str(path) for path in (tiny.folder / ".snakemake/incomplete").glob("*")]
    return files + [" ".join(words) for words in processes(tiny.folder).values()]
