# What all rules share: the plan, the machine, wildcard patterns, the inputs of jobs, and the guard for results without
# Snakemake's record.
import functools
import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache

from snakemake.exceptions import WorkflowError
from snakemake.io import IOFile, ancient, apply_wildcards

# Jobs find this interpreter and this checkout, also from .venv/bin/snakemake without activating.
os.environ.update(
    PATH=os.path.dirname(sys.executable) + os.pathsep + os.getenv("PATH", ""),
    PYTHONPATH=os.pathsep.join(filter(None, [os.path.dirname(workflow.basedir), os.getenv("PYTHONPATH")])),
)
sys.path.insert(0, os.path.dirname(workflow.basedir))

from ddlib import project
from ddlib.config import ConfigError
from ddlib.data import changed
from ddlib.guard import disagreement, outdated, refusal, wrong_order
from ddlib.paths import DATA, MANIFESTS, OBSERVER
from ddlib.registry import SOURCES
from ddlib.presets_students import LABELS


def load_plan():
    """What is asked for: config.yaml, config.local.yaml over it, the command line over both."""
    try:
        return project.load(over=workflow.config_settings.overwrite_config)
    except ConfigError as error:
        raise WorkflowError(str(error))


PLAN = load_plan()
# A resource, not a parameter: never reruns a job, but stands in the command so that it can be run by hand.
MACHINE = json.dumps(PLAN.config["machine"], sort_keys=True)
THREADS = PLAN.config["machine"]["threads"]


def names(table):
    """A pattern of the names in a table."""
    return "|".join(re.escape(name) for name in sorted(table, key=len, reverse=True)) or "none_defined"


wildcard_constraints:
    dataset=names(PLAN.config["datasets"]),
    pool=names(PLAN.config["pools"]),
    maskset=names(PLAN.config["masksets"]),
    experiment=names(PLAN.experiments),
    suite=names(PLAN.suites),
    protocol=names(PLAN.config["protocols"]),
    students=names(PLAN.students),
    labels=names([*LABELS, *PLAN.config["labels"]]),
    observer=names(PLAN.config["observers"]),
    views=names(["decoded", *PLAN.config["protocols"]]),
    mipc=r"\d+",
    crops=r"\d+",
    factor=r"\d+",
    at=r"(at\d+/)?",
    ipc=r"\d+",
    per=r"\d+(-\d+)*",
    seed=r"\d+",
    stage=r"\d+",
    phase=r"\d+",
    block=r"\d+",
    chunk=r"\d+",


def spec_of(rule):
    """The job's specification as JSON (a function: a literal would be searched for wildcards)."""
    return lambda wildcards: json.dumps(PLAN.spec(rule, dict(wildcards)), sort_keys=True)


def recorded(path):
    """Whether Snakemake has a record of how a file was made (or does not look at records at all)."""
    return workflow.persistence is None or workflow.persistence.metadata(IOFile(path)) is not None


def wrong_without_record(rule, path, wildcards):
    """In what an existing manifest differs from what is asked, if Snakemake has no record of how it was made."""
    return None if recorded(path) else disagreement(path, PLAN.spec(rule, wildcards))


def older_without_record(rule, wildcards, inputs):
    """Which output without a record is older than an input. Where there is no manifest, or of a table, it does not matter:
    it is made again."""
    manifests = [template.format(**wildcards) for template in MANIFESTS[rule]]
    outputs = [apply_wildcards(str(each), wildcards) for each in workflow.get_rule(rule).output]
    drawn_again = rule == "tabulate"
    if drawn_again or not all(map(os.path.exists, manifests)) or all(map(recorded, outputs)):
        return None
    return outdated(outputs, [path for each in inputs.values() for path in ([each] if isinstance(each, str) else each)])


@functools.cache
def remake(path, why):
    """Have an output made again, and say why (jobs that are run by another Snakemake were told by that one)."""
    if workflow.is_main_process:
        workflow.dag.forcefiles.add(path)
        print(f"{path} is to be made again: {why}", file=sys.stderr)


def guarded(rule, inputs=lambda wildcards: {}):
    """Inputs of a rule; on the way, refuse its manifest if it was made with other settings and nobody recorded it.

    SystemExit, as Snakemake takes a file whose rule has any other error for one that needs no rule. A table looks at
    all manifests of its suite, so that they are named together.
    """

    def checked(wildcards):
        given = dict(wildcards)
        jobs = [(rule, given)] if rule != "tabulate" else [(rule, given), *PLAN.jobs(given["suite"])]
        found = {}
        for name, names in jobs:
            for path in (template.format(**names) for template in MANIFESTS[name]):
                found[path] = wrong_without_record(name, path, names)
        wrong = {path: reason for path, reason in found.items() if reason}
        if wrong:
            raise SystemExit(refusal(wrong))
        found = inputs(wildcards)
        if older := older_without_record(rule, given, found):
            raise SystemExit(wrong_order(older))
        return found

    return checked


def train_of(dataset):
    """The training part of a data set."""
    return f"results/data/{dataset}/train.json"


def threads_of(dataset):
    """One, but for what is worth more: fitting a whitening, decoding the files of an image folder."""
    entry = PLAN.config["datasets"][dataset]
    return THREADS if "whitening" in entry or SOURCES[entry["source"]].facts.get("folder") else 1


def data_inputs(wildcards):
    """None; but images that changed since they were read are read again."""
    spec = PLAN.dataset(wildcards.dataset)
    if SOURCES[spec["source"]].facts.get("folder") and workflow.is_main_process:
        try:
            why = changed.images(spec, PLAN.config["machine"], DATA.format(**dict(wildcards)))
        except OverflowError as many:
            print(many, file=sys.stderr)
        else:
            if why:
                remake(train_of(wildcards.dataset), f"its images changed since they were read: {why}")
    return {}


def observe_inputs(wildcards):
    """Real images, and a pool's block or a file of weights, which may be missing as long as nothing is run."""
    found = PLAN.observe_inputs(**dict(wildcards))
    stem = OBSERVER.format(**dict(wildcards))
    other = "weights" in found and changed.weights(found["weights"], f"{stem}.run.json", f"{stem}.json")
    if other:
        remake(f"{stem}.json", f"{found['weights']} is another file than it was made from")
    elif other is not None and "weights" in found:
        found["weights"] = ancient(found["weights"])  # the same file, whatever its time
    if workflow.dryrun and "weights" in found and not os.path.exists(found["weights"]):
        del found["weights"]
    return found


def merge_inputs(wildcards):
    """The parts of a set, and the data where their whitening is to be stored with it."""
    names = dict(wildcards)
    dataset = PLAN.experiments[names["experiment"]]["dataset"]
    parts = [f"{stem}.json" for stem in PLAN.phases(names["experiment"], names["ipc"], names["seed"])]
    whitened = "whitening" in PLAN.config["datasets"][dataset]
    return {"parts": parts, **({"data": train_of(dataset)} if whitened else {})}


def condense_inputs(wildcards):
    """Real images, the view with the networks it looks at, masks, and the parts of the stages before."""
    names = {key: value for key, value in dict(wildcards).items() if key != "phase"}
    return PLAN.condense_inputs(**names)


def relabel_inputs(wildcards):
    """A set and the teacher that labels it."""
    return PLAN.relabel_inputs(**{key: value for key, value in dict(wildcards).items() if key != "views"})


@cache
def experiments_shown():
    """The experiments that each suite shows, baselines included."""
    return {name: {group["experiment"] for group in PLAN.groups(name)} for name in PLAN.config["suites"]}


def suites_of(wildcards):
    """The suites that show an experiment, for the report (every experiment is also a suite of its own)."""
    found = [name for name, shown in experiments_shown().items() if wildcards.experiment in shown]
    return ", ".join(found) or wildcards.experiment


def options(input, *names):
    """Options of a command for those of its named inputs (a file or several) that a job has, quoted."""
    held = {name: input[name] for name in names if name in input.keys()}
    words = {name: [found] if isinstance(found, str) else list(found) for name, found in held.items()}
    return " ".join(shlex.join([f"--{name}", *files]) for name, files in words.items())


def import_events():
    """Bring what the jobs recorded to MLflow, after a run and whatever came of it."""
    if PLAN.config["machine"]["tracking"] != "none":
        subprocess.run([sys.executable, "-m", "ddlib.jobs.track", "--once"], check=False)
