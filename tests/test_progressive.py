"""Stages over any method: one contract for PDD(x) over every x that learns, and what a configuration may ask."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import LEARNING as STUDENT
from small import NETWORK, TRAINING, digits, problem, recipe
from test_methods import LEARNING, Fragile, KilledError, as_set, run, same
from tiny import CONFIG

from ddlib import project, registry
from ddlib.artifacts import load_tensors, sha256_file
from ddlib.checkpoints import Checkpoint
from ddlib.config import ConfigError, merged, read, resolve
from ddlib.jobs.train_block import plan_disk
from ddlib.methods.driver import Condensed, condense
from ddlib.methods.recipe import Problem
from ddlib.objectives.matching import interleaved, newest
from ddlib.paths import MANIFESTS
from ddlib.plan import Plan
from ddlib.pool.condition import ConditionedMember, Conditioning
from ddlib.pool.draw import Fresh
from ddlib.sets.synthetic import SyntheticSet, merge
from ddlib.streams import Streams
from ddlib.train.loop import State

GOLDEN = Path(__file__).parent / "golden"
CONDITION = {**STUDENT, "epochs": 1, "steps": 0, "decay_at": [2 / 3], "decay_factor": 0.2}


def stage(method: str, before: SyntheticSet | None, **over: Any) -> Problem:
    """What the next stage after `before` is asked."""
    number = 0 if before is None else len(set(before.stage.tolist()))
    classes = range(4 if registry.METHODS[method].facts.get("partitionable", True) else 10)
    asked = dataclasses.replace(problem(classes, stage=number), frozen=before, condition=CONDITION)
    return dataclasses.replace(asked, **over)


def set_of(method: str, asked: Problem) -> SyntheticSet:
    return staged_set(run(method, asked), asked)


def staged_set(made: Condensed, asked: Problem) -> SyntheticSet:
    """As the condense job makes it of a phase of a stage."""
    step = made.learned.get("step_size")
    own = as_set(made, asked, 1)
    stage = torch.full_like(own.labels, asked.stage)
    return dataclasses.replace(own, stage=stage, step_size=None if step is None else step.reshape(1))


def stages(method: str, many: int) -> SyntheticSet:
    """That many stages, one after the other, of all classes."""
    held: SyntheticSet | None = None
    for _ in range(many):
        new = set_of(method, stage(method, held))
        held = new if held is None else merge([held, new])
    assert held is not None
    return held


# ---- the contract --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", LEARNING)
def test_a_stage_moves_new_images_and_leaves_the_earlier_ones_bit_for_bit(method: str) -> None:
    first = stages(method, 1)
    kept = first.images.clone()
    asked = stage(method, first)
    made = run(method, asked)
    assert torch.equal(first.images, kept)
    assert made.images.shape == first.images.shape, "only the new ones are learned"
    assert ((made.images - made.initial["images"]).abs().amax((1, 2, 3)) > 0).all()
    assert not any(torch.equal(new, old) for new, old in zip(made.images, first.images, strict=True))
    both = merge([first, staged_set(made, asked)])
    assert torch.equal(both.upto(0).images, first.images)
    assert both.stage.tolist() == [0] * len(kept) + [1] * len(kept)


@pytest.mark.parametrize("method", LEARNING)
def test_every_stage_depends_on_the_ones_before(method: str) -> None:
    first = stages(method, 1)
    other = dataclasses.replace(first, images=first.images.flip(3))
    one, two = (run(method, stage(method, before)).images for before in (first, other))
    assert not torch.equal(one, two)


@pytest.mark.parametrize("method", LEARNING)
def test_a_stage_killed_anywhere_ends_with_the_same_bytes(tmp_path: Path, method: str) -> None:
    asked = stage(method, stages(method, 1))
    plan, whole = recipe(method, asked), run(method, asked)
    assert plan.objective is not None
    for step in range(plan.outer_iterations * plan.objective.inner_steps + 1):
        with pytest.raises(KilledError):
            condense(recipe(method, asked), asked, (), Fragile(tmp_path / str(step), step))
        resumed = condense(recipe(method, asked), asked, (), Fragile(tmp_path / str(step), 10**6))
        assert same(resumed, whole), f"killed after step {step}"


@pytest.mark.parametrize("method", LEARNING)
def test_class_phases_of_a_stage_merged_equal_one_phase(method: str) -> None:
    if not recipe(method, stage(method, None)).partitionable:
        pytest.skip("declared not partitionable")
    first = stages(method, 1)
    one = set_of(method, stage(method, first))
    phases = [set_of(method, stage(method, first, classes=classes)) for classes in ([3, 1], [0, 2])]
    assert torch.equal(merge([first, *phases]).images, merge([first, one]).images)


def test_a_stage_of_another_size_is_refused() -> None:
    first = stages("idc", 1)
    with pytest.raises(ValueError, match=r"every earlier stage has 3 images per class, as this one: .* not 2"):
        recipe("idc", stage("idc", first, ipc=3))


def test_a_later_stage_that_would_start_from_unconditioned_networks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stage 1 starts from networks trained on the stages before it: say how"):
        recipe("idc", stage("idc", stages("idc", 1), condition=None))


def test_the_room_conditioned_networks_need_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = plan_of(staged(pool="early")).spec(
        "condition", {"experiment": "p", "per": "2", "seed": 0, "stage": 1, "block": 0}
    )
    plan_disk("condition", spec, spec["snapshots"], tmp_path)
    assert "the 1 snapshots of 1 members (1 epochs each) take " in capsys.readouterr().err


def test_images_lie_as_published() -> None:
    """Slots hold [stage 0, stage 1, ..., newest], class by class (golden, the authors' code)."""
    golden = np.load(GOLDEN / "pdd_union_schedule.npz")
    classes, many = int(golden["gm_classes"]), int(golden["gm_stages"])
    new = [torch.from_numpy(golden[f"gm_stage{number}_new"]) for number in range(many)]
    ipc = len(new[0]) // classes
    labels = torch.arange(classes).repeat_interleave(ipc)
    for number in range(1, many):
        facts: dict[str, Any] = {"mean": (0.0,) * 2, "std": (1.0,) * 2, "class_names": tuple("abc"), "name": "golden"}
        held = [
            SyntheticSet(images=new[i], labels=labels, stage=torch.full_like(labels, i), factor=1, **facts)
            for i in range(number)
        ]
        asked = dataclasses.replace(problem(range(classes), ipc=ipc, stage=number), frozen=merge(held))
        union = interleaved(asked.frozen_images(), new[number].reshape(classes, ipc, 2, 4, 4))
        assert torch.equal(union.flatten(0, 1), torch.from_numpy(golden[f"gm_stage{number}_union"]))
        learned = golden[f"gm_stage{number}_trainable_row"].astype(bool)
        assert torch.equal(newest(union, number + 1), union.flatten(0, 1)[torch.from_numpy(learned)])


# ---- conditioned networks ------------------------------------------------------------------------------------------


def test_networks_are_conditioned_on_each_union_in_turn() -> None:
    held = stages("random", 2)
    net = Fresh(NETWORK, (1, 8, 8), 10, Streams(0, "t")).net
    training = Conditioning(held, CONDITION, Streams(0, "c"), net, torch.device("cpu"))
    assert [len(lesson.source.labels) for lesson in training.taught] == [8, 16]
    state = State.of(net)
    whole = training(state, 5)
    one, two = training(state, 5, [0]), training(training(state, 5, [0]), 5, [1])
    assert equal(two.params, whole.params), "going on from one stage before is the same as starting anew"
    assert not equal(one.params, state.params)
    assert not equal(training(state, 6).params, whole.params), "another network sees other draws"
    assert all((value == 0).all() for value in whole.velocity.values()), "at rest"


def test_the_learned_step_size_of_each_stage_is_the_learning_rate() -> None:
    held = dataclasses.replace(stages("random", 2), step_size=torch.tensor([0.5, 0.25]))
    net = Fresh(NETWORK, (1, 8, 8), 10, Streams(0, "t")).net
    given = Streams(0, "c"), net, torch.device("cpu")
    learned = Conditioning(held, {**CONDITION, "learned_lr": True}, *given)
    assert [lesson.lr for lesson in learned.taught] == [0.5, 0.25]
    assert [lesson.lr for lesson in Conditioning(held, CONDITION, *given).taught] == [CONDITION["lr"]] * 2


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in b)


