"""The commands of a workflow's jobs as Snakemake would run them, run in this process: quick, and open to faults."""

import contextlib
import importlib
import io
import os
import re
import shlex
import sys
from unittest import mock

from every import Every


def finished(factory, name):
    """A copy of the finished suite of every rule, with its jobs' commands. `factory`: pytest's tmp_path_factory."""
    found = Every.finished(factory, factory.mktemp(name) / "repo")
    found.commands = commands(found)
    return found


def commands(tiny):
    """Of every job of a checkout: first output (below results/) -> (module, arguments)."""
    tiny.save()
    done = tiny.snakemake("-n", "-p", "--forceall")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for block in re.split(r"^(?:local)?rule (?=\w+:$)", done.stdout, flags=re.MULTILINE)[1:]:
        output = re.search(r"^    output: results/([^,\n]+)", block, flags=re.MULTILINE)
        command = re.search(r"^Shell command: (python -m .*?) 2>&1 \| tee", block, flags=re.MULTILINE | re.DOTALL)
        if output and command:
            _, _, module, *arguments = shlex.split(command.group(1))
            found[output.group(1)] = (module, arguments)
    return found


def run_here(folder, command):
    """Run a job's command in this process: (exit code, what it wrote on stderr). An exception it does not explain is
    raised: to a user it would be a traceback."""
    module, arguments = command
    said, code = io.StringIO(), 0
    with contextlib.ExitStack() as around:
        around.enter_context(contextlib.chdir(folder))
        around.enter_context(mock.patch.object(sys, "argv", [module, *arguments]))
        around.enter_context(mock.patch("signal.signal"))
        around.enter_context(mock.patch.dict(os.environ))
        around.enter_context(contextlib.redirect_stderr(said))
        around.enter_context(contextlib.redirect_stdout(io.StringIO()))
        try:
            job = importlib.import_module(module)
            job.guarded(job.main)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
    return code, said.getvalue()
