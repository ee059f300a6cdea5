"""Experts: pools trained as trajectory matching wants them, views with a horizon, their disk, and official buffers."""

from __future__ import annotations

import copy
import os
import shutil
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small import NETWORK, SPEC, TRAINING, digits
from tiny import CONFIG, Tiny

from ddlib import disk, presets, project, todo
from ddlib import nn as networks
from ddlib.artifacts import canonical, load_tensors, read_json, read_manifest, write_json, write_manifest
from ddlib.augment.siamese import Augmentation
from ddlib.config import ConfigError, merged, read, resolve
from ddlib.data.whitening import fitted, whitened
from ddlib.guard import disagreement
from ddlib.jobs import plan as planning
from ddlib.jobs.import_buffers import bring_in
from ddlib.jobs.import_set import bring_in as bring_in_set
from ddlib.jobs.train_block import plan_disk
from ddlib.paths import MANIFESTS
from ddlib.plan import Plan
from ddlib.pool.buffers import check_experts, network_of, official_order, read_experts
from ddlib.pool.member import MemberTraining
from ddlib.pool.view import select
from ddlib.pool_settings import kept_epochs
from ddlib.sets.dataset import open_set, true_colours
from ddlib.streams import Streams
from ddlib.torch_files import load_plain
from ddlib.train.compiler import EAGER
from ddlib.train.loop import Learning, State, Trainer

SCHEMA = read(project.SCHEMA)
MTT = presets.POOL_TRAINING["mtt"]
EXPERTS = {"dataset": "digits", "network": "small", "training": {"recipe": "mtt", "epochs": 4}, "snapshots": "0-3"}


def configured(**changes: Any) -> dict[str, Any]:
    """The tiny configuration with a pool of experts, and an experiment `m` that matches their trajectories."""
    config = copy.deepcopy(CONFIG)
    plain = {key: value for key, value in config["experiments"]["a"].items() if key != "settings"}
    view = {"members": 2, "start_below": 2, "horizon": 2}
    config["experiments"]["m"] = {**plain, "method": "mtt", "pool": "experts", "view": view}
    config["pools"]["experts"] = copy.deepcopy(EXPERTS)
    config["suites"]["tiny"]["experiments"] = ["a", "m"]
    return merged(config, changes)


def plan(config: dict[str, Any]) -> Plan:
    return Plan(resolve(config, SCHEMA))