def conditioned(
    folder: Path, number: int, start: Any, training: Any, held: SyntheticSet, condition: Any = CONDITION
) -> ConditionedMember:
    spec = {"network": NETWORK, "training": training, "condition": condition, "seed": 0, "stage": number}
    spec["snapshots"] = [0, 1] if training else [0]
    return ConditionedMember(spec, 0, digits(), held, start, folder)


@pytest.mark.parametrize("training", [None, TRAINING])
def test_a_conditioned_member_begins_where_the_one_before_did(tmp_path: Path, training: Any) -> None:
    held, first = stages("random", 2), tmp_path / "stage1"
    made = conditioned(first, 1, None, training, held.upto(0)).run()
    assert made["epochs"] == ([0, 1] if training else [0])
    row = {"file": str(made["files"]["member0/epoch0"]), "sha256": sha256_file(made["files"]["member0/epoch0"])}
    two = conditioned(tmp_path / "stage2", 2, row, training, held).run()
    before, after = (load_tensors(found["files"]["member0/epoch0"])[0] for found in (made, two))
    net = Fresh(NETWORK, (1, 8, 8), 10, Streams(0, "t")).net
    training2 = Conditioning(held, CONDITION, Streams(0, "condition2"), net, torch.device("cpu"))
    expected = training2(State.from_tensors(before), 0, [1]).params
    assert equal({f"params/{name}": value for name, value in expected.items()}, after)
    if training:
        moved = load_tensors(two["files"]["member0/epoch1"])[0]
        assert not equal(moved, after), "then it trains on real data"


