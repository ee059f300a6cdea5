"""A teacher's labels: made once, kept, and trained on as if the teacher stood beside."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import NETWORK, PROTOCOL, digits, synthetic
from torch import Tensor

from ddlib import label_bytes, presets_students
from ddlib import nn as networks
from ddlib.artifacts import ArtifactError, save_tensors
from ddlib.checkpoints import Checkpoint
from ddlib.nn.functional import functional, split
from ddlib.protocol_settings import resolve
from ddlib.sets.labelling import Observe, make
from ddlib.sets.labels import LabelStore, set_digest
from ddlib.sets.synthetic import SyntheticSet
from ddlib.train import evaluate as module
from ddlib.train.evaluate import Lesson, evaluate
from ddlib.train.lessons import lessons
from ddlib.train.loop import Learning, State, Trainer
from ddlib.train.loop import Observe as Teacher

CROPS = {**PROTOCOL, "augment": "shuffle_resized_flip", "dialect": "crops", "grid": "set", "optimiser": "adamw"}
CROPS |= {"loss": "kl", "temperature": 4.0, "schedule_lr": "half_cosine", "mix_probability": 1.0, "epochs": 3}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "crops": CROPS,
    "mixup": {**CROPS, "mix": "mixup", "crop_area": [0.3, 0.9]},
    "idc": {**PROTOCOL, "augment": "color_crop_flip_scale_rotate"},
    "mtt": {**PROTOCOL, "augment": "color_crop_cutout_scale", "dialect": "mtt"},
}


def stitched(ipc: int = 3, grid: int = 2, factor: int = 1) -> SyntheticSet:
    """Real digits in place of a distilled set, `ipc` of each class."""
    data = digits()
    rows = torch.cat([data.of_class(label)[:ipc] for label in range(10)])
    facts = {"mean": data.mean, "std": data.std, "class_names": data.class_names, "grid": grid}
    facts |= {"labels": data.labels[rows].clone(), "stage": torch.zeros(len(rows), dtype=torch.int64)}
    return synthetic(factor, ipc, 5, images=data.pixels(rows), **facts)


def teacher(classes: int = 10, seed: int = 7) -> Observe:
    options = {key: value for key, value in NETWORK.items() if key != "version"}
    net = networks.build({**options, "norm": "batch"}, channels=1, size=8, classes=classes, seed=seed)
    params, buffers = split(net)
    call = functional(net.eval())
    return lambda x: call(params, buffers, x * 3)


def trained(made: SyntheticSet, labels: Any, protocol: Mapping[str, Any], seed: int = 5) -> dict[str, Tensor]:
    """The weights of the first student of an evaluation."""
    found: list[State] = []
    real = module.train_student

    def spy(*given: Any) -> State:
        found.append(real(*given))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train_student", spy)
        taught = lessons(made, protocol, labels)
        students = {"a": {**NETWORK, "norm": "batch"}}
        list(evaluate(taught, digits(test=True), students, {**protocol, "repeats": 1}, (1, 8, 8), 10, seed))
    return {**found[0].params, **found[0].buffers}


def kept(kind: str, made: SyntheticSet, protocol: Mapping[str, Any] = CROPS, **over: Any) -> LabelStore:
    given = {"seed": 5, "teacher": "t", **over}
    return make(kind, made, teacher(), protocol, **given)


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_training_on_kept_views_is_training_with_the_teacher(name: str, tmp_path: Path) -> None:
    """To the bit, through a file; with batches that are not full."""
    made, protocol = stitched(), PROTOCOLS[name]
    store = kept("per_view", made, protocol, precision="fp32")
    assert len(store.batches(0)) == 2
    sha = store.save(tmp_path / "labels.safetensors")
    again = LabelStore.load(tmp_path / "labels.safetensors", sha)
    online = trained(made, teacher(), protocol)
    assert equal(trained(made, again, protocol), online)
    assert not equal(trained(made, kept("per_view", made, protocol), protocol), online), "fp16 is not fp32"
    assert not equal(trained(made, "hard", protocol), online)


def test_halved_logits_come_near() -> None:
    made = stitched()
    exact, near = (trained(made, kept("per_view", made, precision=how), CROPS) for how in ("fp32", "fp16"))
    for name, value in exact.items():
        torch.testing.assert_close(near[name], value, rtol=1e-2, atol=2e-3)


def test_fewer_epochs_begin_again() -> None:
    made = stitched()
    store = kept("per_view", made, epochs=2)
    assert store.facts["epochs"] == 2
    assert all(np.array_equal(a, b) for a, b in zip(store.batches(0), store.batches(2), strict=True))
    assert not np.array_equal(store.batches(0)[0], store.batches(1)[0])
    trained(made, store, CROPS)


class KilledError(Exception):
    """What a test ends the labelling with."""


class Fragile(Checkpoint):
    """Is due after every epoch (`every` of them), and the `left`-th saving of all is the last."""

    left, every, asked = 10**6, 1, 0

    @property
    def due(self) -> bool:
        self.asked += 1
        return self.asked % self.every == 0

    def save(self, tensors: Any, facts: Any) -> None:
        super().save(tensors, facts)
        Fragile.left -= 1
        if not Fragile.left:
            raise KilledError


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("last", [1, 2])
def test_killed_after_any_piece_and_resumed_is_equal(
    last: int, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    made, asked, ask = stitched(), [], teacher()

    def labelled() -> LabelStore:
        def piece(first: int) -> Checkpoint:
            return Fragile(tmp_path, f"labels.views{first}", {}, 0.0, say=said.append)

        def observe(x: Tensor) -> Tensor:
            asked.append(len(x))
            return ask(x)

        return make("per_view", made, observe, CROPS, seed=5, teacher="t", epochs=5, piece=piece)

    whole = kept("per_view", made, epochs=5)
    monkeypatch.setattr(Fragile, "every", every)
    monkeypatch.setattr(Fragile, "left", last)
    with pytest.raises(KilledError):
        labelled()
    again = labelled()
    assert again.facts == whole.facts
    assert equal(again.tensors, whole.tensors)
    assert sum(asked) == 5 * 30, "every view is asked about once"
    asked.clear()
    damaged = next(tmp_path.rglob(f"*.views{every}.*"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert equal(labelled().tensors, whole.tensors)
    assert "checkpoint not used" in said[0]
    assert sum(asked) == (5 - every) * 30, "what comes before a damaged piece is kept"


def test_views_of_an_epoch_cover_the_set() -> None:
    store = kept("per_view", stitched())
    for turn in range(3):
        assert sorted(np.concatenate(store.batches(turn)).tolist()) == list(range(30))
    replay = store.replay(1, 1, "cpu")
    assert replay.logits.shape == (16, 10)
    assert replay.drawing.draws["box"].shape == (1, 16, 4)


def test_static_labels_are_the_teachers_of_clean_images() -> None:
    made = stitched()
    store = kept("static", made)
    images, _ = made.decode()
    said = teacher()((images - 0.3039) / 0.3753)
    torch.testing.assert_close(store.logits(), said.detach(), rtol=1e-4, atol=1e-4)
    taught = lessons(made, CROPS, store)[0]
    assert torch.equal(taught.source.logits, store.logits())  # type: ignore[attr-defined]
    assert not equal(trained(made, store, CROPS), trained(made, "hard", CROPS))


def test_static_labels_of_mixed_images_are_mixed() -> None:
    made, store = stitched(), kept("static", stitched())
    lesson = lessons(made, CROPS, store)[0]
    learning = Learning.of({**CROPS, "temperature": 1.0, "loss": "soft_ce"}, grid=2)
    net = networks.build({k: v for k, v in NETWORK.items() if k != "version"}, channels=1, size=8, classes=10, seed=0)
    from ddlib.streams import Streams

    trainer = Trainer(net, learning, lesson.source, Streams(0, "t"), "student")
    batch = np.arange(16)
    _, totals = trainer.run(State.of(net, "adamw"), [batch], (0,))
    draws, mix, choice = trainer._draw(1, (0,)).of(0, 16)
    x = trainer._shown(lesson.source.pixels(torch.from_numpy(batch)), draws, mix, choice)
    shares = store.logits()[:16].softmax(1)
    mixed = mix["ratio"] * shares + (1 - mix["ratio"]) * shares[mix["permutation"]]
    loss = -(mixed * net(x).log_softmax(1)).sum(1).mean()
    assert float(totals.loss) / 16 == pytest.approx(float(loss.detach()), rel=1e-5)


@pytest.mark.parametrize("loss", ["soft_ce", "kl", "kl_t2", "mse_gt"])
def test_every_loss_learns_from_every_kind(loss: str) -> None:
    made, protocol = stitched(), {**CROPS, "loss": loss}
    found = [trained(made, labels, protocol)["classifier.bias"]
             for labels in (kept("static", made), kept("per_view", made, protocol), teacher())]  # fmt: skip
    assert all(bool(torch.isfinite(value).all()) for value in found)
    assert not torch.equal(found[0], found[1])


def test_the_largest_logits_and_the_rest() -> None:
    made = stitched()
    whole, some = kept("static", made).logits(), kept("static", made, top_k=3)
    got = some.logits()
    top, index = whole.topk(3)
    torch.testing.assert_close(got.gather(1, index), top)
    torch.testing.assert_close(got.logsumexp(1), whole.logsumexp(1))
    rest = got.scatter(1, index, float("nan"))
    assert all(len(set(row[~row.isnan()].tolist())) == 1 for row in rest)
    torch.testing.assert_close(kept("static", made, top_k=10).logits(), whole)
    trained(made, kept("per_view", made, top_k=2), CROPS)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("over", [{}, {"top_k": 2}, {"epochs": 2, "precision": "fp32"}])
def test_bytes_are_as_planned(name: str, over: dict[str, Any]) -> None:
    for grid in (1, 2):
        made = stitched(grid=grid)
        store = kept("per_view", made, PROTOCOLS[name], **over)
        assert store.nbytes == label_bytes.per_view(PROTOCOLS[name], 30, 10, grid, **over)
    own = {key: value for key, value in over.items() if key != "epochs"}
    assert kept("static", made, **own).nbytes == label_bytes.static(30, 10, **own)


def test_bytes_at_the_papers_scale() -> None:
    """ImageNet-1k at ipc 10 and 300 epochs: 5.66 GiB, as SRe2L's users measured."""
    protocol = resolve(presets_students.PROTOCOLS["rded"], {"source": "imagenet1k", "classes": 1000}, 10, {})
    whole = label_bytes.per_view(protocol, 10_000, 1000, 2)
    assert whole / 2**30 == pytest.approx(5.66, rel=0.01)
    assert whole / label_bytes.per_view(protocol, 10_000, 1000, 2, top_k=10) > 20
    with pytest.raises(ValueError, match="of 0 \\(all\\) to 10 classes, not in fp16 of 11"):
        label_bytes.logit_bytes(10, "fp16", 11)


