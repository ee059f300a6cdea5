"""The SLURM profile without SLURM: it repeats the default one, its knobs are accepted, and jobs of a cluster take what
their run was started with."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from every import GPU_RULES, Every
from tiny import ROOT, Tiny

from ddlib import handover

PROFILE = "workflow/profiles/slurm"
TEXT = (ROOT / PROFILE / "profile.yaml").read_text()
SUBMITTED = GPU_RULES | {"prepare_data"}
# A knob that is commented out: `# key: value`, with a remark after it or none.
KNOB = re.compile(r"^( *)# ((?:  )?[a-z_-]+:(?: [^#\n]+?)?)(?: +# .*)?$", flags=re.MULTILINE)


def resources(dry_run):
    """rule -> the resources of one of its jobs."""
    blocks = re.split(r"^(?:local)?rule (?=\w+:$)", dry_run, flags=re.MULTILINE)[1:]
    return {block.partition(":")[0]: block.partition("    resources: ")[2].partition("\n")[0] for block in blocks}


def test_it_repeats_the_default_profile():
    default = yaml.safe_load((ROOT / "workflow/profiles/default/profile.yaml").read_text())
    slurm = yaml.safe_load(TEXT)
    assert default.items() <= slurm.items()
    assert slurm["executor"] == "slurm"


def test_every_submitted_rule_says_what_it_needs():
    """Memory and time; no retries of its own (each would be tried several times as often)."""
    text = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    rules = dict(re.findall(r"^rule (\w+):\n(.*?)(?=^rule |\Z)", text, flags=re.MULTILINE | re.DOTALL))
    submitted = {name for name, body in rules.items() if "localrule: True" not in body}
    assert submitted == SUBMITTED
    for name in submitted:
        assert "mem_mb=" in rules[name], name
        assert "runtime=" in rules[name], name
    assert "retries:" not in text


def test_its_knobs_are_accepted_and_reach_the_jobs(tmp_path):
    every = Every.new(tmp_path / "repo")
    every.config["machine"]["device"] = "auto"
    every.save()
    turned = KNOB.sub(r"\1\2", TEXT)
    settings = yaml.safe_load(turned)
    assert set(settings["set-resources"]) == SUBMITTED
    assert {"slurm_account", "slurm_partition"} <= set(settings["default-resources"])
    assert {"slurm-qos", "resources", "slurm-keep-successful-logs"} <= set(settings)
    (every.folder / PROFILE / "profile.yaml").write_text(turned)
    dry = every.run("-m", "snakemake", "-n", "--workflow-profile", PROFILE)
    assert dry.returncode == 0, dry.stdout + dry.stderr
    found = resources(dry.stdout)
    assert found.keys() >= SUBMITTED
    for rule in SUBMITTED:
        assert "slurm_partition=NAME" in found[rule]
        assert ("gpu_model=NAME" in found[rule]) == (rule in GPU_RULES)
        assert ("gpu=" in found[rule]) == (rule in GPU_RULES)
    assert "mem_mb=16000" in found["condense"]


@pytest.mark.parametrize("device, words", [("cpu", ()), ("auto", ("--resources", "gpu=0"))])
def test_no_gpu_is_asked_for_where_none_is_used(tmp_path, device, words):
    every = Every.new(tmp_path / "repo")
    every.config["machine"]["device"] = device
    every.save()
    dry = every.run("-m", "snakemake", "-n", "--workflow-profile", PROFILE, *words)
    assert dry.returncode == 0, dry.stdout + dry.stderr
    found = resources(dry.stdout)
    assert all("gpu=0" in found[rule] for rule in GPU_RULES)
    assert "gpu=" not in found["prepare_data"]


def test_a_job_takes_what_its_run_was_started_with(tmp_path, monkeypatch):
    """Not config.yaml as it has become, and no GPU where the run was told so."""
    monkeypatch.delenv(handover.VARIABLE, raising=False)
    tiny = Tiny.new(tmp_path / "repo")
    then = json.loads(json.dumps(tiny.config))
    then["machine"] |= {"device": "auto", "data_dir": "a 'b' \"c\" $(d) `e`\n"}
    then["pools"]["early"]["training"]["epochs"] = 7
    handover.hand_over(tmp_path / "handed", then, 0)
    words = ["-m", "snakemake", "-np", "--cores", "1", "results/pool/early/block0.json"]
    path = os.environ[handover.VARIABLE]
    own = tiny.run(*words, **{handover.VARIABLE: path}).stdout
    assert '"epochs": 1' in own
    job = tiny.run(*words, "--mode", "remote", **{handover.VARIABLE: path}).stdout
    assert '"epochs": 7' in job
    assert "--gpus 0" in job
    assert json.dumps(then["machine"]["data_dir"]).replace("'", "'\"'\"'") in job
    Path(path).unlink()
    lost = tiny.run(*words, "--mode", "remote", **{handover.VARIABLE: path})
    assert lost.returncode == 1
    assert "does this machine not see the folder of the workflow?" in lost.stdout + lost.stderr
    assert "Traceback" not in lost.stderr
