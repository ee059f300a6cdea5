"""How students are taught: MTT's and PDD's schedules, stages in sequence, learned step sizes, soft labels."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from parity import load
from small import NETWORK, PROTOCOL, digits
from tiny import CONFIG
from torch import Tensor

from ddlib import presets, presets_students, project
from ddlib.config import ConfigError, merged, read, resolve
from ddlib.methods.cost import evaluating
from ddlib.plan import Plan
from ddlib.sets.synthetic import SyntheticSet
from ddlib.streams import Batches, Streams
from ddlib.train import evaluate as module
from ddlib.train import lessons as teaching
from ddlib.train.evaluate import Labelled, evaluate, train_student
from ddlib.train.lessons import lessons, steps_in_turn
from ddlib.train.loop import Learning, State, Trainer
from ddlib.train.losses import mixed_cross_entropy

STREAMS = Streams(0, "test")
SIZES = torch.tensor([0.02, 0.03, 0.04])


class Recorder:
    """Stands for a trainer: what it was asked for, batch by batch."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.rests: list[int] = []

    def run(self, state: State, batches: Any, index: Any, factor: Any, rest_at: Any) -> tuple[State, None]:
        self.rests += [len(self.rates) + step for step in rest_at]
        self.rates += [factor(step) for step in range(len(batches))]
        return state, None