def test_labels_of_another_set_or_other_views_are_refused() -> None:
    made = stitched()
    for kind in ("static", "per_view"):
        store = kept(kind, made)
        for other in (stitched(2), stitched(grid=1), dataclasses.replace(made, images=made.images.flip(3))):
            with pytest.raises(ValueError, match="made for another set of made_up"):
                lessons(other, CROPS, store)
    with pytest.raises(ValueError, match=r"other views: batch 16 where the protocol has 8\. Make them anew"):
        lessons(made, {**CROPS, "batch": 8}, store)
    lessons(made, {**CROPS, "batch": 8, "lr": 0.1}, kept("static", made))
    assert set_digest(made) == set_digest(dataclasses.replace(made, soft=torch.zeros(30, 10)))


def test_teachers_that_do_not_fit_are_refused() -> None:
    for kind in ("static", "per_view"):
        with pytest.raises(ValueError, match=r"logits of shape \[\d+, 7\] for \d+ images of 10 classes"):
            make(kind, stitched(), teacher(7), CROPS, seed=0, teacher="t")
        with pytest.raises(ValueError, match="not finite, or too large"):
            make(kind, stitched(), lambda x: teacher()(x) + 1e5, CROPS, seed=0, teacher="t", precision="fp16")
    with pytest.raises(ValueError, match="no labels that are kept are called 'online'"):
        make("online", stitched(), teacher(), CROPS, seed=0, teacher="t")