class FragileMember(Checkpoint):
    """Saves after every pass and epoch, and dies right after saving for the `left`-th time."""

    left = 10**6

    def save(self, tensors: Any, facts: Any) -> None:
        super().save(tensors, facts)
        self.left -= 1
        if not self.left:
            raise KilledError


@pytest.mark.parametrize("begun", [False, True])
def test_a_conditioned_member_killed_anywhere_ends_with_the_same_bytes(tmp_path: Path, begun: bool) -> None:
    held = stages("random", 2)
    condition = {**CONDITION, "epochs": 3, "batch": 16}
    own = dict.fromkeys(("file", "sha256"))
    if begun:
        made = conditioned(tmp_path / "first", 1, None, None, held.upto(0)).run()["files"]["member0/epoch0"]
        own = {"file": str(made), "sha256": sha256_file(made)}

    def train(place: str, last: int) -> dict[str, bytes]:
        folder = tmp_path / place
        checkpoint = FragileMember(folder / "state", "out", {}, 0.0, say=pytest.fail)
        checkpoint.left = last
        member = conditioned(folder / "made", 2, own if begun else None, TRAINING, held, condition)
        member.run(checkpoint)
        return {path.name: path.read_bytes() for path in sorted((folder / "made").rglob("*")) if path.is_file()}

    whole = train("whole", 10**6)
    for last in range(1, 4 + 1):  # three passes over the images, and an epoch of real ones
        with pytest.raises(KilledError):
            train(str(last), last)
        assert train(str(last), 10**6) == whole, f"killed after saving {last} times"


# ---- the plan ------------------------------------------------------------------------------------------------------


def staged(base: str = "idc", many: int = 2, ipc: int = 4, **over: Any) -> dict[str, Any]:
    """The tiny configuration with an experiment `p` in stages."""
    config = copy.deepcopy(CONFIG)
    entry = copy.deepcopy(config["experiments"]["b" if "pool" in over else "a"])
    del entry["method"]
    progressive = {"base": base, "stages": many, "condition": {"epochs": 1}, **over.pop("progressive", {})}
    entry |= {"ipc": [ipc], "progressive": progressive, **over}
    config["experiments"] = {"p": entry}
    config["suites"] = {"tiny": {"experiments": ["p"]}}
    return config


