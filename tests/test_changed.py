"""Files from outside: whether they are those results were made from, told by names, sizes, times and some hashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from folders import folder, prepared, spec, write

from ddlib.artifacts import sha256_file, write_json
from ddlib.data import changed

ANT = "images/train/ant/0.png"


@pytest.fixture
def read(tmp_path: Path) -> Path:
    """A folder of images that was read."""
    folder(tmp_path / "images", {"train": 3, "val": 1})
    prepared(tmp_path, cache=False)
    return tmp_path


def found(path: Path) -> str:
    return changed.images(spec(), {"data_dir": str(path)}, path / "results" / "mine")


def later(path: Path) -> None:
    """Give a file a time after it was read, whatever the clock's resolution."""
    os.utime(path, (4e9, 4e9))


def test_the_same_images_whatever_their_times(read: Path) -> None:
    assert found(read) == ""
    for path in (read / "images").rglob("*.png"):
        later(path)
    assert found(read) == ""


def test_an_image_added_removed_or_replaced(read: Path) -> None:
    before = (read / ANT).read_bytes()
    (read / "images/train/ant/notes.txt").write_text("no image")
    assert found(read) == ""
    new = write(read / "images/val/bee/new.png", 5)
    assert found(read) == "1 added, such as val/bee/new.png"
    new.unlink()
    (read / ANT).unlink()
    assert found(read) == "1 missing, such as train/ant/0.png"
    write(read / ANT, 6)
    assert found(read).startswith("train/ant/0.png is another one, ")
    (read / ANT).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))  # as many bytes
    later(read / ANT)
    assert found(read) == "train/ant/0.png is another one, 1 are newer or of another size"
    (read / ANT).write_bytes(before)
    later(read / ANT)
    assert found(read) == ""


def test_newer_files_are_read_up_to_a_bound(read: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = sorted((read / "images").rglob("*.png"))
    for path in images:
        later(path)
    monkeypatch.setattr(changed, "HASHED", images[0].stat().st_size)
    opened: list[str] = []
    monkeypatch.setattr(changed, "sha256_file", lambda path: opened.append(str(path)) or sha256_file(path))
    assert found(read) == ""
    assert opened == [str(images[0])]


def test_what_is_not_looked_at(read: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changed, "WATCHED", 11)
    with pytest.raises(OverflowError, match="has 12 images, more than 11: not looked through for changes"):
        found(read)
    monkeypatch.undo()
    (read / "images").rename(read / "away")
    assert found(read) == "", "what was read is used"
    (read / "away").rename(read / "images")
    (read / ANT).unlink()
    (read / "results/mine/train.json").unlink()
    assert found(read) == "", "not read yet"


def test_files_that_were_skipped_are_no_change(tmp_path: Path) -> None:
    folder(tmp_path / "images", {"train": 3, "val": 1})
    (tmp_path / "images/train/ant/broken.png").write_bytes(b"x")
    prepared(tmp_path, cache=False, skip_corrupt=True)
    assert found(tmp_path) == ""


def test_weights_are_those_that_were_noted(tmp_path: Path) -> None:
    file, record, manifest = (tmp_path / name for name in ("w.pth", "o.run.json", "o.json"))
    file.write_bytes(b"one")
    assert changed.weights(file, record, manifest) is None
    manifest.write_text("{}")
    write_json(record, {"seconds": 1})
    assert changed.weights(file, record, manifest) is None, "made before this was noted"
    write_json(record, {"weights_sha256": sha256_file(file)})
    later(manifest)
    assert changed.weights(file, record, manifest) is False
    later(file)
    os.utime(manifest, (1, 1))
    assert changed.weights(file, record, manifest) is False
    file.write_bytes(b"two")
    assert changed.weights(file, record, manifest) is True


def test_planning_compares_without_torch() -> None:
    code = "import sys, ddlib.data.changed; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
