"""Checkpoints: two generations, nothing damaged or foreign is used, one process at a time."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from ddlib.checkpoints import Checkpoint
from ddlib.writing import remove_abandoned

ROOT = Path(__file__).resolve().parents[1]
SPEC = {"lr": 0.1}


def checkpoint(folder: Path, said: list[str] | None = None, spec: dict[str, float] | None = None) -> Checkpoint:
    note = said.append if said is not None else lambda text: pytest.fail(text)
    return Checkpoint(folder, "pool/a/block0.member1", spec or SPEC, 0.0, say=note)


def numbered(folder: Path, *numbers: int) -> None:
    """Save these, one after the other."""
    made = checkpoint(folder)
    for number in numbers:
        made.save({"x": torch.full((3,), float(number))}, {"step": number, "loss": 0.1 * number})


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)


def test_what_was_saved_last_comes_back(tmp_path: Path) -> None:
    assert checkpoint(tmp_path).load() is None
    for count in (1, 2, 3, 4):
        numbered(tmp_path / str(count), *range(count))
        found = checkpoint(tmp_path / str(count)).load()
        assert found is not None
        assert found[0]["x"].tolist() == [count - 1.0] * 3
        assert found[1] == {"step": count - 1, "loss": 0.1 * (count - 1)}
        assert len(files(tmp_path / str(count))) == min(count, 2)


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_truncated_one_is_refused_and_the_former_is_used(tmp_path: Path, keep: int) -> None:
    numbered(tmp_path, 1, 2, 3)
    newest = files(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:keep])
    said: list[str] = []
    made = checkpoint(tmp_path, said)
    found = made.load()
    assert found is not None
    assert found[1]["step"] == 2
    assert len(said) == 1
    assert str(newest) in said[0]
    assert said[0].startswith("checkpoint not used: ")
    made.save({"x": torch.zeros(1)}, {"step": 9})
    again = checkpoint(tmp_path).load()
    assert again is not None
    assert again[1]["step"] == 9, "the next one takes the place of the damaged one"


def test_both_damaged_is_a_new_start(tmp_path: Path) -> None:
    numbered(tmp_path, 1, 2)
    for path in files(tmp_path):
        path.write_bytes(b"x" * 50)
    said: list[str] = []
    assert checkpoint(tmp_path, said).load() is None
    assert len(said) == 2


def test_another_specification_has_its_own(tmp_path: Path) -> None:
    numbered(tmp_path, 1)
    other = checkpoint(tmp_path, spec={"lr": 0.2})
    assert other.load() is None
    stolen = other.stem.with_name(f"{other.stem.name}.1.safetensors")
    files(tmp_path)[0].rename(stolen)
    said: list[str] = []
    assert checkpoint(tmp_path, said, {"lr": 0.2}).load() is None
    assert "belongs to another specification" in said[0]


def test_due_after_so_many_seconds(tmp_path: Path) -> None:
    made = Checkpoint(tmp_path, "a", SPEC, 0.2)
    assert not made.due
    time.sleep(0.25)
    assert made.due
    made.save({}, {})
    assert not made.due
    assert checkpoint(tmp_path).due


def test_seconds_of_all_sessions_are_counted(tmp_path: Path) -> None:
    made = checkpoint(tmp_path)
    time.sleep(0.1)
    made.save({}, {})
    second = checkpoint(tmp_path)
    assert second.seconds_before == 0
    second.load()
    assert 0.1 <= second.seconds_before < 5
    time.sleep(0.1)
    second.save({}, {})
    third = checkpoint(tmp_path)
    third.load()
    assert third.seconds_before >= second.seconds_before + 0.1


def test_discarded_after_success(tmp_path: Path) -> None:
    numbered(tmp_path, 1, 2)
    made = checkpoint(tmp_path)
    with made.held():
        made.discard()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    made.discard()


def test_a_second_process_is_kept_away(tmp_path: Path) -> None:
    code = (
        "import sys, time; from ddlib.checkpoints import Checkpoint\n"
        f"with Checkpoint(sys.argv[1], 'pool/a/block0.member1', {SPEC}, 0.0).held():\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            ValueError, match=r"another process is still working on block0\.member1.*Wait for it or end it"
        ):
            checkpoint(tmp_path).held().__enter__()
        with checkpoint(tmp_path, spec={"lr": 3.0}).held():
            pass
    finally:
        holder.kill()
        holder.wait()
    with checkpoint(tmp_path).held():
        pass


def test_an_error_while_held_frees_it(tmp_path: Path) -> None:
    def fails() -> None:
        with checkpoint(tmp_path).held():
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    with checkpoint(tmp_path).held():
        pass


def test_a_flipped_bit_is_noticed_and_the_generation_before_is_used(tmp_path: Path) -> None:
    said: list[str] = []
    checkpoint = Checkpoint(tmp_path, "out", {"a": 1}, 0, say=said.append)
    for step in (1, 2):
        checkpoint.save({"x": torch.full((64,), float(step))}, {"step": step})
    newest = max(tmp_path.rglob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    damaged = bytearray(newest.read_bytes())
    damaged[-1] ^= 1
    newest.write_bytes(bytes(damaged))
    found = Checkpoint(tmp_path, "out", {"a": 1}, 0, say=said.append).load()
    assert found is not None
    assert found[1] == {"step": 1}
    assert any("damaged" in line for line in said)


def test_how_a_session_computed_is_kept_beside_its_state(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "out", {"a": 1}, 0)
    assert checkpoint.former_execution() == {}
    checkpoint.execution = {"threads": 3, "class_chunk": 5}
    checkpoint.save({"x": torch.zeros(2)}, {"step": 1})
    assert Checkpoint(tmp_path, "out", {"a": 1}, 0).former_execution() == {"threads": 3, "class_chunk": 5}
    assert Checkpoint(tmp_path, "out", {"a": 2}, 0).former_execution() == {}


def test_one_of_other_inputs_is_refused_and_written_over(tmp_path: Path) -> None:
    """A job's inputs were made anew, and otherwise, while it was dead."""
    said: list[str] = []

    def of(inputs: str) -> Checkpoint:
        return Checkpoint(tmp_path, "out", SPEC, 0, say=said.append, inputs=inputs)

    for step in (1, 2):
        of("data").save({"x": torch.zeros(1)}, {"step": step})
    assert not said
    assert of("other data").load() is None
    assert of("other data").former_execution() == {}
    assert "begun with other inputs" in said[0]
    fresh = of("other data")
    fresh.save({"x": torch.ones(1)}, {"step": 9})
    found = of("other data").load()
    assert found is not None
    assert found[1] == {"step": 9}
    fresh.discard()
    assert not files(tmp_path)


