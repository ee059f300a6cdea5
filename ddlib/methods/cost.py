"""What jobs will cost: their work counted in steps, and a step timed on this machine.

Five kinds of step make up nearly all work: the gradients of one class's real images (`real`), matching its synthetic
ones with them (`match`), a student's step there and back (`student`), training a network on one batch (`train`), and
what a trained one says of a batch (`judge`).
Images condensed together share `real` and `train`. What a job's specification asks for is counted exactly; a step is
timed on random images, a few times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ddlib import nn as networks
from ddlib.data.real import RealData
from ddlib.nn.functional import Params, functional, split
from ddlib.objectives.matching import Execution, GradientMatching
from ddlib.objectives.trajectory import ENGINES, Batch, Student, Trajectory
from ddlib.pool.draw import Fresh
from ddlib.pool_settings import kept_epochs
from ddlib.protocol_settings import student_protocol
from ddlib.registry import SOURCES
from ddlib.sets.packing import decoded_count
from ddlib.streams import Streams
from ddlib.train.compiler import forward_flops
from ddlib.train.evaluate import steps_of
from ddlib.train.lessons import steps_in_turn
from ddlib.train.loop import Learning, State, Trainer
from ddlib.train.scoring import Scorer

# On a CPU, steps are timed with no more images than make so many operations; their time is scaled up.
AFFORDABLE_FLOPS = 1.5e10
AT_LEAST_SECONDS = 0.2
# Operations of a step, in forwards.
FORWARDS = {"match": 12, "student": 12, "judge": 1}
# Images in a batch of those an observer looks at.
JUDGED_AT_ONCE = 256

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """One kind of step: what is done (`real`, `match`, `student`, `train`, `judge`), with which network (a
    specification) on which data.

    `images`: how many pass the network: real or decoded synthetic ones of a class, or a batch.
    """

    kind: str
    name: str
    network: Spec
    dataset: Spec
    settings: Spec
    images: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C, H, W] of an image."""
        return self.dataset["channels"], self.dataset["size"], self.dataset["size"]

    @property
    def key(self) -> str:
        """Steps of one key take the same time."""
        how = f"{self.kind} {self.settings['match']}s" if self.kind in ("real", "match") else self.kind
        how += " on crops" if self.settings.get("dialect") == "crops" else ""
        return f"{how} {self.name}: {self.images} images"


Work = list[tuple[Step, float]]


