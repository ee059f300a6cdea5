"""The whole workflow on a suite that takes a minute, run once a session; tests work on copies of its results."""

import copy
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from ddlib.writing import locked

ROOT = Path(__file__).resolve().parent.parent
CONFIG = yaml.safe_load(
    """
default_suite: tiny
datasets: {digits: {source: digits, classes: 10}}
networks:
  small: {architecture: convnet, depth: 1, width: 4}
  wide: {architecture: convnet, depth: 1, width: 8}
students: {group: [small]}
protocols: {quick: {recipe: idc, epochs: 1, whole_steps: 1, repeats: 1}}
pools: {early: {dataset: digits, network: small, training: {epochs: 1}}}
experiments:
  a: &a
    method: idc
    dataset: digits
    network: small
    ipc: [1]
    seeds: [0]
    settings: {outer_iterations: 1, inner_steps: 1, network_samples: 64, real_batch: 8, init: first, factor: 1}
    protocols: [quick]
    students: group
  b: {<<: *a, pool: early, view: {members: 1, epochs: [0]}}
suites: {tiny: {experiments: [a, b]}}
machine: {device: cpu, compile: never, tracking: none}
"""
)
DATA = {"data/digits/train.json"}


def condensed(name, ipc=1, seed=0):
    """The condensation of a set."""
    return f"condensed/{name}/per{ipc}/seed{seed}/stage0/phase0.json"


def card(name, ipc=1, seed=0):
    """The merging of a set."""
    return f"sets/{name}/ipc{ipc}/seed{seed}/card.json"


def scored(name, ipc=1, seed=0, students="group", protocol="quick"):
    """The evaluation of a set."""
    return f"evaluations/{name}/ipc{ipc}/seed{seed}/hard/{protocol}/{students}.json"


def made(name, ipc=1, seed=0):
    """All jobs of a set."""
    return {condensed(name, ipc, seed), card(name, ipc, seed), scored(name, ipc, seed)}


def shown(suite="tiny"):
    """The table and the picture of a suite."""
    return {f"tables/{suite}.csv", f"figures/{suite}.png"}


WHOLE = {scored("digits__whole", ipc=0, students="small")}
A = made("a") | made("a__initial")
B = made("b") | made("b__initial") | {"pool/early/block0.json", "views/b/ipc1/seed0/selection.json"}
ALL = DATA | A | B | made("digits__random") | WHOLE | shown()


class Tiny:
    """A checkout in a folder, with its configuration to change and Snakemake to ask."""

    patience = 300  # seconds for one command

    def __init__(self, folder):
        self.folder, self.results = folder, folder / "results"
        self.config = copy.deepcopy(CONFIG)

    @classmethod
    def new(cls, folder):
        """An empty one: the code of this checkout, nothing made yet."""
        for name in ("workflow", "envs"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "ddlib").symlink_to(ROOT / "ddlib")
        tiny = cls(folder)
        tiny.save()
        return tiny

    @classmethod
    def finished(cls, factory, folder):
        """A copy in `folder` of the one whose workflow has run. `factory`: pytest's tmp_path_factory."""
        return cls._copied(factory, folder, "tiny")

    @classmethod
    def _copied(cls, factory, folder, name):
        base = factory.getbasetemp()
        shared = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
        with locked(shared.with_suffix(".lock")):
            if not (shared / "done").exists():
                shutil.rmtree(shared, ignore_errors=True)
                tiny = cls.new(shared)
                done = tiny.snakemake()
                assert done.returncode == 0, done.stdout + done.stderr
                (shared / "done").touch()
        shutil.copytree(shared, folder, symlinks=True)
        return cls(folder)

    def save(self):
        """Write the configuration."""
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.config))

    def own_code(self):
        """A ddlib of its own, to be changed."""
        (self.folder / "ddlib").unlink()
        shutil.copytree(ROOT / "ddlib", self.folder / "ddlib", ignore=shutil.ignore_patterns("__pycache__"))
        return self.folder / "ddlib"

    def run(self, *words, **environment):
        """A command of this Python in the folder."""
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
        kept |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.folder), **environment}
        command = [sys.executable, *words]
        return subprocess.run(
            command, cwd=self.folder, env=kept, capture_output=True, text=True, timeout=self.patience, check=False
        )

    def job(self, name, *words):
        """`python -m ddlib.jobs.NAME`."""
        return self.run("-m", f"ddlib.jobs.{name}", *words)

    def snakemake(self, *words):
        """Snakemake on two cores."""
        return self.run("-m", "snakemake", "--cores", "2", *words)

    def plan(self, *words):
        """Outputs (the first of each job, without results/) that a run would make."""
        self.save()
        done = self.snakemake("-n", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        blocks = re.split(r"^(?:local)?rule (?=\w+:$)", done.stdout, flags=re.MULTILINE)[1:]
        outputs = [re.search(r"^    output: results/([^,\n]+)", block, flags=re.MULTILINE) for block in blocks]
        found = [output.group(1) for block, output in zip(blocks, outputs, strict=True) if not block.startswith("all:")]
        assert len(found) == len(set(found))
        return set(found)

    def refused(self, *words):
        """What is said of a run that is refused."""
        self.save()
        done = self.snakemake("-n", *words)
        assert done.returncode == 1, done.stdout
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr
