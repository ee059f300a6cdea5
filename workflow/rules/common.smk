# What all rules share: the plan, the machine, wildcard patterns, and the guard for results without Snakemake's record.
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.io import IOFile

# Jobs find this interpreter and this checkout, also from .venv/bin/snakemake without activating.
os.environ.update(
    PATH=os.path.dirname(sys.executable) + os.pathsep + os.getenv("PATH", ""),
    PYTHONPATH=os.pathsep.join(filter(None, [os.path.dirname(workflow.basedir), os.getenv("PYTHONPATH")])),
)
sys.path.insert(0, os.path.dirname(workflow.basedir))

from ddlib import config as ddlib_config
from ddlib import plan as ddlib_plan


def load_plan():
    local = Path("config.local.yaml")
    schema = ddlib_config.read(Path(workflow.basedir) / "schemas" / "config.schema.yaml")
    try:
        given = ddlib_config.merged(config, ddlib_config.read(local)) if local.exists() else config
        return ddlib_plan.Plan(ddlib_config.resolve(given, schema))
    except ddlib_config.ConfigError as error:
        raise WorkflowError(str(error))


PLAN = load_plan()
# A resource, not a parameter: never reruns a job, but stands in the command so that it can be run by hand.
MACHINE = json.dumps(PLAN.config["machine"], sort_keys=True)
THREADS = PLAN.config["machine"]["threads"]


def names(table):
    return "|".join(re.escape(name) for name in sorted(table, key=len, reverse=True)) or "none_defined"


wildcard_constraints:
    dataset=names(PLAN.config["datasets"]),
    pool=names(PLAN.config["pools"]),
    experiment=names(PLAN.experiments),
    suite=names(PLAN.suites),
    protocol=names(PLAN.config["protocols"]),
    students=names(PLAN.students),
    labels="hard",
    at=r"(at\d+/)?",
    ipc=r"\d+",
    per=r"\d+(-\d+)*",
    seed=r"\d+",
    stage=r"\d+",
    phase=r"\d+",
    block=r"\d+",


def spec_of(rule):
    """The job's specification as JSON (a function: a literal would be searched for wildcards)."""
    return lambda wildcards: json.dumps(PLAN.spec(rule, dict(wildcards)), sort_keys=True)


def guarded(rule, manifest, inputs=lambda wildcards: {}):
    """Inputs of a rule; on the way, refuse its output if it was made with other settings and nobody recorded it."""

    def checked(wildcards):
        path = manifest.format(**dict(wildcards))
        record = workflow.persistence and workflow.persistence.metadata(IOFile(path))
        if record is None:
            wrong = ddlib_plan.disagreement(path, PLAN.spec(rule, dict(wildcards)))
            if wrong:
                raise WorkflowError(wrong)
        return inputs(wildcards)

    return checked


def import_events():
    """Bring what the jobs recorded to MLflow, after a run and whatever came of it."""
    if PLAN.config["machine"]["tracking"] != "none":
        subprocess.run([sys.executable, "-m", "ddlib.jobs.track", "--once"], check=False)