def condensing(spec: Spec, name: str, images: int) -> Work:
    """Steps of a condense job; `name` of its network, `images` of the training data."""
    settings = spec["settings"]
    outer = settings["outer_iterations"]
    if not outer:
        return []
    named = (_named(name, spec["dataset"]), spec["network"], spec["dataset"], settings)
    if "student_steps" in settings:
        learned = spec["ipc"] * len(spec["classes"])
        seen = min(settings["student_batch"] or learned, learned * (1 + spec["stage"]))
        return [(Step("student", *named, seen), outer * settings["student_steps"])]
    matched = outer * settings["inner_steps"] * len(spec["classes"])
    work = [(Step("real", *named, settings["real_batch"]), matched)]
    for ipc in spec["ipc"] if isinstance(spec["ipc"], list) else [spec["ipc"]]:
        union = ipc * (spec["stage"] + 1)
        count = decoded_count(union, settings["factor"], settings["decode"], settings["decode_limit"])
        work.append((Step("match", *named, min(count, settings["synthetic_batch"])), matched))
    batches = settings["inner_steps"] * -(-settings["network_samples"] // settings["network_batch"])
    batches += settings["pretrain_epochs"] * -(-images // settings["network_batch"])
    work.append((Step("train", *named, settings["network_batch"]), outer * batches))
    if "condition" in spec:
        new = [spec["ipc"] * spec["dataset"]["classes"] * settings["factor"] ** 2] * spec["stage"]
        work += [(step, outer * many) for step, many in _in_sequence(spec, name, new)]
    return work


def _in_sequence(spec: Spec, name: str, new: list[int]) -> Work:
    """Steps of training one network on stages of `new` decoded images each, in sequence."""
    protocol = {**spec["condition"], "schedule": "in_sequence"}
    named = _named(name, spec["dataset"]), spec["network"], spec["dataset"], protocol
    return [(Step("train", *named, min(protocol["batch"], n)), many) for n, many in steps_in_turn(protocol, new)]


def conditioning(spec: Spec, name: str, images: int, factor: int) -> Work:
    """Steps of a condition job, whose stored images decode to `factor`^2: the last union before the stage, then real
    images up to the last epoch kept."""
    new = [spec["ipc"] * spec["dataset"]["classes"] * factor**2] * spec["stage"]
    members = len(spec["members"])
    work = [(step, members * many) for step, many in _in_sequence(spec, name, new)[-1:]]
    if spec["training"] is None:
        return work
    last = {**spec, "training": {**spec["training"], "epochs": max(spec["snapshots"])}}
    return work + training(last, name, images)


def training(spec: Spec, name: str, images: int) -> Work:
    """Steps of a train_block job; scoring a kept epoch counts as a third of training it (and epoch 0 is passed too),
    where snapshots are scored."""
    settings = spec["training"]
    step = Step("train", _named(name, spec["dataset"]), spec["network"], spec["dataset"], settings, settings["batch"])
    kept = kept_epochs(spec["snapshots"], settings["epochs"])
    scored = settings.get("score_snapshots", True)
    epochs = settings["epochs"] + ((0 in kept) + len(kept) / 3 if scored else 0)
    return [(step, len(spec["members"]) * epochs * -(-images // settings["batch"]))]


def evaluating(spec: Spec, images: int, stages: int = 1, teacher: tuple[str, Spec] | None = None) -> Work:
    """Steps of an evaluate job; `images`: what its students train on, decoded, of all stages together; `teacher`:
    (name, network) of one that is asked for every batch."""
    recorded = spec.get("label", {}).get("kind") == "per_view"
    work = []
    for name, network in spec["students"].items():
        protocol = student_protocol(spec["protocol"], name, recorded)
        whole = [(images, steps_of(protocol, images, True))] if spec["set"] == "whole" else []
        named = _named(name, spec["dataset"]), network, spec["dataset"], protocol
        for n, many in whole or steps_in_turn(protocol, [images // stages] * stages):
            batch, times = min(protocol["batch"], n), protocol["repeats"] * many
            work.append((Step("train", *named, batch), times))
            work += judging(*teacher, spec["dataset"], batch * times, batch) if teacher else []
    return work


def judging(name: str, network: Spec, dataset: Spec, images: int, batch: int = JUDGED_AT_ONCE) -> Work:
    """Steps of a trained network that says something of so many images, `batch` at a time."""
    if not images:
        return []
    batch = min(batch, images)
    return [(Step("judge", _named(name, dataset), network, dataset, {}, batch), images / batch)]


def _named(name: str, dataset: Spec) -> str:
    free = SOURCES[dataset["source"]].facts.get("folder")  # its images may be of any size
    return f"{name} on {dataset['source']}" + (f" of {dataset['size']} px" if free else "")


def affordable(step: Step, device: str) -> int:
    """How many of its images a step is timed with."""
    if device != "cpu":
        return step.images
    net = networks.build(_options(step.network), channels=step.shape[0], size=step.shape[1], classes=2, seed=0)
    most = AFFORDABLE_FLOPS / (forward_flops(net, step.shape) * FORWARDS.get(step.kind, 3))
    return min(step.images, max(8, int(most)))


def seconds(step: Step, device: str, precision: str) -> tuple[float, int]:
    """(seconds of one such step on `device`, images it was timed with): at least two steps, the first not counted.

    Timed with fewer images, the time is scaled up in proportion.
    """
    images = affordable(step, device)
    timed = {"train": _training, "student": _student, "judge": _judging}.get(step.kind, _matching)
    run = timed(step, device, precision, images)
    run()
    _finished(device)
    began, many = time.perf_counter(), 0
    while many == 0 or time.perf_counter() - began < AT_LEAST_SECONDS:
        run()
        many += 1
        _finished(device)
    return (time.perf_counter() - began) / many * step.images / images, images


def _finished(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _options(network: Spec) -> dict[str, Any]:
    return {key: value for key, value in network.items() if key != "version"}


def _random(step: Step, count: int, device: str) -> RealData:
    """`count` random images, all of class 0."""
    channels = step.shape[0]
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *step.shape), dtype=torch.uint8, generator=rng)
    labels = torch.zeros(count, dtype=torch.int64)
    names = tuple(str(label) for label in range(step.dataset["classes"]))
    half = (0.5,) * channels
    return RealData(images, labels, names, 255.0, half, half, False, "random", labels.bool()).to(device)


def _matching(step: Step, device: str, precision: str, images: int) -> Callable[[], Any]:
    """The gradients of one class's real images once, or matching its synthetic ones with such gradients once."""
    one = {"outer_iterations": 1, "inner_steps": 1, "pretrain_epochs": 0, "synthetic_batch": images}
    settings = {**step.settings, **one, "real_batch": images, "factor": 1, "decode": "single"}
    data, streams = _random(step, images, device), Streams(0, "cost")
    start = Fresh(step.network, step.shape, data.classes, streams, device)
    objective = GradientMatching(settings, data, [0], [images], start, streams, Execution("never", 1, precision))
    inner = objective.begin(0, 0)
    parts, choice = objective.taken(objective.shared(inner, 0), 0), objective.choice(0, 0, 0)
    target = objective.matcher.target(inner.network, parts, choice)
    if step.kind == "real":
        return lambda: objective.matcher.target(inner.network, parts, choice)
    own = {**parts, "stored": torch.rand(images, *step.shape, device=device)}
    return lambda: objective.matcher.match(inner.network, own, target, choice)


def _student(step: Step, device: str, precision: str, images: int) -> Callable[[], Any]:
    """A student's step and its share of the gradient, without augmentation."""
    data, classes = _random(step, images, device), step.dataset["classes"]
    net = networks.build(_options(step.network), channels=step.shape[0], size=step.shape[1], classes=classes, seed=0)
    start, buffers = split(net.to(device))

    def call(params: Params, buffers: Params, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            return functional(net)(params, buffers, x)

    target = {name: value + 0.01 for name, value in start.items()}
    pixels, batch = data.pixels(slice(None)), Batch(torch.arange(images, device=device))
    size = torch.tensor(0.01, device=device)
    given = Trajectory(start, target, buffers, pixels, data.labels, size, [batch])
    return lambda: ENGINES[step.settings["engine"]](Student(call, lambda x, draws, choice: x), given)


def _training(step: Step, device: str, precision: str, images: int) -> Callable[[], Any]:
    """Train on one batch."""
    prefix = "network_" if "network_batch" in step.settings else ""
    learning = Learning.of({**step.settings, f"{prefix}batch": images}, prefix)
    data = _random(step, images, device)
    options = _options(step.network)
    net = networks.build(options, channels=step.shape[0], size=step.shape[1], classes=data.classes, seed=0)
    trainer = Trainer(net, learning, data, Streams(0, "cost"), "cost", precision=precision)
    state, batch = State.of(net.to(device), learning.optimiser), torch.arange(images).numpy()
    return lambda: trainer.run(state, [batch], (0,))


def _judging(step: Step, device: str, precision: str, images: int) -> Callable[[], Any]:
    """Logits of one batch."""
    data, classes = _random(step, images, device), step.dataset["classes"]
    net = networks.build(_options(step.network), channels=step.shape[0], size=step.shape[1], classes=classes, seed=0)
    scorer, state = Scorer(net, device, precision=precision), State.of(net.to(device))
    return lambda: scorer.logits(state, data, images)
