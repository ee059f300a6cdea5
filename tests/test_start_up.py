"""What a job imports before and while it works: the start of a job costs as much as the work of a small one."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from every import Every, rule_of

# Libraries that take from a tenth of a second to two to import (torch._dynamo: torch's compiler, with its own).
HEAVY = ("torch", "torch._dynamo", "torchvision", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "mlflow")
NUMBERS = {"torch", "numpy"}
# What jobs import of them, where nothing is compiled.
IMPORTS = {
    **dict.fromkeys(("train_block", "condense", "evaluate"), NUMBERS),
    "merge": NUMBERS | {"matplotlib"},  # for the preview
    "select_view": set(),
    "tabulate": {"numpy", "pandas"},
    "plot": {"numpy", "pandas", "matplotlib"},
}
# Runs a job as its command does and says what it has imported.
SAYS = """
import json, runpy, sys
name = sys.argv[1]
sys.argv = sys.argv[1:]
try:
    runpy.run_module(name, run_name="__main__")
finally:
    print("IMPORTED " + json.dumps([name for name in {heavy} if name in sys.modules]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Every:
    return Every.finished(tmp_path_factory, tmp_path_factory.mktemp("start_up") / "every")


@pytest.fixture(scope="module")
def commands(every: Every) -> dict[str, list[str]]:
    """The words of a job of every rule, after `python -m`."""
    said = every.snakemake("-n", "-p", "--forceall").stdout
    outputs = re.findall(r"^    output: results/([^,\n]+)", said, flags=re.MULTILINE)
    shells = re.findall(r"^Shell command: python -m (.*?) 2>&1 \| tee", said, flags=re.MULTILINE)
    assert len(outputs) == len(shells)
    return {rule_of(output): shlex.split(shell) for output, shell in zip(outputs, shells, strict=True)}


@pytest.mark.parametrize("rule", sorted(IMPORTS))
def test_a_job_imports_what_it_needs(every: Every, commands: dict[str, list[str]], rule: str) -> None:
    done = every.run("-c", SAYS.replace("{heavy}", repr(HEAVY)), *commands[rule])
    assert done.returncode == 0, done.stderr
    (found,) = re.findall(r"^IMPORTED (.*)$", done.stderr, flags=re.MULTILINE)
    assert set(json.loads(found)) == IMPORTS[rule]


def test_whoever_compiles_gets_the_compiler() -> None:
    """In a process that has been spared it: what asks torch for it gets all of it, and a compiled function is right."""
    code = """
import sys, torch
from ddlib.train.compiler import Compiler, spare_compiler
spare_compiler()
x = torch.arange(3.0)
eager = torch.func.grad(lambda x: (x**3).sum())(x)
assert "torch._dynamo" not in sys.modules
counted = []
def backend(graph, inputs):
    counted.append(graph)
    return graph.forward
torch._dynamo.reset()
assert type(torch._dynamo).__name__ == "module" and torch._dynamo.compiled_autograd._disable.__module__ != "contextlib"
compiled = torch.compile(lambda x: torch.func.grad(lambda x: (x**3).sum())(x), backend=backend, fullgraph=True)
assert torch.equal(compiled(x), eager) and len(counted) == 1
spare_compiler()
assert type(torch._dynamo).__name__ == "module"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