def recorded(protocol: dict[str, Any], count: int, steps: int) -> Recorder:
    recorder, batches = Recorder(), Batches(STREAMS, "b", count, protocol["batch"])
    passes = range(-(-steps // batches.per_pass))
    train_student(recorder, State({}, {}, {}), passes, steps, batches, protocol)  # type: ignore[arg-type]
    return recorder


@pytest.mark.parametrize("per_pass", [1, 3])
@pytest.mark.parametrize("name", ["mtt", "pdd_mtt"])
def test_rates_and_restarts_are_the_published_ones(name: str, per_pass: int) -> None:
    data = load("pdd_union_schedule")
    base, protocol = float(data["eval_base_lr"]), presets_students.PROTOCOLS[name]
    assert protocol["epochs"] - 1 in data["eval_E_list"]
    for last in data["eval_E_list"].tolist():
        prefix = f"eval_{name.removesuffix('_mtt')}_E{last}_"
        wanted = [rate for rate in data[f"{prefix}lr"].tolist() for _ in range(per_pass)]
        found = recorded(protocol, per_pass * protocol["batch"], (last + 1) * per_pass)
        assert [base * rate for rate in found.rates] == pytest.approx(wanted, rel=1e-12)
        again = data[f"{prefix}momentum_reset_before_epoch"].astype(int)
        assert found.rests == (again * per_pass).tolist()


def test_the_rate_may_fall_within_a_pass() -> None:
    protocol = {**PROTOCOL, "decay_at": [0.5], "decay_delay": 1, "restart_at_decay": True}
    found = recorded(protocol, 48, 10)  # passes of 3: no whole number of them, so it falls after 5 steps and a pass
    assert found.rests == [8]
    assert found.rates == [1.0] * 8 + [0.2] * 2


def test_presets_are_the_papers() -> None:
    mtt, pdd, idc = (presets_students.PROTOCOLS[name] for name in ("mtt", "pdd_mtt", "pdd_idc"))
    assert (mtt["epochs"], mtt["batch"], mtt["momentum"], mtt["weight_decay"], mtt["lr"]) == (
        1001,
        256,
        0.9,
        5e-4,
        0.01,
    )
    assert (mtt["repeats"], mtt["dialect"], mtt["mix_probability"], mtt["learned_lr"]) == (5, "mtt", 0.0, True)
    assert set(mtt["augment"].split("_")) == set(presets.AUGMENTATIONS)
    changed = {key for key in mtt if mtt[key] != pdd[key]}
    assert changed == {"epochs", "restart_at_decay"}
    assert {key: pdd[key] for key in ("epochs", "schedule", "carry_optimiser")} == {
        "epochs": 501, "schedule": "in_sequence", "carry_optimiser": True
    }  # fmt: skip
    own = ("schedule", "carry_optimiser", "halve_from_stage")
    assert {key: value for key, value in idc.items() if key not in own} == {
        **presets_students.PROTOCOLS["idc"],
        "epochs": 500,
    }
    assert [idc[key] for key in own] == ["in_sequence", True, 6]
    assert presets.CHOICES["schedule"] == teaching.SCHEDULES
    for recipe in presets_students.PROTOCOLS.values():
        assert recipe.keys() - presets_students.PROTOCOL_OPTIONS.keys() == presets_students.PROTOCOLS["idc"].keys()


def test_jobs_of_the_protocols_there_were_are_told_what_they_were_told() -> None:
    plan = project.load(project.SCHEMA.parents[2])
    student = {"batch": 64, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "dialect": "idc", "mix_probability": 0.5}
    student |= {"augment": "color_crop_flip_scale_rotate", "mix_beta": 1.0, "decay_at": [2 / 3, 5 / 6]}
    student |= {"decay_factor": 0.2, "repeats": 3}
    place = {"experiment": "cifar10_idc", "ipc": 10, "seed": 0, "at": "", "labels": "hard", "students": "convnet3"}
    whole = {**place, "experiment": "cifar10__whole", "ipc": 0}
    for name, own in (("idc", {"epochs": 1000, "steps": 0}), ("common", {"epochs": 0, "steps": 10_000})):
        found = plan.spec("evaluate", {**place, "protocol": name})
        assert json.dumps(found["protocol"], sort_keys=True) == json.dumps({**student, **own}, sort_keys=True)
        steps = {"whole_steps": {"idc": 234_600, "common": 10_000}[name]}
        assert plan.spec("evaluate", {**whole, "protocol": name})["protocol"] == {**student, **steps}
        facts = ["dataset", "labels", "protocol", "seed", "set", "students", "versions"]
        assert sorted(found) == facts
    for name in ("pdd_mtt", "pdd_mtt_union"):
        assert not set(presets_students.OF_SETS) & plan.spec("evaluate", {**whole, "protocol": name})["protocol"].keys()


# ---- lessons --------------------------------------------------------------------------------------------------------


def staged(stages: int = 3, per_stage: int = 20, **over: Any) -> SyntheticSet:
    """Digits as if they were learned in stages."""
    data, count = digits(), stages * per_stage
    index = torch.arange(count)
    facts = {"mean": data.mean, "std": data.std, "class_names": data.class_names, "name": data.name, "factor": 1}
    facts |= {"stage": index // per_stage, "step_size": SIZES[:stages]}
    return SyntheticSet(images=data.pixels(index), labels=data.labels[:count], **{**facts, **over})  # type: ignore[arg-type]


def scored(source: Any, **over: Any) -> list[dict[str, Any]]:
    given = {**PROTOCOL, **over}
    taught = lessons(source, given) if isinstance(source, SyntheticSet) else source
    return list(evaluate(taught, digits(test=True), {"plain": NETWORK}, given, (1, 8, 8), 10, 0))


@pytest.mark.parametrize("schedule, images, steps", [
    ("at_once", [60], [8]), ("in_sequence", [20, 40, 60], [4, 6, 8]), ("new_only", [20, 20, 20], [4, 4, 4]),
    ("as_many_steps", [60], [18]),
])  # fmt: skip
def test_lessons_of_a_set_with_stages(schedule: str, images: list[int], steps: list[int]) -> None:
    made = staged()
    protocol = {**PROTOCOL, "schedule": schedule, "learned_lr": True, "repeats": 1}
    found = lessons(made, protocol)
    assert [len(lesson.source.labels) for lesson in found] == images
    assert [lesson.steps for lesson in found] == steps
    assert [lesson.lr for lesson in found] == pytest.approx(SIZES.tolist()[-len(images) :])
    assert [lesson.index for lesson in found] == [(place,) if place else () for place in range(len(found))]
    for place, lesson in enumerate(found):
        first = 20 * place if schedule == "new_only" else 0
        assert torch.equal(lesson.source.labels, made.labels[first : first + images[place]])
        assert torch.equal(
            lesson.source.pixels(torch.arange(images[place])), made.images[first : first + images[place]]
        )
    row = scored(made, **{key: protocol[key] for key in ("schedule", "learned_lr", "repeats")})[0]
    assert (row["train_images"], row["steps"]) == (60, sum(steps))
    assert steps_in_turn(protocol, [20, 20, 20]) == list(zip(images, steps, strict=True))
    spec = {"protocol": protocol, "set": "set", "students": {"n": NETWORK}, "dataset": {"source": "digits"}}
    assert [(step.images, many) for step, many in evaluating(spec, 60, 3)] == [(16, many) for many in steps]


def test_stages_decode_and_steps_may_be_given() -> None:
    protocol = {**PROTOCOL, "schedule": "in_sequence", "steps": 5}
    found = lessons(staged(factor=2), protocol)
    assert [(len(lesson.source.labels), lesson.steps, lesson.lr) for lesson in found] == [
        (80, 5, 0.01), (160, 5, 0.01), (240, 5, 0.01)
    ]  # fmt: skip
    assert [lesson.lr for lesson in lessons(staged(), {**protocol, "halve_from_stage": 3})] == [0.01, 0.01, 0.005]


@pytest.mark.parametrize("schedule", teaching.SCHEDULES)
def test_a_set_of_one_stage_is_taught_alike_by_all_schedules(schedule: str) -> None:
    made = staged(1, 50, step_size=None)
    plain = Labelled(*made.decode(), made.mean, made.std)
    assert scored(made, schedule=schedule, learned_lr=True) == scored(plain)


def test_step_sizes_no_student_can_train_at() -> None:
    protocol = {**PROTOCOL, "learned_lr": True, "schedule": "in_sequence"}
    for wrong in (-0.02, 0.0, float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match=r"learned in stage 1 is .*: no student can train at it\. Lower step_size_lr"
        ):
            lessons(staged(step_size=torch.tensor([0.02, wrong, 0.02])), protocol)
    assert [lesson.lr for lesson in lessons(staged(step_size=-SIZES), {**protocol, "learned_lr": False})] == [0.01] * 3
    with pytest.raises(ValueError, match="no schedule is called 'in_sequenc': did you mean 'in_sequence'"):
        lessons(staged(), {**protocol, "schedule": "in_sequenc"})
    with pytest.raises(ValueError, match="a set has no labels called 'soft'"):
        lessons(staged(), protocol, "soft")


# ---- students -------------------------------------------------------------------------------------------------------


def weights(monkeypatch: pytest.MonkeyPatch, source: Any, **over: Any) -> list[Tensor]:
    """The weights of every student at its end, as one tensor each."""
    found: list[Tensor] = []

    def spy(self: Any, state: State, test: Any) -> float:
        found.append(torch.cat([value.flatten() for value in state.params.values()]))
        return 0.0

    with monkeypatch.context() as patch:
        patch.setattr(module.Scorer, "accuracy", spy)
        scored(source, **over)
    return found


def taught_by_hand(made: SyntheticSet, protocol: dict[str, Any], carried: bool) -> Tensor:
    """The first student in sequence, one training after the other."""
    streams = Streams(0, "evaluate")
    state: State | None = None
    for place in range(3):
        part = made.upto(place)
        learning = Learning.of({**protocol, "lr": float(SIZES[place])})
        net = module._builder(NETWORK, (1, 8, 8), 10, streams, False)(0)
        state = state or State.of(net)
        if not carried:
            state = State(state.params, state.buffers, State.of(net).velocity)
        trainer = Trainer(net, learning, Labelled(*part.decode(), part.mean, part.std), streams, "student")
        index = (0, place) if place else (0,)
        batches = Batches(streams, "student_batches", len(part.labels), learning.batch, index=index)
        for turn in range(protocol["epochs"]):
            state, _ = trainer.run(state, batches.batches(turn * batches.per_pass, batches.per_pass), (*index, turn))
    assert state is not None
    return torch.cat([value.flatten() for value in state.params.values()])


def test_stages_in_sequence_are_trainings_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    made = staged()
    given = {"schedule": "in_sequence", "learned_lr": True, "decay_at": [], "repeats": 1}
    carried, rested = (weights(monkeypatch, made, **given, carry_optimiser=carry)[0] for carry in (True, False))
    assert torch.equal(carried, taught_by_hand(made, {**PROTOCOL, **given}, carried=True))
    assert torch.equal(rested, taught_by_hand(made, {**PROTOCOL, **given}, carried=False))
    assert not torch.equal(carried, rested)
    assert torch.equal(weights(monkeypatch, made, **given)[0], carried), "carried over where nothing is said"


@pytest.mark.parametrize("steps", [0, 7])
def test_the_velocity_is_zeroed_when_the_rate_falls(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """By epochs, and within a pass."""
    source = Labelled(digits().pixels(torch.arange(40)), digits().labels[:40], digits().mean, digits().std)
    given = {"steps": steps, "decay_at": [0.5], "repeats": 1}
    kept, zeroed = (weights(monkeypatch, source, **given, restart_at_decay=restart)[0] for restart in (False, True))
    assert not torch.equal(kept, zeroed)
    assert torch.equal(weights(monkeypatch, source, **given)[0], kept)
    rested = weights(monkeypatch, source, **given, momentum=0.0)[0]
    assert torch.equal(rested, weights(monkeypatch, source, **given, momentum=0.0, restart_at_decay=True)[0])


def test_repeats_start_apart_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []

    def spy(trainer: Any, state: State, *rest: Any) -> State:
        starts.append(torch.cat([value.flatten() for value in state.params.values()]))
        return state

    source = staged()
    with monkeypatch.context() as patch:
        patch.setattr(module, "train_student", spy)
        for shared in (False, True):
            scored(source, shared_start=shared)
    assert not torch.equal(starts[0], starts[1])
    assert torch.equal(starts[0], starts[2])
    assert torch.equal(starts[2], starts[3])
    ends = weights(monkeypatch, source, shared_start=True)
    assert not torch.equal(ends[0], ends[1]), "but they are trained apart"


# ---- soft labels ----------------------------------------------------------------------------------------------------


def test_soft_labels_are_trained_on_where_the_labels_are_the_sets_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made = staged(2)
    hot = torch.nn.functional.one_hot(made.labels, 10).float()
    soft = dataclasses.replace(made, soft=0.7 * hot + 0.03)
    taught = {labels: lessons(soft, PROTOCOL, labels) for labels in presets_students.LABELS}
    assert taught["own"][0].source.soft is not None
    assert taught["hard"][0].source.soft is None
    ends = {name: weights(monkeypatch, found, repeats=1)[0] for name, found in taught.items()}
    assert not torch.equal(ends["own"], ends["hard"])
    for plain in (made, dataclasses.replace(made, soft=hot)):
        found = weights(monkeypatch, lessons(plain, PROTOCOL, "own"), repeats=1)[0]
        torch.testing.assert_close(found, ends["hard"], rtol=0, atol=1e-6)
    in_turn = lessons(dataclasses.replace(soft, factor=2), {**PROTOCOL, "schedule": "in_sequence"}, "own")
    assert [lesson.source.soft.shape for lesson in in_turn] == [(80, 10), (160, 10)]  # type: ignore[union-attr]
    assert torch.equal(in_turn[0].source.soft[:20], soft.soft[:20])  # type: ignore[index]


def test_cutmix_mixes_soft_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, a, b = (torch.randn(5, 4, dtype=torch.float64, generator=generator) for _ in range(3))
    a, b = a.softmax(1), b.softmax(1)
    ratio = torch.tensor(0.3)
    mixed = ratio.double() * a + (1 - ratio.double()) * b
    theirs = torch.nn.functional.cross_entropy(logits, mixed)
    assert float(mixed_cross_entropy(logits, a, b, ratio)) == pytest.approx(float(theirs), rel=1e-12)
    hard = torch.arange(5) % 4
    hot = torch.nn.functional.one_hot(hard, 4).double()
    soft = mixed_cross_entropy(logits, hot, hot.flip(0), ratio)
    assert float(soft) == pytest.approx(float(mixed_cross_entropy(logits, hard, hard.flip(0), ratio)), rel=1e-12)


# ---- configuration --------------------------------------------------------------------------------------------------

SCHEMA = read(project.SCHEMA)


def quick(**given: Any) -> dict[str, Any]:
    return {"protocols": {"quick": given}}


@pytest.mark.parametrize("changes, said", [
    (quick(schedule="in_sequenc"), "protocols.quick.schedule: 'in_sequenc' is not one of at_once, in_sequence"),
    (quick(learned_lr=1), "protocols.quick.learned_lr: 1 is a int, it must be a bool such as False"),
    (quick(carry_optimizer=True), "unknown setting 'carry_optimizer'; did you mean 'carry_optimiser'?"),
    (quick(decay_delay=-1), "protocols.quick.decay_delay: -1 is negative"),
    (quick(recipe="pdd"), "no protocol recipe is called 'pdd'"),
    ({"experiments": {"a": {"labels": ["soft"]}}}, "no kind of labels is called 'soft'; known: hard, own."),
    ({"networks": {"big": {"architecture": "vgg"}}, "experiments": {"a": {"students": "big"}}},
     "experiments.a.students: big (vgg) needs images of at least 32 px; those of digits have 8"),
    ({"networks": {"big": {"architecture": "resnet"}}, "suites": {"tiny": {"students": "big"}}},
     "suites.tiny.students: big (resnet) needs images of at least 9 px; those of digits have 8"),
    ({"networks": {"big": {"architecture": "resnet", "downsampling": "max"}}}, "'max' is not one of stride, avg"),
    ({"networks": {"big": {"architecture": "alexnet", "norm": "batch"}}}, "networks.big: unknown setting 'norm'"),
])  # fmt: skip
def test_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(merged(CONFIG, changes), SCHEMA)
    assert said in str(caught.value)
    assert "1 problem:" in str(caught.value)


def test_any_recipe_may_be_given_the_options() -> None:
    over = {"schedule": "in_sequence", "learned_lr": True, "shared_start": True}
    found = Plan(resolve(merged(CONFIG, quick(**over)), SCHEMA)).protocol("quick", "digits")
    assert {key: found[key] for key in over} == over
    assert found.keys() - over.keys() == presets_students.PROTOCOLS["idc"].keys()


def test_what_is_learned_with_soft_labels_is_used_with_them() -> None:
    entry = {"labels": ["own", "hard"]}
    both = Plan(resolve(merged(CONFIG, {"experiments": {"a": entry}}), SCHEMA)).experiments["a"]
    assert both["labels"] == ["own", "hard"]
    config = resolve(CONFIG, SCHEMA)
    assert Plan(config).experiments["a"]["labels"] == ["hard"]
    config["experiments"]["a"]["settings"]["soft_labels"] = "expert"
    assert Plan(config).experiments["a"]["labels"] == ["own"]