def refused(config: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(config, SCHEMA)
    assert "the configuration has 1 problem:\n" in str(caught.value)
    return str(caught.value)


def viewing(**view: Any) -> dict[str, Any]:
    config = configured()
    config["experiments"]["m"]["view"] = {"members": 2, **view}
    return config


# ---- how experts are trained ----------------------------------------------------------------------------------------


def test_the_recipe_of_experts_and_that_digits_are_not_mirrored() -> None:
    given = plan(
        configured(datasets={"c": {"source": "cifar10", "classes": 10}}, pools={"c": {**EXPERTS, "dataset": "c"}})
    )
    cifar, own = (given.spec("train_block", {"pool": pool, "block": 0})["training"] for pool in ("c", "experts"))
    wanted = {"optimiser": "sgd", "lr": 0.01, "momentum": 0.0, "weight_decay": 0.0, "batch": 256, "dialect": "mtt"}
    wanted |= {"augment": "color_crop_cutout_flip_scale_rotate", "mix_probability": 0.0, "decay_at": []}
    assert MTT["epochs"] == 50
    assert cifar.items() >= wanted.items()
    assert own["augment"] == "color_crop_cutout_scale_rotate"
    assert cifar["score_snapshots"] is False


def test_specifications_of_other_pools_are_as_they_were() -> None:
    """Byte for byte: a key more would train every pool anew."""
    spec = plan(configured()).spec("train_block", {"pool": "early", "block": 0})
    assert canonical(spec["training"]) == (
        '{"augment":"color_crop","batch":64,"decay_at":[],"decay_factor":0.2,"dialect":"idc","epochs":1,"lr":0.01,'
        '"mix_beta":1.0,"mix_probability":0.5,"momentum":0.9,"optimiser":"sgd","record_events":false,'
        '"weight_decay":0.0005}'
    )
    off = plan(configured(pools={"early": {"training": {"score_snapshots": False}}}))
    assert off.spec("train_block", {"pool": "early", "block": 0})["training"]["score_snapshots"] is False


def test_decay_falls_once_after_the_official_epoch() -> None:
    """--decay: the rate falls after epoch index 50 // 2 + 1, so that epoch 27 is the first with a tenth."""
    from ddlib.train.schedules import decayed

    assert [decayed(epoch, 50, [0.54], MTT["decay_factor"]) for epoch in (26, 27, 49)] == [1.0, 0.1, 0.1]


def learner(batch: int = 50, compiler: Any = EAGER) -> Trainer:
    settings = {**MTT, "batch": batch, "augment": "color_crop_cutout_scale_rotate"}
    options = {key: value for key, value in NETWORK.items() if key != "version"}
    net = networks.build(options, channels=1, size=8, classes=10, seed=0)
    return Trainer(net, Learning.of(settings), digits(), Streams(3, "t"), "t", compiler)


def test_a_batch_is_augmented_by_one_operation_with_draws_of_its_own_for_every_image() -> None:
    """Four batches against PyTorch's own SGD on batches augmented by hand with the same draws."""
    trainer = learner()
    options = {key: value for key, value in NETWORK.items() if key != "version"}
    net = networks.build(options, channels=1, size=8, classes=10, seed=0)
    batches = [np.arange(first, first + 50) % 120 for first in (0, 20, 40)] + [np.arange(17)]
    state, _ = trainer.run(State.of(net), batches, (0,))
    recipe, data = Augmentation("color_crop_cutout_scale_rotate", "mtt"), digits()
    drawn = recipe.draw(Streams(3, "t").at("t_augment", 0), (4,), height=8, width=8, images=50)
    assert {values.shape for name, values in drawn.items() if name != "choice"} == {(4, 50)}
    moves = torch.optim.SGD(net.parameters(), lr=0.01)
    for step, batch in enumerate(batches):
        own = {name: torch.from_numpy(values[step, : len(batch)]) for name, values in drawn.items() if name != "choice"}
        x = (data.pixels(torch.from_numpy(batch)) - 0.3039) / 0.3753
        x = recipe.apply(x, {k: v.float() if v.is_floating_point() else v for k, v in own.items()},
                         recipe.choices[int(drawn["choice"][step])])  # fmt: skip
        moves.zero_grad()
        torch.nn.functional.cross_entropy(net(x), data.labels[torch.from_numpy(batch)]).backward()
        moves.step()
    for name, value in net.named_parameters():
        torch.testing.assert_close(state.params[name], value.detach(), rtol=1e-5, atol=1e-6)


def test_what_is_compiled_does_not_depend_on_the_operation() -> None:
    """torch compiles a function at most eight times: one graph a batch size, not one more for each operation."""
    asked: set[tuple[Any, ...]] = set()

    def watched(function: Any) -> Any:
        def call(moved: Any, x: Any, y: Any, draws: Any, mix: Any, choice: Any, *rest: Any) -> Any:
            asked.add((tuple(x.shape), choice, draws))
            return function(moved, x, y, draws, mix, choice, *rest)

        return call

    trainer = learner(compiler=watched)
    batches = [np.arange(50)] * 30 + [np.arange(20)]
    trainer.run(State.of(network()), batches, (0,))
    assert len(asked) == 2
    assert len(set(trainer._draw(31, (0,)).choices)) == 5


def network() -> torch.nn.Module:
    options = {key: value for key, value in NETWORK.items() if key != "version"}
    return networks.build(options, channels=1, size=8, classes=10, seed=0)


@pytest.mark.parametrize("scores", [True, False])
def test_snapshots_that_are_not_scored_leave_their_accuracy_empty(tmp_path: Path, scores: bool) -> None:
    data = digits(20, heldout=0.25)
    spec = {"network": NETWORK, "snapshots": "0-2", "seed": 0}
    made = {}
    for name, over in (("scored", {}), ("own", {} if scores else {"score_snapshots": False})):
        made[name] = MemberTraining({**spec, "training": {**TRAINING, **over}}, 0, data, tmp_path / name).run()
    table = pd.read_csv(made["own"]["files"]["member0/metrics"])
    assert table.train_clean.notna().tolist() == [scores] * 3 + [False]
    assert table.loss.notna().tolist() == table.train_augmented.notna().tolist() == [scores, True, True, True]
    assert table.heldout.notna().tolist() == [True] * 3 + [False]
    for epoch in range(3):
        a, b = (made[name]["files"][f"member0/epoch{epoch}"].read_bytes() for name in made)
        assert a == b, "what is measured changes no weight"


def test_a_view_by_an_accuracy_that_is_not_measured_is_refused() -> None:
    window = {"metric": "train_clean", "low": 0.1, "high": 0.2}
    said = refused(viewing(**window, horizon=1))
    assert (
        "experiments.m.view.metric: the pool's snapshots have no train_clean accuracy (score_snapshots: false)" in said
    )
    plan(viewing(**{**window, "metric": "train_augmented"}, horizon=1))
    scored = {"pools": {"experts": {"training": {"score_snapshots": True}}}}
    plan(merged(viewing(**window, horizon=1), scored))


# ---- which snapshots ------------------------------------------------------------------------------------------------


def test_a_range_of_snapshots() -> None:
    assert kept_epochs("0-16", 50) == list(range(17))
    assert kept_epochs("4-4", 50) == [4]
    for wrong in ("16-0", "0-", "0-3-4", "-3"):
        with pytest.raises(ValueError, match="a range such as 0-16"):
            kept_epochs(wrong, 50)
    said = refused(configured(pools={"experts": {"snapshots": "0-16"}}))
    assert "pools.experts.snapshots: epochs [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16] are beyond the pool's 4" in said


def test_views_that_look_ahead_are_checked_before_anything_runs() -> None:
    plan(configured())
    said = refused(viewing(start_below=3, horizon=2))
    assert "experiments.m.view.horizon: 2 epochs after the start epochs [0, 1, 2] are [4], which are not among" in said
    assert "the pool's snapshots [0, 1, 2, 3] (change its snapshots)" in said
    said = refused(viewing(start_below=4, horizon=2))
    assert "are [4, 5], which are not among the pool's snapshots [0, 1, 2, 3] (its members train for 4 epochs)" in said
    said = refused(viewing(start_below=9, horizon=1))
    assert (
        "view.start_below: [4, 5, 6, 7, 8] are not among the pool's snapshots [0, 1, 2, 3] (its members train" in said
    )
    said = refused(viewing(start_below=2, horizon=0))
    assert "view.horizon: mtt matches a later snapshot, so many epochs ahead: give 1 or more (it is 0)" in said
    assert "give 1 or more (it is not given)" in refused(viewing(start_below=2))
    said = refused(viewing(start_below=2, epochs=[0], horizon=1))
    assert "view: start_below 2 and epochs are two ways to say one thing" in said
    assert "0 is less than the minimum of 1" in refused(viewing(start_below=0, horizon=1))
    assert "view.horizon: 4 epochs after any epoch the pool has no snapshot" in refused(viewing(horizon=4))


def test_a_pool_trained_with_another_whitening_is_another_data_set() -> None:
    config = configured(datasets={"white": {"source": "digits", "classes": 10, "heldout": 0.1}})
    config["experiments"]["m"]["dataset"] = "white"
    said = refused(config)
    assert (
        "experiments.m.pool: its dataset is digits, the experiment's is white. Both are digits (they differ in " in said
    )
    assert "heldout as by default / 0.1), but whitening, order and held-out images are part of a data set" in said


@pytest.fixture
def blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two members, snapshots of epochs 0-3."""
    monkeypatch.chdir(tmp_path)
    files: dict[str, Path] = {}
    for member in (0, 1):
        folder = Path(f"pool/p/member{member}")
        folder.mkdir(parents=True)
        files[f"member{member}/metrics"] = folder / "metrics.csv"
        curve = pd.DataFrame({"epoch": range(5), "loss": 1.0, "train_augmented": 0.5})
        curve.assign(train_clean=0.25 * curve.epoch, heldout=None).to_csv(folder / "metrics.csv", index=False)
        for epoch in range(4):
            files[f"member{member}/epoch{epoch}"] = folder / f"epoch{epoch}.safetensors"
            files[f"member{member}/epoch{epoch}"].write_text(f"{member} {epoch}")
    write_manifest(Path("pool/p/block0.json"), "block", {"members": [0, 1]}, files, {"epochs": [0, 1, 2, 3]})
    return [Path("pool/p/block0.json")]


def test_rows_of_a_view_that_looks_ahead_name_their_targets(blocks: list[Path]) -> None:
    table = pd.DataFrame(select(blocks, {"members": 2, "start_below": 2, "horizon": 2}, "p"))
    assert list(table.columns[-2:]) == ["target_file", "target_sha256"]
    assert list(zip(table.member, table.epoch, strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    named = read_manifest(blocks[0])["files"]
    for row in table.itertuples():
        target = named[f"member{row.member}/epoch{row.epoch + 2}"]
        assert (row.target_file, row.target_sha256) == (f"pool/p/{target['path']}", target["sha256"])
    with pytest.raises(ValueError, match=r"pool p keeps no snapshot of epochs \[4\], only of 0, 1, 2, 3"):
        select(blocks, {"members": 2, "start_below": 5, "horizon": 2}, "p")
    with pytest.raises(ValueError, match=r"no snapshot of epochs \[0, 1\] with another 4 epochs later in pool p"):
        select(blocks, {"members": 2, "start_below": 2, "horizon": 4}, "p")


def test_other_views_are_written_as_before(blocks: list[Path]) -> None:
    sha256 = read_manifest(blocks[0])["files"]["member1/epoch2"]["sha256"]
    text = "member,epoch,file,sha256,metric,value\n1,2,pool/p/member1/epoch2.safetensors,{},{}\n"
    window = {"metric": "train_clean", "windows": [[0.4, 0.6]]}
    for view, rest in (({"epochs": [2]}, ","), (window, "train_clean,0.5")):
        table = pd.DataFrame(select(blocks, {"members": 2, **view}, "p"))
        assert table[table.member == 1].to_csv(index=False) == text.format(sha256, rest)


# ---- disk -----------------------------------------------------------------------------------------------------------


def test_disk_is_planned_printed_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = plan(configured(pools={"experts": {"members_per_block": 2}}))
    spec = given.spec("train_block", {"pool": "experts", "block": 0})
    assert spec["members"] == [0, 1]
    each = 4 * (40 + 8 + 650)  # a convolution of 4 x 9 + 4, a norm of 8, a classifier of 4 x 16 x 10 + 10
    open_jobs = {"results/pool/experts/block0.json"}
    assert planning.pools(given, "m", open_jobs) == [
        "pool experts: 2 members x 4 snapshots x 698 numbers x 4 bytes = 22.3 kB, 22.3 kB to do"
    ]
    folder, kept = tmp_path / "results/pool/experts", range(4)
    plan_disk("train_block", spec, kept, folder)
    assert "the 8 snapshots of 2 members (4 epochs each) take 22.3 kB; " in capsys.readouterr().err
    monkeypatch.setattr(disk, "free", lambda path: each * 5)
    assert "no room for these: 14.0 kB are free here, 22.3 kB are to do" in planning.pools(given, "m", open_jobs)
    assert "no room" not in "".join(planning.pools(given, "m", set()))
    with pytest.raises(ValueError, match=r"take 22\.3 kB more, and 14\.0 kB are free at .*Make room .*`snapshots`"):
        plan_disk("train_block", spec, kept, folder)
    (folder / "member1").mkdir(parents=True)
    for epoch in range(3):
        (folder / "member1" / f"epoch{epoch}.safetensors").write_bytes(b"0" * each)
    plan_disk("train_block", spec, kept, folder)


def test_every_job_of_the_shipped_suites_has_its_causes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of masks too, which belong to no experiment: `make plan` asks for all."""
    given = project.load(project.SCHEMA.parents[2])
    monkeypatch.chdir(tmp_path)
    assert todo.to_do(given, "digits") == given.jobs("digits")


def test_free_disk_is_that_of_the_place() -> None:
    assert disk.free("/no/such/folder") == disk.free("/") > 0


# ---- official buffers -----------------------------------------------------------------------------------------------


def trajectories(experts: int, snapshots: int = 5, seed: int = 0, depth: int = 1) -> list[list[list[torch.Tensor]]]:
    """What buffer.py of MTT leaves for a ConvNet of width 4 on digits, with weights at random."""
    draws = torch.Generator().manual_seed(seed)
    shapes = [(4, 1, 3, 3), (4,), (4,), (4,), *[(4, 4, 3, 3), (4,), (4,), (4,)] * (depth - 1)]
    shapes += [(10, 4 * (8 // 2**depth) ** 2), (10,)]
    return [
        [[torch.randn(*shape, generator=draws) for shape in shapes] for _ in range(snapshots)] for _ in range(experts)
    ]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with prepared digits."""
    monkeypatch.chdir(tmp_path)
    folder = Path("results/data/digits")
    spec = plan(configured()).spec("prepare_data", {"dataset": "digits"})
    for part in ("train", "test"):
        digits().save(folder, part, spec)
    return tmp_path


def saved(path: str, content: Any) -> Path:
    torch.save(content, path)
    return Path(path)


def test_the_official_order_is_block_by_block() -> None:
    """Ours has all convolutions first; the official network has each block's norm after its convolution."""
    spec = {"network": {**NETWORK, "depth": 2}, "dataset": SPEC}
    assert list(official_order(network_of(spec))) == [
        "layers.conv.0.weight", "layers.conv.0.bias", "layers.norm.0.weight", "layers.norm.0.bias",
        "layers.conv.1.weight", "layers.conv.1.bias", "layers.norm.1.weight", "layers.norm.1.bias",
        "classifier.weight", "classifier.bias",
    ]  # fmt: skip
    plain = official_order(network_of({"network": {**NETWORK, "norm": "none"}, "dataset": SPEC}))
    assert "layers.norm.0.weight" not in plain
    assert len(plain) == 6
    with pytest.raises(ValueError, match="a buffer holds parameters alone, this network also has statistics"):
        official_order(network_of({"network": {**NETWORK, "norm": "batch"}, "dataset": SPEC}))


@pytest.mark.parametrize("per_block", [1, 2])
def test_buffers_become_the_blocks_that_the_plan_asks_for(place: Path, per_block: int) -> None:
    given = plan(configured(pools={"experts": {"members_per_block": per_block}}))
    two, three = trajectories(2), trajectories(2, seed=1)
    files = [saved("replay_buffer_0.pt", two), saved("replay_buffer_1.pt", three)]
    said = bring_in(given, "experts", files)
    assert f"pool experts: 4 members, 4 snapshots each, 44.7 kB, in {4 // per_block} blocks" == said[0]
    assert "lr 0.01, momentum 0.0, weight_decay 0.0, batch 256, epochs 4" in said[1]
    names = list(official_order(network_of(given.spec("train_block", {"pool": "experts", "block": 0}))))
    for member, expert in enumerate([*two, *three]):
        block = Path(f"results/pool/experts/block{member // per_block}.json")
        manifest = read_manifest(block, "block")
        assert disagreement(block, given.spec("train_block", {"pool": "experts", "block": member // per_block})) is None
        source = manifest["result"]["imported"][str(member)]
        assert source == {"file": f"replay_buffer_{member // 2}.pt", "expert": member % 2}
        for epoch in range(4):
            entry = manifest["files"][f"member{member}/epoch{epoch}"]
            held, meta = load_tensors(block.parent / entry["path"], entry["sha256"])
            assert meta == {"member": member, "epoch": epoch}
            assert all(torch.equal(held[f"params/{n}"], v) for n, v in zip(names, expert[epoch], strict=True))
        assert f"member{member}/epoch4" not in manifest["files"], "only what snapshots name is kept"
        assert read_json(block.with_suffix(".run.json"))["seconds"] == 0
    found = sorted(Path("results/pool/experts").glob("block?.json"))
    table = pd.DataFrame(select(found, {**VIEW, "members": 4}, "experts"))
    assert len(table) == 8
    assert table.target_file.str.endswith(("epoch2.safetensors", "epoch3.safetensors")).all()
    window = {"members": 1, "metric": "train_augmented", "windows": [[0.0, 1.0]]}
    with pytest.raises(ValueError, match=r"no checkpoint with train_augmented accuracy .* has no train_augmented"):
        select([Path("results/pool/experts/block0.json")], window, "experts")


VIEW = {"members": 2, "start_below": 2, "horizon": 2}


def test_an_imported_network_is_the_one_that_was_trained(place: Path) -> None:
    """Out of a member of ours in the official order, and back: the same file."""
    given = plan(configured(pools={"experts": {"training": {"batch": 64}}}))
    spec = given.spec("train_block", {"pool": "experts", "block": 0})
    made = MemberTraining({**spec, "snapshots": "all"}, 0, digits(), place / "ours").run()["files"]
    order = official_order(network_of(spec))
    held = [load_tensors(made[f"member0/epoch{epoch}"])[0] for epoch in range(5)]
    buffer = [[[snapshot[f"params/{name}"] for name in order] for snapshot in held]]
    bring_in(given, "experts", [saved("replay_buffer_0.pt", buffer)])
    for epoch in range(4):
        own = Path(f"results/pool/experts/member0/epoch{epoch}.safetensors")
        assert own.read_bytes() == made[f"member0/epoch{epoch}"].read_bytes()


def test_a_run_uses_imported_members_and_trains_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Tiny.new(tmp_path / "repo")
    tiny.config = configured()
    tiny.save()
    monkeypatch.chdir(tiny.folder)
    given = plan(tiny.config)
    for path in (template.format(dataset="digits") for template in MANIFESTS["prepare_data"]):
        write_manifest(path, "made", given.spec("prepare_data", {"dataset": "digits"}), {}, {})
        write_json(Path(path).with_suffix(".run.json"), {})
    done = tiny.job("import_buffers", str(saved("replay_buffer_0.pt", trajectories(1))), "--pool", "experts")
    assert done.returncode == 0, done.stderr
    selection = "views/m/ipc1/seed0/selection.json"
    assert tiny.plan(f"results/{selection}") == {"pool/experts/block1.json", selection}
    again = tiny.job("import_buffers", "replay_buffer_0.pt", "--pool", "experts")
    assert again.returncode == 1
    assert again.stderr == (
        "error: results/pool/experts/block0.json exists: delete it, or import into a pool of another name\n"
    )


def changed(experts: list[Any], expert: int, epoch: int, tensor: int, value: torch.Tensor) -> list[Any]:
    experts[expert][epoch][tensor] = value
    return experts


BAD = {
    r"expert 0 of b.pt has 4 snapshots, so it was trained for 3 epochs; the pool trains for 4": lambda: trajectories(
        1, 4
    ),
    r"expert 0 of b.pt, snapshot 0, has 10 tensors; the pool's network has 6 parameters": lambda: trajectories(
        1, 5, 0, 2
    ),
    r"expert 1 of b.pt, snapshot 2: tensor 4 is torch.float32 \[10, 36\]; .* classifier.weight of \[10, 64\]": lambda: (
        changed(trajectories(2), 1, 2, 4, torch.ones(10, 36))
    ),
    r"expert 0 of b.pt, snapshot 3, is not finite": lambda: changed(
        trajectories(1), 0, 3, 1, torch.full((4,), torch.nan)
    ),
    r"expert 0 of b.pt does not move: its first and last snapshot are the same": lambda: [trajectories(1, 1)[0] * 5],
    r"b.pt is no replay buffer: it must be a list \[expert\]\[snapshot\]\[parameter\].* not list of 5 Tensor": lambda: (
        [torch.ones(2)] * 5
    ),
    r"b.pt is no replay buffer.* not an empty list": list,
    r"b.pt is no replay buffer.* not dict of 2 Tensor": lambda: {"a": torch.ones(1), "b": torch.ones(1)},
}


@pytest.mark.parametrize("said", BAD)
def test_buffers_that_do_not_fit_are_refused_and_nothing_is_written(place: Path, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bring_in(plan(configured()), "experts", [saved("b.pt", BAD[said]())])
    assert not Path("results/pool").exists()


def test_a_pool_that_cannot_be_imported_says_why(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("a.pt", trajectories(3))

    def refused_by(said: str, files: tuple[Path, ...] = (Path("a.pt"),), **pool: Any) -> None:
        with pytest.raises(ValueError, match=said):
            bring_in(plan(configured(pools={"experts": pool})), "experts", list(files))

    refused_by(
        r"3 experts do not fill blocks of 2 \(members_per_block of pool experts\): 1 would be", members_per_block=2
    )
    refused_by("members that differ", diversity={"lr": [0.01, 0.02]})
    refused_by("records events", training={"record_events": True})
    refused_by("two of the files are the same", files=(Path("a.pt"), shutil.copy(Path("a.pt"), Path("again.pt"))))
    refused_by("c.pt does not exist", files=(Path("c.pt"),))
    with pytest.raises(ValueError, match="no pool is called 'expert' in the configuration; did you mean 'experts'"):
        bring_in(plan(configured()), "expert", [Path("a.pt")])
    with monkeypatch.context() as patch:
        patch.setattr(disk, "free", lambda path: 1000)
        refused_by(r"the snapshots of 3 experts take 33\.5 kB more, and 1\.0 kB are free")
    Path("results/data/digits/train.json").unlink()
    refused_by(r"train.json does not exist: made after the pool, it would have the pool trained anew")
    assert not Path("results/pool").exists()


def test_other_pickles_are_not_read(tmp_path: Path) -> None:
    """Neither run nor taken: a pickle may ask for any function."""

    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    for content in (Trap(), [Trap()], SimpleNamespace(x=1)):
        with pytest.raises(ValueError, match=r"bad\.pt is no file of torch\.save with plain tensors in lists alone"):
            load_plain(saved(str(tmp_path / "bad.pt"), content))
    assert not (tmp_path / "sprung").exists()
    for junk in (b"", b"PK\x03\x04 cut short", b"no pickle"):
        (tmp_path / "junk.pt").write_bytes(junk)
        with pytest.raises(ValueError, match=r"junk\.pt is"):
            load_plain(tmp_path / "junk.pt")
    whole = saved(str(tmp_path / "whole.pt"), trajectories(1))
    whole.write_bytes(whole.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"whole\.pt is"):
        load_plain(whole)
    older = tmp_path / "older.pt"
    torch.save([torch.ones(2)], older, _use_new_zipfile_serialization=False)
    assert torch.equal(load_plain(older)[0], torch.ones(2))


def test_many_experts_are_checked_without_being_copied(place: Path) -> None:
    """Files are mapped: what is read is the snapshots that are kept."""
    file = saved("b.pt", trajectories(2))
    experts = read_experts([file])
    spec = plan(configured()).spec("train_block", {"pool": "experts", "block": 0})
    assert [expert.name for expert in experts] == ["expert 0 of b.pt", "expert 1 of b.pt"]
    assert list(check_experts(experts, spec)) == list(official_order(network_of(spec)))


# ---- official images ------------------------------------------------------------------------------------------------


def images(count: int = 20, low: float = -2.0, high: float = 2.0) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * (high - low) + low


def asked(**over: Any) -> Any:
    given = {"images": Path("images_best.pt"), "labels": Path("labels_best.pt"), "dataset": "digits"}
    return SimpleNamespace(**{**given, "space": "normalised", "step_size": None, "output": Path("made"), **over})


@pytest.fixture
def official(place: Path) -> Path:
    """Beside prepared data: a configuration, and two images of every digit as MTT saves them, not in order."""
    (place / "config.yaml").write_text(canonical(configured()))
    saved("images_best.pt", images())
    saved("labels_best.pt", torch.arange(10).repeat(2))
    return place


def test_official_images_become_a_set(official: Path) -> None:
    bring_in_set(asked(step_size=0.02))
    made = open_set("made")
    assert made.labels.tolist() == [label for label in range(10) for _ in range(2)]
    order = [i for label in range(10) for i in (label, label + 10)]
    torch.testing.assert_close(made.images, images()[order] * 0.3753 + 0.3039)
    assert (made.space, made.factor, made.name) == ("unit", 1, "digits")
    assert made.images.min() < 0, "as it was trained on: nothing is clipped"
    assert made.step_size is not None
    assert made.step_size.tolist() == pytest.approx([0.02])
    assert read_manifest("made/card.json", "set")["spec"]["imported"].keys() == {"images_best.pt", "labels_best.pt"}
    with pytest.raises(ValueError, match=r"made/set.safetensors exists: name a new folder"):
        bring_in_set(asked())
    saved("images_best.pt", images(20, -0.05, 1.05))
    bring_in_set(asked(space="unit", output=Path("unit")))
    assert open_set("unit").images.min() == 0
    assert open_set("unit").step_size is None


def test_whitened_images_carry_the_fit_of_their_data_set(official: Path) -> None:
    how = {"kind": "zca", "eps": 0.1, "version": 1}
    folder = Path("results/data/white")
    folder.mkdir()
    found, path = fitted(digits(), how, folder)
    for part in ("train", "test"):
        whitened(digits(), found).save(folder, part, {"dataset": {}}, path)
    config = configured(datasets={"white": {"source": "digits", "classes": 10, "whitening": "zca"}})
    Path("config.yaml").write_text(canonical(config))
    bring_in_set(asked(dataset="white", space="whitened"))
    made = open_set("made")
    assert (made.space, made.whitening) == ("whitened", found.fitted)
    assert torch.equal(made.images[0], images()[0])
    torch.testing.assert_close(
        true_colours(made, made.images), found.invert(made.images).clamp(0, 1), rtol=0, atol=1e-4
    )
    with pytest.raises(ValueError, match="normalised pixels are not those of a data set with whitening"):
        bring_in_set(asked(dataset="white", output=Path("other")))


WRONG: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    r"holds values from -2.00 to 2.00, which are no shares 0-1": (None, None, {"space": "unit"}),
    r"whitened pixels are not those of a data set without whitening": (None, None, {"space": "whitened"}),
    r"holds torch.float32 \[20, 1, 7, 7\], images of digits are floats \[N, 1, 8, 8\]": (
        torch.ones(20, 1, 7, 7),
        None,
        {},
    ),
    r"holds torch.int64 \[19\], not one class number for each of the 20 images": (None, torch.arange(19), {}),
    r"holds torch.float32 \[20\], not one class number": (None, torch.ones(20), {}),
    r"has labels 0-19, digits has the classes 0-9": (None, torch.arange(20), {}),
    r"has 0 to 20 images per class: it must be the same for all": (None, torch.zeros(20, dtype=torch.int64), {}),
    r"holds values that are no numbers": (images() / 0.0, None, {}),
    r"images_best.pt holds a list, not one tensor": ([torch.ones(1)], None, {}),
    r"images_best.pt is no file of torch.save with plain tensors": (OrderedDict(a=SimpleNamespace()), None, {}),
    r"no data set is called 'digit'; did you mean 'digits'": (None, None, {"dataset": "digit"}),
}


@pytest.mark.parametrize("said", WRONG)
def test_images_that_are_no_set_are_refused(official: Path, said: str) -> None:
    pixels, labels, over = WRONG[said]
    for path, content in (("images_best.pt", pixels), ("labels_best.pt", labels)):
        if content is not None:
            saved(path, content)
    with pytest.raises(ValueError, match=said):
        bring_in_set(asked(**over))
    assert not Path("made").exists()


def test_the_job_explains_a_refusal_in_a_line(official: Path) -> None:
    done = Tiny(official).run(
        "-m", "ddlib.jobs.import_set", "images_best.pt", "labels_best.pt", "--dataset", "digits", "--space", "unit",
        "--output", "made", PYTHONPATH=str(project.SCHEMA.parents[2]),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: images_best.pt holds values from -2.00 to 2.00")
    assert len(done.stderr.splitlines()) == 1