def plan_of(config: dict[str, Any]) -> Plan:
    return Plan(resolve(config, read(project.SCHEMA)))


def specs(plan: Plan) -> dict[str, Any]:
    """Manifest -> specification of all that makes the images."""
    jobs = [job for job in plan.jobs("tiny") if job[0] in ("condense", "condition", "select_conditioned")]
    found = {MANIFESTS[rule][0].format(**names): plan.spec(rule, names) for rule, names in jobs}
    return {path: spec for path, spec in found.items() if "/p/" in path}


@pytest.mark.parametrize("over", [{}, {"progressive": {"members": 2}}, {"pool": "early"}])
def test_one_more_stage_reuses_those_that_are_there(over: dict[str, Any]) -> None:
    two, three = (specs(plan_of(staged("idc", many, 2 * many, **copy.deepcopy(over)))) for many in (2, 3))
    assert two.items() <= three.items()
    new = three.keys() - two.keys()
    assert new
    assert all("/per2/seed0/stage2/" in path for path in new)


def test_a_stage_is_made_from_all_parts_of_those_before() -> None:
    plan = plan_of(staged(classes_per_phase=5, many=3, ipc=6))
    given = plan.condense_inputs("p", "2", 0, 2)
    folder = "results/condensed/p/per2/seed0"
    assert given["earlier"] == [f"{folder}/stage{s}/phase{c}.json" for s in (0, 1) for c in (0, 1)]
    assert "earlier" not in plan.condense_inputs("p", "2", 0, 0)
    assert plan.phases("p", 6, 0)[-1] == f"{folder}/stage2/phase1"


def test_conditioned_networks_go_on_from_those_of_the_stage_before() -> None:
    plan = plan_of(staged(pool="early", many=3, ipc=3))
    names = {"experiment": "p", "per": "1", "seed": 0, "block": 0}
    assert plan.condition_inputs(**names, stage=1)["before"] == ["results/pool/early/block0.json"]
    assert plan.condition_inputs(**names, stage=2)["before"] == [f"{FOLDER}/stage1/from/block0.json"]
    assert plan.condense_inputs("p", "1", 0, 2)["selection"] == f"{FOLDER}/stage2/from/selection.json"


FOLDER = "results/condensed/p/per1/seed0"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"ipc": 3}, "2 does not divide ipc 3; 3 takes [1, 3] stages"),
    ({"ipc": 1}, "2 stages are more than 1 images per class"),
    ({"base": "random"}, "'random' is no method with stages"),
    ({"base": "idd"}, "did you mean 'idc'?"),
    ({"method": "idc"}, "both of `method` and `progressive`"),
    ({"evaluate_at": [1]}, "snapshots are taken of methods without stages"),
    ({"pool": "early", "progressive": {"members": 2}}, "the networks are those of the pool"),
    ({"progressive": {"condition": {"epoch": 1}}}, "unknown setting 'epoch'; did you mean 'epochs'?"),
]


