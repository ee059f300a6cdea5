"""Imports point down, and what must not be known in a place is not known there. Read from the sources."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ROOT / "ddlib"

# From the bottom up. A module or package imports those of lower lines, never its neighbours; inside a package all goes.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("presets_imagenet", "writing"),
    ("artifacts", "streams", "registry", "presets", "presets_students", "locks", "paths", "plain"),
    (
        "attempts",
        "checkpoints",
        "devices",
        "dataset_settings",
        "guard",
        "handover",
        "settings",
        "tables",
        "view_settings",
        "protocol_settings",
        "label_bytes",
        "extent",
    ),
    ("pool_settings",),
    ("progressive", "observers"),
    ("experiments", "published"),
    ("events", "run_facts", "specs", "config", "provenance"),
    ("observed",),
    ("progress", "plan", "families"),
    ("importer",),
    ("project", "todo", "disk"),
    ("plan_labels",),
    ("nn", "data", "augment", "tracking", "torch_files"),
    ("train", "sets", "weights"),
    ("pool",),
    ("objectives", "transforms"),
    ("masks",),
    ("methods",),
    ("jobs",),
    ("__init__",),
)
# Packages of pure functions of tensors, and the methods made of them: no files, no paths.
PATHLESS = ("methods", "objectives", "transforms", "augment", "nn")
FILE_MODULES = {"pathlib", "os", "io", "shutil", "tempfile", "glob", "ddlib.artifacts", "ddlib.paths", "ddlib.writing"}
# What a job may say to torch: settings, facts, and labels spelled out. Mathematics is the library's.
TORCH_IN_JOBS = {
    "torch.set_num_threads", "torch.set_float32_matmul_precision", "torch.use_deterministic_algorithms",
    "torch.backends", "torch.cuda", "torch.__version__", "torch.device", "torch.tensor", "torch.full_like",
}  # fmt: skip
MATHEMATICS = {"numpy", "scipy", "torch.nn", "torch.func", "torch.autograd", "torchvision"}
PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unit(path: Path) -> str:
    """The module or package directly below ddlib a file belongs to."""
    return path.relative_to(CODE).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    return sorted(path for path in CODE.rglob("*.py") if "__pycache__" not in path.parts)


def imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether it is at the top of the module) of all that is imported, relative names resolved."""
    top = {id(node) for node in getattr(tree, "body", [])}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["ddlib" if node.level else "", node.module]))
            yield base, id(node) in top
            yield from ((f"{base}.{alias.name}", id(node) in top) for alias in node.names)


def is_below(name: str, module: str) -> bool:
    """Whether `name` is `module` or something of it."""
    return name == module or name.startswith(f"{module}.")


def upward(name: str, tree: ast.AST) -> list[str]:
    """Imports of the module or package `name` that are not of lower layers."""
    level = {member: place for place, layer in enumerate(LAYERS) for member in layer}
    found = []
    for imported, _ in imports(tree):
        other = imported.split(".")[1] if imported.startswith("ddlib.") else name
        if other != name and other in level and level[other] >= level[name]:
            found.append(imported)
    return found


def files_used(tree: ast.AST) -> list[str]:
    """What a module does with files or paths."""
    found = [name for name, _ in imports(tree) if any(is_below(name, module) for module in FILE_MODULES)]
    names = (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    return found + [name for name in names if name in ("open", "Path")]


def dotted(node: ast.AST) -> str:
    """`torch.cuda.x` of an attribute; empty for others."""
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return base and f"{base}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def mathematics(tree: ast.AST) -> list[str]:
    """What a job computes itself."""
    found = [name for name, _ in imports(tree) if any(is_below(name, module) for module in MATHEMATICS)]
    found += [name for name, _ in imports(tree) if name.startswith("torch.")]
    for node in ast.walk(tree):
        name = dotted(node)
        if name.count(".") == 1 and name.startswith("torch.") and name not in TORCH_IN_JOBS:
            found.append(name)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            found.append("@")
    return found


def pickles(tree: ast.AST) -> list[str]:
    """Ways to read or write a pickle."""
    found = [name for name, _ in imports(tree) if name.split(".")[0] in PICKLES]
    for node in ast.walk(tree):
        name = dotted(node)
        if name in ("torch.load", "torch.save", "pd.read_pickle", "pandas.read_pickle") or name.endswith(".to_pickle"):
            found.append(name)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and getattr(node.value, "value", 1):
            found.append("allow_pickle")
    return found


def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_every_module_has_its_place() -> None:
    listed = [name for layer in LAYERS for name in layer]
    assert len(listed) == len(set(listed))
    missing = sorted({unit(path) for path in sources()} - set(listed))
    assert not missing, f"put {missing} into LAYERS of this test: the lowest line that is above all they import"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(CODE)))