def test_stages_in_turn() -> None:
    """Static labels and an online teacher go with any schedule; views are of the whole set."""
    made = stitched(4, 1, factor=2)
    made = dataclasses.replace(made, stage=torch.arange(40) % 2)
    for schedule in ("in_sequence", "new_only"):
        protocol = {**CROPS, "schedule": schedule}
        store = kept("static", made)
        taught = lessons(made, protocol, store)
        whole = dict(zip(map(str, made.decode()[0]), store.logits(), strict=True))
        for lesson in taught:
            source: Any = lesson.source
            assert all(torch.equal(whole[str(x)], said) for x, said in zip(source.images, source.logits, strict=True))
        assert all(lesson.teacher for lesson in lessons(made, protocol, teacher()))
        with pytest.raises(ValueError, match="its 2 stages in turn"):
            lessons(made, protocol, kept("per_view", made, protocol))
    assert len(lessons(made, {**CROPS, "schedule": "as_many_steps"}, kept("per_view", made))) == 1


def test_all_real_images_with_a_teacher() -> None:
    observe: Teacher = teacher()
    taught = [Lesson(digits(), 4, teacher=observe)]
    rows = list(evaluate(taught, digits(test=True), {"a": NETWORK}, CROPS, (1, 8, 8), 10, 0))
    assert len(rows) == 2


def test_a_file_of_something_else(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {"format": 1})
    with pytest.raises(ArtifactError, match="holds no labels of format 1"):
        LabelStore.load(tmp_path / "x.safetensors")


def test_equal_stores_have_equal_bytes(tmp_path: Path) -> None:
    made = stitched()
    assert kept("per_view", made).save(tmp_path / "a") == kept("per_view", made).save(tmp_path / "b")
    assert kept("per_view", made, seed=6).save(tmp_path / "c") != kept("per_view", made).save(tmp_path / "d")