HOLDER = (
    "import sys; from ddlib.checkpoints import Checkpoint\n"
    f"with Checkpoint(sys.argv[1], 'pool/a/block0.member1', {SPEC}, 0.0, inputs='one').held():\n"
    "    print('held', flush=True); sys.stdin.readline()"
)


@pytest.mark.parametrize(("inputs", "same"), [("one", True), ("other", False)])
def test_a_later_process_waits_for_the_first_and_says_for_whom(tmp_path: Path, inputs: str, same: bool) -> None:
    said: list[str] = []
    late = Checkpoint(tmp_path, "pool/a/block0.member1", SPEC, 0.0, said.append, inputs)
    assert late.outlast() is False
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        threading.Timer(0.5, holder.stdin.close).start()
        began = time.monotonic()
        assert late.outlast() is same
        assert time.monotonic() - began > 0.3
    assert f"process {holder.pid} on {socket.gethostname()}" in said[0]
    assert len(said) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    with late.held():
        pass


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    made = checkpoint(tmp_path)
    made.save({"a": torch.ones(2)}, {})
    (saved,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    code = (
        "import sys, os, signal; from ddlib.writing import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary:\n"
        "    temporary.with_name('.tmpAbCdEf').write_text('half'); temporary.write_text('half')\n"
        "    print('writing', flush=True); sys.stdin.readline(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, str(saved)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        remove_abandoned(saved)
        assert len(list(tmp_path.rglob("*.tmp"))) == 1  # it is still at work
        writer.communicate("")
    assert len(list(tmp_path.rglob("*.tmp"))) == 1
    assert checkpoint(tmp_path).load() is not None
    made.discard()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