def test_a_module_knows_what_it_may(path: Path) -> None:
    tree, name = parsed(path), unit(path)
    assert not upward(name, tree), "imports point down only (LAYERS)"
    found = pickles(tree)
    assert not found or (name == "torch_files" and found == ["pickle", "torch.load"]), "nothing is ever pickled"
    known = list(imports(tree))
    assert not [module for module, _ in known if is_below(module, "snakemake")], "ddlib works without Snakemake"
    flow = [(module, top) for module, top in known if is_below(module, "mlflow")]
    assert not flow or name == "tracking", "mlflow is imported in tracking alone"
    assert not [module for module, top in flow if top], "mlflow is imported where it is used, not on top"
    if name in PATHLESS:
        assert not files_used(tree), "methods never learn of paths"
    if name == "jobs":
        assert not mathematics(tree), "jobs load, call and save; what is computed belongs to the library"


def test_what_official_pickles_hold_is_tensors_alone() -> None:
    """The one place that reads them never runs what they ask for."""
    calls = [node for node in ast.walk(parsed(CODE / "torch_files.py")) if isinstance(node, ast.Call)]
    read = [node for node in calls if dotted(node.func) == "torch.load"]
    assert len(read) == 1
    given = {keyword.arg: keyword.value for keyword in read[0].keywords}
    assert isinstance(given["weights_only"], ast.Constant)
    assert given["weights_only"].value is True


def test_these_checks_would_find_what_they_look_for() -> None:
    bad = ast.parse(
        "import os.path\nfrom pathlib import Path\nfrom ddlib.jobs import job\nfrom . import methods\n"
        "from ddlib.artifacts import read_json\nfrom torch.nn import functional\nimport pickle\n"
        "def f(x):\n    import mlflow.tracking\n    torch.load(x); np.load(x, allow_pickle=True)\n"
        "    return torch.softmax(x @ open(x), 1) + torch.cuda.max_memory_allocated()\n"
    )
    assert upward("pool", bad) == ["ddlib.jobs", "ddlib.jobs.job", "ddlib.methods"]
    assert upward("jobs", bad) == []
    assert upward("sets", ast.parse("import ddlib.train.loop")) == ["ddlib.train.loop"]
    assert {"os.path", "pathlib.Path", "ddlib.artifacts", "open"} <= set(files_used(bad))
    assert {"torch.nn", "torch.softmax", "@", "torch.load"} <= set(mathematics(bad))
    assert not {name for name in mathematics(bad) if "cuda" in name}
    assert set(pickles(bad)) == {"pickle", "torch.load", "allow_pickle"}
    assert ("mlflow.tracking", False) in set(imports(bad))
    assert ("pickle", True) in set(imports(bad))


# ---- what runs without torch --------------------------------------------------------------------------------------

WITHOUT_TORCH = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "mlflow"):
            raise ImportError(f"{name} must not be imported here")
sys.meta_path.insert(0, Blocker())
"""
JOBS = sorted(path.stem for path in (CODE / "jobs").glob("*.py") if "def main(" in path.read_text(encoding="utf-8"))


def without_torch(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH + code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_the_blocker_blocks() -> None:
    done = without_torch("import ddlib.nn", ROOT)
    assert "torch must not be imported here" in done.stderr


def test_planning_modules_import_without_torch() -> None:
    """All modules of the lower layers, and every job up to its options."""
    names = [name for layer in LAYERS for name in layer if (CODE / f"{name}.py").is_file()]
    modules = [f"ddlib.{name}" for name in names if name != "__init__"] + ["ddlib", "ddlib.pool.view"]
    done = without_torch(f"import importlib\nfor name in {modules}: importlib.import_module(name)", ROOT)
    assert done.returncode == 0, done.stderr
    assert len(names) > 15


def test_every_job_explains_itself_without_torch() -> None:
    assert {"condense", "evaluate", "export", "train_block"} <= set(JOBS)
    code = f"""
import contextlib, io, runpy
for name in {JOBS}:
    sys.argv = [name, "--help"]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_module("ddlib.jobs." + name, run_name="__main__")
        raise SystemExit(name + " did not stop at --help")
    except SystemExit as end:
        assert end.code == 0, (name, end.code)
    assert len(said.getvalue().split(chr(10) * 2)[1]) > 20, name + " does not say what it does"
"""
    done = without_torch(code, ROOT)
    assert done.returncode == 0, done.stderr


def test_a_dry_run_does_without_torch(tmp_path: Path) -> None:
    for name in ("workflow", "envs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "config.yaml", tmp_path)
    (tmp_path / "ddlib").symlink_to(CODE)
    done = without_torch("import snakemake.cli; snakemake.cli.main(['-n', '--cores', '1'])", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "condense" in done.stdout
