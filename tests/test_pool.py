"""Pool members: what they keep, that a kill changes nothing, and what is counted by example."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from small import NETWORK, SPEC, TRAINING, digits
from torch import Tensor

from ddlib import presets
from ddlib.artifacts import load_tensors, read_manifest, sha256_file
from ddlib.checkpoints import Checkpoint
from ddlib.data.real import RealData
from ddlib.pool.member import Events, MemberTraining
from ddlib.pool_settings import kept_epochs
from ddlib.train.loop import State
from ddlib.train.scoring import accuracy, logits_of

ROOT = Path(__file__).resolve().parents[1]
BLOCK = {"dataset": SPEC, "network": {**NETWORK, "norm": "batch"}, "snapshots": "all", "seed": 0, "members": [0, 1]}


class KilledError(Exception):
    """What a test ends a training with."""


class Fragile(Checkpoint):
    """Saves after every epoch, and dies right after saving for the `last`-th time."""

    def __init__(self, folder: Path, last: int = 10**6) -> None:
        super().__init__(folder, "made", {}, 0.0, say=lambda text: None)
        self.left = last

    def save(self, tensors: Any, facts: Any) -> None:
        super().save(tensors, facts)
        self.left -= 1
        if not self.left:
            raise KilledError


def member(
    folder: Path, number: int = 0, data: RealData | None = None, snapshots: Any = "all", **over: Any
) -> MemberTraining:
    spec = {**BLOCK, "snapshots": snapshots, "training": {**TRAINING, **over}}
    return MemberTraining(spec, number, data or digits(), folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---- training -----------------------------------------------------------------------------------------------------


def test_a_member_keeps_snapshots_and_a_curve(tmp_path: Path) -> None:
    data = digits(20, heldout=0.25)
    training = member(tmp_path, 2, data)
    made = training.run()
    names = [f"epoch{epoch}.safetensors" for epoch in range(4)]
    assert sorted(path.name for path in (tmp_path / "member2").iterdir()) == [*names, "metrics.csv"]
    table = pd.read_csv(made["files"]["member2/metrics"])
    assert list(table.columns) == ["epoch", "loss", "train_augmented", "train_clean", "heldout"]
    assert table.epoch.tolist() == [0, 1, 2, 3]
    assert table.notna().all().all()
    assert table.loss[3] < table.loss[1] < table.loss[0]
    for epoch in range(4):
        tensors, meta = load_tensors(made["files"][f"member2/epoch{epoch}"])
        assert meta == {"member": 2, "epoch": epoch}
        state = State.from_tensors(tensors)
        assert accuracy(training.net, state, data.fit()) == pytest.approx(table.train_clean[epoch])
        assert accuracy(training.net, state, data.heldout_part()) == pytest.approx(table.heldout[epoch])
    assert made["epochs"] == [0, 1, 2, 3]
    assert made["last"]["heldout"] == round(table.heldout[3], 6)


def test_held_out_images_are_never_trained_on(tmp_path: Path) -> None:
    """Whatever the held-out images are, the network is the same."""
    data = digits(20, heldout=0.25)
    ruined = dataclasses.replace(data, images=torch.where(data.heldout[:, None, None, None], 0, data.images))
    for name, used in (("a", data), ("b", ruined)):
        member(tmp_path / name, 0, used).run()
    a, b = (contents(tmp_path / name) for name in "ab")
    assert [name for name in a if a[name] != b[name]] == ["member0/metrics.csv"]


@pytest.mark.parametrize("snapshots, kept", [("last", [3]), ([2, 0], [0, 2]), ([], [])])
def test_only_the_snapshots_asked_for(tmp_path: Path, snapshots: Any, kept: list[int]) -> None:
    made = member(tmp_path, snapshots=snapshots).run()
    assert made["epochs"] == kept
    assert {path.stem for path in tmp_path.rglob("epoch*")} == {f"epoch{epoch}" for epoch in kept}
    assert pd.read_csv(made["files"]["member0/metrics"]).train_clean.notna().tolist() == [e in kept for e in range(4)]
    curve = pd.read_csv(made["files"]["member0/metrics"])
    assert curve.train_augmented.notna().tolist() == [0 in kept, True, True, True]


def test_what_early_keeps() -> None:
    assert kept_epochs("early", 300) == list(range(11))
    assert kept_epochs("early", 2) == kept_epochs("all", 2) == [0, 1, 2]
    with pytest.raises(ValueError, match="a range such as 0-16 or a list of epochs, not 'first'"):
        kept_epochs("first", 3)


def test_epoch_0_is_measured_on_augmented_images_and_moves_nothing(tmp_path: Path) -> None:
    """Its loss and accuracy are those of the untrained network on one pass with draws of its own."""
    plain = {**TRAINING, "augment": "none", "mix_probability": 0.0}
    spec = {**BLOCK, "network": NETWORK, "training": plain}  # without statistics of the batch
    training = MemberTraining(spec, 0, digits(), tmp_path / "plain")
    logits = logits_of(training.net, State.of(training.net), digits())
    found = pd.read_csv(training.run()["files"]["member0/metrics"])
    assert found.train_augmented[0] == found.train_clean[0]
    assert found.loss[0] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, digits().labels)), rel=1e-5)
    for name, snapshots in (("kept", [0, 3]), ("not", [3])):
        member(tmp_path / name, snapshots=snapshots, record_events=True).run()
    kept, not_kept = (contents(tmp_path / name) for name in ("kept", "not"))
    assert kept["member0/epoch3.safetensors"] == not_kept["member0/epoch3.safetensors"]
    assert kept["member0/events.safetensors"] == not_kept["member0/events.safetensors"]
    curves = [pd.read_csv(tmp_path / name / "member0/metrics.csv") for name in ("kept", "not")]
    assert curves[0].loc[1:].equals(curves[1].loc[1:])


def test_members_are_trained_as_the_specification_says_they_differ(tmp_path: Path) -> None:
    spec = {**BLOCK, "training": TRAINING, "differs": {"1": {"lr": 0.03, "optimiser": "adam"}}}
    for number in (0, 1):
        MemberTraining(spec, number, digits(), tmp_path / "differ").run()
        member(tmp_path / "same", number).run()
    member(tmp_path / "alone", 1, lr=0.03, optimiser="adam").run()
    differ, same, alone = (contents(tmp_path / name) for name in ("differ", "same", "alone"))
    assert {name: value for name, value in differ.items() if "member0" in name} == {
        name: value for name, value in same.items() if "member0" in name
    }
    assert {name: value for name, value in differ.items() if "member1" in name} == alone
    assert alone["member1/epoch3.safetensors"] != same["member1/epoch3.safetensors"]


def test_members_differ_and_repeat_exactly(tmp_path: Path) -> None:
    for name, number in (("a", 0), ("b", 0), ("c", 1)):
        member(tmp_path / name, number).run()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    own, other = (
        load_tensors(tmp_path / name)[0] for name in ("a/member0/epoch0.safetensors", "c/member1/epoch0.safetensors")
    )
    assert not torch.equal(own["params/classifier.weight"], other["params/classifier.weight"])


def test_the_learning_rate_falls(tmp_path: Path) -> None:
    for name, over in (("a", {}), ("b", {"decay_at": []}), ("c", {"decay_at": [], "decay_factor": 0.9})):
        member(tmp_path / name, **over).run()
    a, b, c = (contents(tmp_path / name) for name in "abc")
    same = {name for name in a if a[name] == b[name]}
    assert same == {f"member0/epoch{epoch}.safetensors" for epoch in (0, 1)}, (
        "decay_at 0.5 of 3 epochs: from the second"
    )
    assert b == c


@pytest.mark.parametrize("killed_after, optimiser", [(1, "sgd"), (2, "sgd"), (3, "sgd"), (2, "adam")])
def test_killed_after_any_epoch_and_resumed_is_equal(tmp_path: Path, killed_after: int, optimiser: str) -> None:
    how = {"record_events": True, "optimiser": optimiser}
    member(tmp_path / "whole", **how).run()
    with pytest.raises(KilledError):
        member(tmp_path / "killed", **how).run(Fragile(tmp_path, killed_after))
    before = contents(tmp_path / "killed")
    member(tmp_path / "killed", **how).run(Fragile(tmp_path))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert {f"member0/epoch{epoch}.safetensors" for epoch in range(killed_after + 1)} <= set(before)


def test_a_checkpoint_without_its_snapshots_is_not_continued(tmp_path: Path) -> None:
    member(tmp_path / "whole").run()
    with pytest.raises(KilledError):
        member(tmp_path / "pool").run(Fragile(tmp_path, 2))
    shutil.rmtree(tmp_path / "pool")
    member(tmp_path / "pool").run(Fragile(tmp_path))
    assert contents(tmp_path / "pool") == contents(tmp_path / "whole")


# ---- a real kill of the job ---------------------------------------------------------------------------------------


def job(spec: Any, data: Path) -> list[str]:
    machine = {**presets.MACHINE, "device": "cpu", "compile": "never"}
    output = "results/pool/p/block0.json"
    return [
        sys.executable, "-m", "ddlib.jobs.train_block", "--spec", json.dumps(spec), "--gpus", "0", "--train", str(data),
        "--machine", json.dumps({**machine, "checkpoint_seconds": 0}), "--output", output,
        "--run", "results/pool/p/block0.run.json",
    ]  # fmt: skip


def test_the_job_survives_sigkill(tmp_path: Path) -> None:
    spec = {**BLOCK, "training": {**TRAINING, "epochs": 16, "record_events": True}, "snapshots": [0, 8, 16]}
    for number in (0, 1):
        MemberTraining(spec, number, digits(), tmp_path / "whole").run()
    data = digits().save(tmp_path / "data", "train", {})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    pool, command = tmp_path / "results/pool/p", job(spec, data)
    killed = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not list(tmp_path.rglob("*.member1.*.1.safetensors")):
        assert killed.poll() is None, killed.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (pool / "block0.json").exists()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made, whole = contents(pool), contents(tmp_path / "whole")
    assert made.keys() - whole.keys() == {"block0.json", "block0.run.json"}
    assert {name for name in whole if made.get(name) != whole[name]} == set()
    assert len(whole) == 2 * 5
    assert not contents(tmp_path / "results/checkpoints"), "nothing is left behind"
    facts = read_manifest(pool / "block0.json", "block")
    assert facts["spec"] == spec
    assert set(facts["result"]["members"]) == {"0", "1"}
    run = json.loads((pool / "block0.run.json").read_text())
    assert run["device"].startswith("CPU")
    assert run["seconds"] > 0


# ---- what happens to each example ---------------------------------------------------------------------------------


def test_forgetting_by_hand() -> None:
    """Toneva et al.: an example is forgotten when it goes from right to wrong between two of its own batches."""
    happened = Events.none(5, torch.device("cpu"))
    rounds = [
        ([0, 1, 2, 3], [1, 0, 1, 0]),
        ([3, 2, 1, 0], [1, 0, 1, 1]),
        ([0, 2], [0, 1]),
        ([0, 1, 2, 3], [0, 1, 0, 0]),
        ([0, 1], [1, 0]),
        ([0], [0]),
    ]
    for index, right in rounds:
        happened.seen(torch.tensor(index), torch.tensor(right, dtype=torch.bool))
    # (right: +, wrong: -) 0: ++--+-, 1: -++--, 2: +-+-, 3: -+-
    assert happened.forgotten.tolist() == [2, 1, 2, 1, 0]
    assert happened.correct.tolist() == [0, 0, 0, 0, -1]


def test_error_norms_by_hand() -> None:
    happened = Events.none(2, torch.device("cpu"))
    logits = torch.tensor([[0.0, 0.0], [100.0, 0.0]])
    for labels in ([0, 1], [1, 0]):
        happened.add_errors(logits, torch.tensor(labels))
    assert happened.passes == 2
    assert happened.error.tolist() == pytest.approx([2 * 0.5**0.5, 2**0.5])


def test_recorded_events_are_those_of_the_training(tmp_path: Path) -> None:
    told: list[tuple[Tensor, Tensor]] = []
    original = Events.seen

    def spy(self: Events, index: Tensor, correct: Tensor) -> None:
        told.append((index, correct))
        original(self, index, correct)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Events, "seen", spy)
        made = member(tmp_path, record_events=True).run()
    history: dict[int, list[bool]] = {}
    for index, correct in told:
        for example, right in zip(index.tolist(), correct.tolist(), strict=True):
            history.setdefault(example, []).append(right)
    assert len(history) == 120
    assert {len(own) for own in history.values()} == {3}
    want = [sum(a and not b for a, b in zip(history[i], history[i][1:], strict=False)) for i in range(120)]
    found, _ = load_tensors(made["files"]["member0/events"])
    assert found["forgotten"].tolist() == want
    assert found["el2n"].shape == (120,)
    assert 0 < found["el2n"].min() <= found["el2n"].max() <= 2**0.5
    plain = member(tmp_path / "plain").run()
    assert sha256_file(plain["files"]["member0/epoch3"]) == sha256_file(made["files"]["member0/epoch3"])


def test_data_as_read_and_as_stored_train_alike(tmp_path: Path) -> None:
    """Same bits also in the layout of memory: a stride decides which kernel a convolution takes."""
    read = digits()
    stored = RealData.load(read.save(tmp_path / "data", "train", {}))
    assert read.images.stride() == stored.images.stride()
    for name, data in (("a", read), ("b", stored)):
        member(tmp_path / name, 0, data, record_events=True).run()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