@pytest.mark.parametrize(("over", "said"), REFUSED)
def test_what_cannot_be_staged_is_refused(over: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        plan_of(staged(**copy.deepcopy(over)))
    assert said in str(refused.value)


def test_a_pool_that_forgot_its_beginning_is_refused() -> None:
    config = staged(pool="early")
    config["pools"]["early"]["snapshots"] = "last"
    config["experiments"]["p"]["view"] = {"members": 1, "epochs": [1]}
    with pytest.raises(ConfigError, match=r"early keeps epochs 1-1, not 0: add it to its snapshots"):
        plan_of(config)


def test_neither_method_nor_stages_is_refused() -> None:
    config = staged()
    del config["experiments"]["p"]["progressive"]
    with pytest.raises(ConfigError, match="neither of `method` and `progressive`"):
        plan_of(config)


@pytest.mark.parametrize(
    ("experiment", "change", "wanted"),
    [
        ("cifar10_mtt_ipc10", {}, ["mtt"]),
        ("cifar10_mtt_ipc10", {"settings": {"image_lr": 1000.0}}, []),
        ("cifar10_mtt_ipc10", {"view": {"members": 100, "start_below": 15, "horizon": 2}}, []),
        ("cifar10_mtt_ipc10", {"dataset": "cifar10", "pool": "cifar10_experts"}, []),
        ("cifar10_mtt_ipc10", {"ipc": [20]}, []),
        ("cifar10_mtt_ipc50", {}, ["mtt"]),
        ("cifar100_mtt_ipc50", {}, ["mtt"]),
        ("cifar10_pdd_mtt_ipc10", {}, ["pdd_mtt"]),
        ("cifar10_pdd_mtt_ipc10", {"progressive": {"stages": 2}}, []),
        ("cifar10_pdd_mtt_ipc10", {"progressive": {"condition": {"epochs": 500}}}, []),
        ("cifar10_pdd_idc_ipc50", {}, ["pdd_idc"]),
        ("cifar10_pdd_idc_ipc50", {"progressive": {"members": 20}}, []),
        ("cifar100_pdd_idc_ipc10", {"settings": {"image_lr": 0.1}}, []),
    ],
)
def test_published_numbers_stand_beside_the_published_cell_alone(
    experiment: str, change: Any, wanted: list[str]
) -> None:
    given = merged(read(project.SCHEMA.parents[2] / "config.yaml"), {"experiments": {experiment: change}})
    plan = plan_of(given)
    assert plan.groups(experiment)[0]["as_published"] == wanted


# ---- easy examples left out ----------------------------------------------------------------------------------------


def discarding(base: str = "idc", **over: Any) -> dict[str, Any]:
    """Stages made from images that a member of a pool forgot ever more often."""
    config = staged(base, 3, 6, progressive={"discard": {"pool": "counted", "interval": 2, **over}})
    counted = {"dataset": "digits", "network": "small", "training": {"epochs": 2, "record_events": True}}
    config["pools"]["counted"] = counted | {"members_per_block": 2}
    return config


def test_later_stages_are_made_from_what_is_forgotten_more_often() -> None:
    plan = plan_of(discarding(member=3))
    asked = [
        plan.spec("condense", {"experiment": "p", "per": "2", "seed": 0, "stage": s, "phase": 0}) for s in range(3)
    ]
    assert [(spec["discard"]["low"], spec["discard"]["high"]) for spec in asked] == [(0, 2), (2, 4), (4, None)]
    assert {spec["discard"]["of"] for spec in asked} == {"all"}
    assert plan.condense_inputs("p", "2", 0, 1)["events"] == "results/pool/counted/block1.json"
    assert ("train_block", {"pool": "counted", "block": 1}) in plan.jobs("tiny")
    assert registry.METHODS["mtt"].facts["discards"] == "initial"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pool": "early"}, "early does not count what it forgets: set record_events"),
        ({"pool": "countd"}, "did you mean 'counted'?"),
    ],
)
def test_a_pool_that_counts_nothing_is_refused(change: dict[str, Any], said: str) -> None:
    config = discarding()
    config["experiments"]["p"]["progressive"]["discard"] |= change
    with pytest.raises(ConfigError) as refused:
        plan_of(config)
    assert said in str(refused.value)


def test_real_images_by_how_often_they_were_forgotten() -> None:
    data = digits()
    counts = torch.arange(len(data.labels)) % 6
    assert torch.equal(data.between(counts, 2, 4).images, data.images[(counts == 2) | (counts == 3)])
    assert len(data.between(counts, 4, None).labels) == int((counts >= 4).sum())
    with pytest.raises(ValueError, match=r"no image of 10 classes of digits \(0, \.\.\) was forgotten 9 times or more"):
        data.between(counts, 9, None)
    with pytest.raises(ValueError, match="3 counts were given for the 120 training images"):
        data.between(counts[:3], 0, None)


def test_a_stage_may_begin_from_some_images_and_match_all() -> None:
    data = digits()
    some = data.between(torch.arange(len(data.labels)), len(data.labels) // 2, None)
    asked = dataclasses.replace(problem(range(10)), begins_from=some)
    made = run("idc", asked, init="first", factor=1)
    first = torch.cat([some.pixels(some.of_class(label)[:2]) for label in range(10)])
    assert torch.equal(made.initial["images"], first)
