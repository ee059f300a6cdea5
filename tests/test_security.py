"""What comes from outside stays data: no pickle, no shell, no path out of its folder, no memory without end."""

import ast
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
import yaml
from test_layers import dotted, imports
from tiny import CONFIG, Tiny

from ddlib import tracking
from ddlib.artifacts import (
    ArtifactError,
    load_tensors,
    read_json,
    read_manifest,
    save_tensors,
    write_manifest,
    write_sealed,
)
from ddlib.attempts import read_attempts
from ddlib.config import ConfigError, merged, read, resolve
from ddlib.data.decode import Unreadable, decode
from ddlib.events import Events
from ddlib.jobs import track
from ddlib.project import SCHEMA
from ddlib.sets.official import read_official
from ddlib.torch_files import load_plain
from ddlib.weights import load_weights

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [path for folder in ("ddlib", "workflow", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py")]

# ---- what is not in the code ----------------------------------------------------------------------------------------

NEVER = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.spawnv", "subprocess.getoutput",
    "subprocess.getstatusoutput", "tempfile.mktemp", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load",
    "pickle.load", "pickle.loads", "torch.hub.load", "shutil.unpack_archive",
}  # fmt: skip
UNSAFE_LOADERS = {"yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader", "yaml.CLoader", "yaml.CUnsafeLoader"}


def dangers(tree):
    """Calls that run what a file or a setting says, or write where an archive says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node) in UNSAFE_LOADERS:
            yield dotted(node)
        if not isinstance(node, ast.Call):
            continue
        name, given = dotted(node.func), {word.arg: word.value for word in node.keywords}
        if name in NEVER or name.endswith((".extractall", ".extract")):
            yield name
        if name == "torch.load" and not getattr(given.get("weights_only"), "value", False):
            yield "torch.load"
        if getattr(given.get("shell"), "value", False) or getattr(given.get("allow_pickle"), "value", False):
            yield f"{name}: shell or pickle"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_what_a_file_says(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not list(dangers(tree))
    opens = [name for name, _ in imports(tree) if name.startswith("torchvision.datasets")]
    assert not opens or path == ROOT / "ddlib/data/cifar.py"  # the archives are pickles: one place for them


def test_this_would_be_found():
    bad = "yaml.load(x); eval(y); run(z, shell=True); np.load(a, allow_pickle=True); torch.load(b); c.extractall()"
    assert len(list(dangers(ast.parse(bad)))) == 6


def test_the_reader_of_cifar_belongs_to_prepare_data_alone():
    naming = [path for path in SOURCES if "data.cifar" in path.read_text(encoding="utf-8")]
    assert naming == [ROOT / "ddlib/registry.py"]
    loading = [
        path.stem for path in (ROOT / "ddlib/jobs").glob("*.py") if "SOURCES" in path.read_text(encoding="utf-8")
    ]
    assert set(loading) <= {"prepare_data", "amounts"}, loading


# ---- files from elsewhere -------------------------------------------------------------------------------------------


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_a_pickle_asks_for_is_not_run(tmp_path, zipped):
    canary, path = tmp_path / "canary", tmp_path / "hostile.pt"
    torch.save([torch.zeros(1), Payload(canary)], path, _use_new_zipfile_serialization=zipped)
    good = tmp_path / "labels.pt"
    torch.save(torch.zeros(1), good)
    facts = {"classes": ["a"], "mean": [0.0], "std": [1.0], "shape": [1, 1, 1, 1]}
    for load in (
        lambda: load_plain(path),
        lambda: load_weights(path, torch.nn.Linear(1, 1)),
        lambda: read_official(path, good, facts, "unit", None),
    ):
        with pytest.raises(ArtifactError, match="can run any code"):
            load()
    assert not canary.exists()
    torch.load(path, weights_only=False)  # what would have happened
    assert canary.exists()


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 90) + b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}'.ljust(90),
        struct.pack("<Q", 90) + b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [8, 0]}}'.ljust(90),
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        b"",
    ],
)
def test_hostile_safetensors_are_damaged(tmp_path, data):
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(ArtifactError, match="is damaged"):
        load_tensors(tmp_path / "a.safetensors")


def test_json_that_nests_without_end_is_damaged(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" * 200_000)
    with pytest.raises(ArtifactError, match="is damaged"):
        read_json(path)
    (tmp_path / "a.jsonl").write_text("[" * 200_000 + "\n")
    assert read_attempts(tmp_path / "a.jsonl") == []


@pytest.mark.parametrize("named", ["../x.safetensors", "/etc/passwd", "a/../../x"])
def test_a_manifest_names_files_in_its_own_folder(tmp_path, named):
    save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)})
    write_manifest(tmp_path / "m.json", "set", {}, {"set": tmp_path / "x.safetensors"}, {})
    manifest = json.loads((tmp_path / "m.json").read_text())
    manifest["files"]["set"]["path"] = named
    write_sealed(tmp_path / "m.json", manifest)  # as somebody would who wants it to be believed
    with pytest.raises(ArtifactError, match="out of its own folder"):
        read_manifest(tmp_path / "m.json")


def png(*sizes):
    """A PNG with a header for each size, of one black pixel."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    heads = (chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)) for size in sizes)
    return b"\x89PNG\r\n\x1a\n" + b"".join(heads) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def test_images_that_say_to_be_small_and_are_not():
    assert decode(png((1, 1)), "x.png").shape == (3, 1, 1)
    with pytest.raises(ValueError, match=r"x.png has 60000 x 60000 pixels, more than the 100 million"):
        decode(png((60_000, 60_000)), "x.png")
    for second in ((60_000, 60_000), (12_000, 10_000)):  # more than Pillow reads, and less
        with pytest.raises(Unreadable, match=r"x\.png"):
            decode(png((1, 1), second), "x.png")
    with pytest.raises(Unreadable, match="no JPEG or PNG"):
        decode(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "x.png")


# ---- names and texts of the configuration ---------------------------------------------------------------------------

NAMES = [
    "; rm -rf x", "../../x", "`id`", "$(id)", "a\n", "a\nb", "'", '"', "-rf", "--help", "*", "a/b", ".", "..", "", "A",
    "\u0430", "\u202egnp", "a b", "{x}", "a" * 300, "~", "a.b", "_a", "\0",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "table", [key for key, value in CONFIG.items() if isinstance(value, dict) and key != "machine"]
)
def test_hostile_names_are_refused(table, name):
    entry = next(iter(CONFIG[table].values()))
    with pytest.raises(ConfigError):
        resolve(merged(CONFIG, {table: {name: entry}}), read(SCHEMA))


HOSTILE = """$(touch canary)`touch canary`'; touch canary; '"; touch canary; " & touch canary #\n touch canary {x} é"""


def test_texts_of_the_configuration_are_no_shell(tmp_path):
    """A folder of images, a class and files called as commands; a tracking server with a password."""
    from folders import encoded, picture

    tiny = Tiny.new(tmp_path / "a")
    name = HOSTILE.replace("/", "")
    for part in ("train", "val"):
        for kind in ("-rf $(touch canary)", "b"):
            folder = tiny.folder / name / "images" / part / kind
            folder.mkdir(parents=True)
            for file in ("-x;touch canary;.png", "a\nb'.png"):
                (folder / file).write_bytes(encoded(picture(1)))
    tiny.config["machine"] |= {"data_dir": name, "tracking": "local"}
    tiny.config["datasets"]["own"] = {
        "source": "folder", "path": "images", "size": 8, "classes": 2, "class_list": ["-rf $(touch canary)", "b"],
    }  # fmt: skip
    tiny.save()
    server = "http://user:hunter2@127.0.0.1:9"
    done = tiny.run("-m", "snakemake", "--cores", "1", "results/data/own/train.json", MLFLOW_TRACKING_URI=server)
    assert done.returncode == 0, done.stderr
    index = (tiny.results / "data/own/index_train.csv").read_text()
    assert index.count("touch canary") == 4
    assert not list(tmp_path.rglob("canary"))
    kept = [path for path in tiny.folder.rglob("*") if path.is_file() and "ddlib" not in path.parts]
    assert "hunter2" not in done.stdout + done.stderr
    assert not [path for path in kept if b"hunter2" in path.read_bytes()]


def test_snakemake_does_not_build_what_aliases_stand_for(tmp_path):
    """Its own reading of config.yaml would take all memory: ours comes first, and refuses."""
    tiny = Tiny.new(tmp_path / "a")
    tiny.patience = 60
    lines = (f"a{i}: &a{i} {{{', '.join(f'x{j}: *a{i - 1}' for j in range(9))}}}\n" for i in range(1, 12))
    (tiny.folder / "config.yaml").write_text("a0: &a0 {k: 1}\n" + "".join(lines))
    done = tiny.snakemake("-n")
    assert done.returncode == 1
    assert "aliases that stand for more than 500000 values" in done.stdout + done.stderr


@pytest.mark.parametrize("target", ["table", "plan", "clean-suite", "adopt"])
def test_make_passes_names_as_they_are(tmp_path, target):
    """`SUITE` and `FILE` reach the program as words, and the shell has no say in them."""
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:])\n")
    fake.chmod(0o755)
    (tmp_path / "stamp").touch()
    given = "-x'; touch canary; `touch canary` $$(touch canary) \""
    words = ["make", "-s", "-C", str(tmp_path), "-f", str(ROOT / "Makefile"), target, f"BIN={fake.parent}"]
    words += [f"STAMP={tmp_path / 'stamp'}", "-o", str(tmp_path / "stamp"), f"SUITE={given}", f"FILE={given}"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(words, capture_output=True, text=True, env=kept, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("canary"))
    told = ast.literal_eval(done.stdout)
    assert " ".join(told[told.index("--") + 1 :]) == given.replace("$$", "$")


# ---- MLflow ---------------------------------------------------------------------------------------------------------


def test_the_pages_are_for_this_machine_alone(monkeypatch):
    seen = []
    monkeypatch.setattr(track, "_run", lambda options: seen.append(options.host) or 0)
    assert track.main(["--ui"]) == 0
    assert seen == ["127.0.0.1"]


def test_a_dead_server_is_named_without_its_password(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@127.0.0.1:9")
    events = Events(tmp_path / "results/events/a.jsonl")
    events.start("condense", "results/a.json", {})
    events.end("finished")
    assert track.main(["--once", "--results", str(tmp_path / "results")]) == 1
    said = capsys.readouterr()
    assert "no MLflow server answers at http://127.0.0.1:9" in said.err
    assert "hunter2" not in said.out + said.err + events.path.read_text()


@pytest.mark.parametrize("secret", ["hunter2", "hun@ter2", "hun:ter2"])
def test_passwords_are_not_shown(secret, tmp_path):
    uri = f"http://user:{secret}@localhost:9/x"
    assert tracking.shown(uri) == "http://localhost:9/x"
    with pytest.raises(tracking.TrackingError) as caught, tracking._explained(uri):
        raise OSError(f"cannot reach {uri}")
    assert "ter2" not in str(caught.value)


def test_yaml_makes_no_objects(tmp_path):
    (tmp_path / "a.yaml").write_text(f"a: !!python/object/apply:os.mkdir ['{tmp_path / 'canary'}']\n")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        read(tmp_path / "a.yaml")
    assert not (tmp_path / "canary").exists()
    assert yaml.safe_load(io.StringIO("a: 1")) == {"a": 1}
