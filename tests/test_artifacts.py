"""Files that can be trusted: atomic, equal for equal content, refused when they are not what they should be."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from ddlib.artifacts import (
    ArtifactError,
    canonical,
    digest,
    load_file,
    load_tensors,
    read_json,
    read_manifest,
    save_tensors,
    sha256_file,
    write_json,
    write_manifest,
)
from ddlib.writing import atomic_write, locked

ROOT = Path(__file__).resolve().parents[1]


def test_an_interrupted_write_leaves_the_former_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"a": 1})

    def interrupted() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_json(path) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    a, b = torch.arange(6.0).reshape(2, 3), torch.ones(2, dtype=torch.int64)
    one = save_tensors(tmp_path / "1", {"a": a, "b": b}, {"x": 1, "y": [1, {"z": 2, "w": 3}]})
    two = save_tensors(tmp_path / "2", {"b": b, "a": a.T.contiguous().T}, {"y": [1, {"w": 3, "z": 2}], "x": 1})
    assert one == two == sha256_file(tmp_path / "1")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    tensors, meta = load_tensors(tmp_path / "2", one)
    assert torch.equal(tensors["a"], a)
    assert tensors["b"].dtype == torch.int64
    assert meta == {"x": 1, "y": [1, {"w": 3, "z": 2}]}
    assert save_tensors(tmp_path / "3", {"a": a + 1e-6, "b": b}, meta) != one
    assert canonical({"b": 1, "a": [1, 2]}) == '{"a":[1,2],"b":1}'
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1}) != digest({"a": 2, "b": 2})
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("nan")})


def test_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from ddlib.artifacts import save_tensors\n"
        "save_tensors(sys.argv[1], {n: torch.ones(3) for n in 'dcba'}, {n: 1 for n in 'xyzw'})"
    )
    environment = {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT), "PATH": ""}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "1")], check=True, env=environment)
    save_tensors(tmp_path / "2", {name: torch.ones(3) for name in "bcad"}, dict.fromkeys("wzyx", 1))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize("keep", [0, 4, 20, 100, -1])
def test_damaged_tensors_are_refused_with_what_to_do(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=r"t\.safetensors is damaged .*run the workflow again"):
        load_tensors(path)


def test_a_flipped_bit_is_found_by_the_hash(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_manifest(
        tmp_path / "m.json", "block", {"s": 1}, {"t": path} if save_tensors(path, {"a": torch.ones(9)}) else {}, {}
    )
    manifest = read_manifest(tmp_path / "m.json", "block")
    assert load_file(tmp_path / "m.json", manifest, "t")[0]["a"].tolist() == [1.0] * 9
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="not the file its manifest describes"):
        load_file(tmp_path / "m.json", manifest, "t")
    path.unlink()
    with pytest.raises(ArtifactError, match="does not exist"):
        load_file(tmp_path / "m.json", manifest, "t")


def test_manifests_say_what_they_are_and_move_with_their_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    save_tensors(tmp_path / "a" / "x.safetensors", {"a": torch.ones(1)})
    path = tmp_path / "a" / "m.json"
    by = {number: (0.1, number) for number in range(12)}  # read back as text, in another order
    made = write_manifest(path, "phase", {"b": 2}, {"x": tmp_path / "a" / "x.safetensors"}, {"losses": [1.0], "by": by})
    assert made["files"]["x"]["path"] == "x.safetensors"
    (tmp_path / "a").rename(tmp_path / "moved")
    path = tmp_path / "moved" / "m.json"
    assert load_file(path, read_manifest(path, "phase"), "x")[0]["a"].item() == 1
    with pytest.raises(ArtifactError, match="of kind 'phase', not 'set'"):
        read_manifest(path, "set")
    later = {key: value for key, value in made.items() if key != "sha256"} | {"format": 99}
    write_json(path, {**later, "sha256": digest(later)})
    with pytest.raises(ArtifactError, match="not a manifest of format 2"):
        read_manifest(path)
    write_json(path, {**made, "result": {"losses": [2.0]}})
    with pytest.raises(ArtifactError, match="not as it was written"):
        read_manifest(path)
    write_json(path, {key: value for key, value in made.items() if key != "sha256"})
    with pytest.raises(ArtifactError, match="not as it was written"):
        read_manifest(path)
    write_json(path, {key: value for key, value in made.items() if key != "sha256"} | {"format": 1})
    assert read_manifest(path, "phase")["result"] == made["result"]  # as an older ddlib wrote it, without a seal
    for content in ("[1]", '{"format": 1', "\x00"):
        path.write_text(content)
        with pytest.raises(ArtifactError, match="run the workflow again"):
            read_manifest(path)
    with pytest.raises(ArtifactError, match=r"nowhere\.json does not exist.*snakemake"):
        read_manifest(tmp_path / "nowhere.json")


def test_a_manifest_is_plain_json_the_same_every_time(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    texts = []
    for spec in ({"a": 1, "b": 2.5}, {"b": 2.5, "a": 1}):
        write_manifest(tmp_path / "m.json", "k", spec, {"f": tmp_path / "f"}, {"r": None})
        texts.append((tmp_path / "m.json").read_text())
    assert texts[0] == texts[1]
    assert set(json.loads(texts[0])) == {"format", "kind", "spec", "files", "result", "sha256"}


def test_a_lock_is_held_by_one_and_freed_by_death(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    code = (
        "import sys, time; from ddlib.writing import locked\n"
        "with locked(sys.argv[1]) as mine: print(mine, flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with locked(path, blocking=False) as mine:
            assert mine is False
    finally:
        holder.kill()
        holder.wait()
    with locked(path, blocking=False) as mine:
        assert mine is True


def test_waiting_for_a_lock_that_is_deleted_gives_the_new_one(tmp_path: Path) -> None:
    """Else the one who waited and the next to come would hold two different files of one name."""
    path, got = tmp_path / "lock", threading.Event()

    def wait() -> None:
        with locked(path):
            with locked(path, blocking=False) as second:
                assert second is False
            got.set()

    waiter = threading.Thread(target=wait)
    with locked(path):
        waiter.start()
        waiter.join(0.3)
        assert not got.is_set()
        path.unlink()
    waiter.join(10)
    assert got.is_set()


def test_files_and_locks_are_for_whom_the_umask_says(tmp_path: Path) -> None:
    """So that a group can share results: safetensors' own files are private, whatever the umask."""
    before = os.umask(0o007)
    try:
        save_tensors(tmp_path / "tensors", {"a": torch.ones(1)}, {})
        write_json(tmp_path / "json", {})
        with locked(tmp_path / "lock"):
            modes = {path.name: stat.filemode(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("tensors", "json", "lock"), "-rw-rw----")
