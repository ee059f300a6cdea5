"""Views on a pool: which snapshots are chosen, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small import NETWORK, TRAINING, digits

from ddlib.artifacts import sha256_file, write_manifest
from ddlib.pool.member import MemberTraining
from ddlib.pool.view import select


@pytest.fixture
def blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two blocks of two members, snapshots of epochs 0, 2, 4, 6; accuracies are 0.1 x epoch + 0.01 x member."""
    monkeypatch.chdir(tmp_path)
    paths = []
    for block in (0, 1):
        files: dict[str, Path] = {}
        for number in (2 * block, 2 * block + 1):
            folder = Path(f"pool/p/member{number}")
            folder.mkdir(parents=True)
            rows = [[epoch, 1.0, *[0.1 * epoch + 0.01 * number] * 2, None] for epoch in range(7)]
            files[f"member{number}/metrics"] = folder / "metrics.csv"
            columns = ["epoch", "loss", "train_augmented", "train_clean", "heldout"]
            pd.DataFrame(rows, columns=columns).to_csv(folder / "metrics.csv", index=False)
            for epoch in (0, 2, 4, 6):
                files[f"member{number}/epoch{epoch}"] = folder / f"epoch{epoch}.safetensors"
                files[f"member{number}/epoch{epoch}"].write_text(f"{number} {epoch}")
        paths.append(Path(f"pool/p/block{block}.json"))
        write_manifest(paths[-1], "block", {"members": [2 * block, 2 * block + 1]}, files, {"epochs": [0, 2, 4, 6]})
    return paths


def chosen(blocks: list[Path], **view: Any) -> list[tuple[int, int]]:
    return [(row["member"], row["epoch"]) for row in select(blocks, {"members": 4, **view}, "p")]


def test_views_by_epoch_by_metric_and_both(blocks: list[Path]) -> None:
    assert chosen(blocks, epochs=[4, 0]) == [(m, e) for m in range(4) for e in (0, 4)]
    assert chosen(blocks, members=1, epochs=[2]) == [(0, 2)]
    window = {"metric": "train_clean", "windows": [[0.205, 0.415]]}
    assert chosen(blocks, **window) == [(0, 4), (1, 2), (1, 4), (2, 2), (3, 2)]
    assert chosen(blocks, **window, epochs=[4, 6]) == [(0, 4), (1, 4)]
    assert chosen(blocks[::-1], **window) == chosen(blocks, **window), "the order of blocks has no say"
    table = pd.DataFrame(select(blocks, {"members": 3, **window}, "p"))
    assert list(table.columns) == ["member", "epoch", "file", "sha256", "metric", "value"]
    assert table.value.tolist() == pytest.approx([0.4, 0.21, 0.41, 0.22])
    assert set(table.metric) == {"train_clean"}
    assert all(sha256_file(row.file) == row.sha256 for row in table.itertuples())


def test_a_snapshot_may_lie_in_any_window_and_on_its_ends(blocks: list[Path]) -> None:
    two = {"metric": "train_clean", "windows": [[0.0, 0.01], [0.415, 0.6]]}
    assert chosen(blocks, **two) == [(0, 0), (1, 0), (2, 4), (3, 4)]
    assert chosen(blocks, **two, epochs=[4]) == [(2, 4), (3, 4)]
    with pytest.raises(ValueError, match=r"train_clean accuracy 0\.05-0\.10 or 0\.70-0\.80 in pool p \(4 members"):
        chosen(blocks, metric="train_clean", windows=[[0.05, 0.1], [0.7, 0.8]])


def test_a_horizon_must_be_there_too(blocks: list[Path]) -> None:
    assert chosen(blocks, members=1, epochs=[0, 2, 4, 6], horizon=4) == [(0, 0), (0, 2)]
    assert chosen(blocks, members=1, metric="train_clean", windows=[[0.0, 0.3]], horizon=4) == [(0, 0), (0, 2)]
    with pytest.raises(
        ValueError, match=r"no snapshot of epochs \[4\] with another 4 epochs later in pool p \(4 members, epochs 0-6\)"
    ):
        chosen(blocks, epochs=[4], horizon=4)


def test_empty_views_say_what_the_pool_holds_and_what_to_do(blocks: list[Path]) -> None:
    with pytest.raises(ValueError, match=(
        r"no checkpoint with train_clean accuracy 0\.70-0\.80 in pool p \(4 members, epochs 0-6; train_clean "
        r"0\.00-0\.63, 0\.60-0\.63 at the last epoch\)\. Widen the view"
    )):  # fmt: skip
        chosen(blocks, metric="train_clean", windows=[[0.7, 0.8]])
    with pytest.raises(
        ValueError, match=r"accuracy 0\.10-0\.90 in pool p .* has no heldout accuracy\. Set the data set's `heldout`"
    ):
        chosen(blocks, metric="heldout", windows=[[0.1, 0.9]])
    with pytest.raises(ValueError, match=r"pool p keeps no snapshot of epochs \[3\], only of 0, 2, 4, 6"):
        chosen(blocks, epochs=[2, 3])
    with pytest.raises(ValueError, match=r"asks for 9 members of pool p; the blocks given hold 4"):
        chosen(blocks, members=9, epochs=[0])
    with pytest.raises(ValueError, match=r"no accuracy 'train_cleen': did you mean 'train_clean'"):
        chosen(blocks, metric="train_cleen", windows=[[0.1, 0.2]])


def test_a_held_out_slice_can_choose(tmp_path: Path) -> None:
    spec = {"network": NETWORK, "training": TRAINING, "snapshots": "all", "seed": 0}
    made = MemberTraining(spec, 0, digits(20, heldout=0.25), tmp_path / "p").run()
    write_manifest(tmp_path / "p" / "block0.json", "block", {"members": [0]}, made["files"], {"epochs": made["epochs"]})
    view = {"members": 1, "metric": "heldout", "windows": [[0.0, 1.0]]}
    table = pd.DataFrame(select([tmp_path / "p" / "block0.json"], view, "p"))
    curve = pd.read_csv(made["files"]["member0/metrics"])
    assert table.epoch.tolist() == [0, 1, 2, 3]
    assert table.value.tolist() == pytest.approx(curve.heldout.tolist())
