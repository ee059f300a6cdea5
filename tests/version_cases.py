"""Small computations by component, in float64, that pin what each component's version stands for."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from small import (
    MATCHING,
    NETWORK,
    PROTOCOL,
    TRAINING,
    digits,
    equipped,
    problem,
    recipe,
    settings,
    snapshots_of,
    synthetic,
)
from small import table as score_table
from version_pieces import (
    Values,
    augment,
    convnet,
    data,
    exact,
    folder,
    gradient,
    in_float64,
    network,
    optim,
    packing,
    ramp,
    streams,
    trajectory,
    transfer,
    whitening,
)

from ddlib import registry, tables
from ddlib.artifacts import write_json, write_manifest
from ddlib.methods.driver import condense
from ddlib.pool import view
from ddlib.pool.condition import Conditioning
from ddlib.pool.member import MemberTraining
from ddlib.pool.observer import Observer, check, confusion
from ddlib.pool.observer import build as build_observer
from ddlib.protocol_settings import evaluation_epochs
from ddlib.sets.labelling import make
from ddlib.sets.synthetic import SyntheticSet, merge
from ddlib.streams import Batches, Streams
from ddlib.train.evaluate import Labelled, evaluate, steps_of
from ddlib.train.lessons import lessons
from ddlib.train.loop import Learning, State, Trainer
from ddlib.train.losses import mixed_cross_entropy
from ddlib.train.schedules import decayed
from ddlib.train.scoring import logits_of
from ddlib.train.sgd import sgd_step, zero_velocity
from ddlib.transforms.perturb import NORMS, Perturbation, direction
from ddlib.transforms.sparsify import MagnitudeMasks, RandomMasks


def train() -> Values:
    learning = Learning.of({**TRAINING, "momentum": 0.8, "augment": "color_crop_flip"})
    source = Labelled(ramp(20, 1, 8, 8), torch.arange(20) % 10, (0.3,), (0.4,))
    batches = Batches(Streams(0, "golden"), "train", 20, 16).batches(0, 4)
    with in_float64():
        trainer = Trainer(network(), learning, source, Streams(0, "golden"), "train")
        state, totals = trainer.run(State.of(network()), batches, (1,), lambda step: 1 / (1 + step))
        params, grads = {"a": ramp(5)}, {"a": ramp(5).square()}
        return {
            "params": torch.cat([value.flatten() for value in state.params.values()]),
            "totals": [float(totals.loss), float(totals.correct), totals.count],
            "logits": logits_of(network(), state, source),
            "sgd": sgd_step(params, {"a": -ramp(5)}, grads, 0.1, 0.9, 0.01)[0]["a"],
            "at_rest": sgd_step(params, zero_velocity(params), grads, 0.1, 0.9, 0.0)[0]["a"],
            "loss": mixed_cross_entropy(ramp(4, 3), torch.arange(4) % 3, torch.arange(4) % 2, torch.tensor(0.3)),
            "decayed": [decayed(epoch, 10, [2 / 3, 5 / 6], 0.2) for epoch in range(10)],
            "epochs": [evaluation_epochs(*case) for case in ((10, 2, 1), (100, 3, 10), (10, 3, 20, 128), (10, 3, 100))],
        }  # fmt: skip


def driver() -> Values:
    with in_float64():
        asked = problem(range(3, 6), seed=4, data=exact())
        made = condense(registry.METHODS["idc"].load()(MATCHING, asked), asked, (1,))
    images = {"initial": made.initial["images"], "images": made.images, "at1": made.snapshots[1]["images"]}
    return {**images, "losses": made.losses}


def conditioned() -> Values:
    """A network trained on two stages in turn, and a third stage matched at networks conditioned on them."""
    with in_float64():
        labels = torch.tensor([3, 3, 4, 4, 5, 5])
        facts: dict[str, Any] = {"mean": (0.3,), "std": (0.4,), "class_names": digits().class_names, "name": "digits"}
        held = merge(
            [
                SyntheticSet(
                    images=(ramp(6, 1, 8, 8) + 0.3 * stage).frac(),
                    labels=labels,
                    stage=torch.full_like(labels, stage),
                    factor=1,
                    **facts,
                )
                for stage in (0, 1)
            ]
        )
        protocol = {key: value for key, value in PROTOCOL.items() if key not in ("repeats", "whole_steps")}
        training = Conditioning(held, protocol, Streams(0, "golden"), network(), torch.device("cpu"))
        params = training(State.of(network()), 1).params
        asked = problem(range(3, 6), seed=4, data=exact(), stage=2)
        asked = dataclasses.replace(asked, frozen=held, condition=protocol)
        made = condense(registry.METHODS["idc"].load()({**MATCHING, "factor": 1}, asked), asked)
    return {"params": torch.cat([value.flatten() for value in params.values()]), "images": made.images}


def started() -> Values:
    """The methods that start from a pool: two networks in float64, and masks."""
    with in_float64():
        asked = problem(range(3, 6), seed=4, data=exact())
        rows = snapshots_of.__wrapped__(json.dumps(NETWORK), (1, 8, 8), 10)
        asked = dataclasses.replace(asked, rows=rows)
        return {
            name: condense(recipe(name, asked, outer_iterations=1, inner_steps=2), asked).images
            for name in ("acc_dd", "drop2sparse")
        }


def experts() -> Values:
    """MTT from two networks in float64, all classes, with and without soft labels."""
    with in_float64():
        rows = snapshots_of.__wrapped__(json.dumps(NETWORK), (1, 8, 8), 10)
        asked, found = dataclasses.replace(problem(seed=4, data=exact()), rows=rows), {}
        over = {"outer_iterations": 2, "student_steps": 3, "student_batch": 6, "image_lr": 5.0, "step_size_lr": 1e-5}
        over |= {"step_size": 0.02, "augment": "color_crop_cutout_scale_rotate", "init": "first"}
        for name, way in {"raw": {}, "positive": {"step_size_as": "positive", "soft_labels": "expert"}}.items():
            made = condense(recipe("mtt", asked, **{"step_size_as": "raw", **over, **way}), asked)
            found[name] = [*made.learned.values(), *made.losses]
    return found


def perturb() -> Values:
    with in_float64():
        state = State.of(network())
        moved = Perturbation(Streams(3, "golden"))(state, 5).params
        scaled = Perturbation(Streams(3, "golden"), directions=1, one_dim="copy")(state, 5).params
        return {
            "weights": torch.cat([value.flatten() for value in moved.values()]),
            "copied": torch.cat([value.flatten() for value in scaled.values()]),
        } | {norm: direction(ramp(4, 3, 2) - 0.4, ramp(4, 3, 2) + 0.1, norm) for norm in NORMS}


def masked() -> Values:
    shapes = {"a": (4, 3, 3, 3), "b": (5, 16)}
    found: Values = {}
    for kind in ("uniform", "global"):
        masks = RandomMasks(shapes, kind, 0.7, Streams(3, "golden"))(2)
        found |= {f"{kind}_{name}": mask.double() for name, mask in masks.items()}
    params = {name: torch.sin(torch.arange(float(np.prod(shape)))).reshape(shape) for name, shape in shapes.items()}
    masks = MagnitudeMasks(list(shapes), 0.7)(0, params)
    return found | {f"magnitude_{name}": mask.double() for name, mask in masks.items()}


def methods() -> Values:
    found = {}
    for name in ("random", "initial"):
        asked = problem(seed=4)
        for init in ("mix", "first", "random", "noise"):
            found[f"{name}_{init}"] = condense(recipe(name, asked, init=init, factor=2), asked).images.double()
    return found


def pool() -> Values:
    spec = {"network": {**NETWORK, "norm": "batch"}, "snapshots": [0, 3], "seed": 2}
    training = {**TRAINING, "record_events": True}
    with tempfile.TemporaryDirectory() as folder, in_float64():
        made = MemberTraining({**spec, "training": training}, 1, exact(), Path(folder)).run()
        from ddlib.artifacts import load_tensors

        tensors = [load_tensors(made["files"][f"member1/epoch{epoch}"])[0] for epoch in (0, 3)]
        events = load_tensors(made["files"]["member1/events"])[0]
        metrics = pd.read_csv(made["files"]["member1/metrics"]).fillna(-1)
    weights = [torch.cat([held[name].flatten() for name in sorted(held)]) for held in tensors]
    found: Values = {"start": weights[0], "end": weights[1], "columns": list(map(len, metrics.columns))}
    return found | {"metrics": metrics.to_numpy(), **events}


def views() -> Values:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {}
        for member in (0, 1):
            files[f"member{member}/metrics"] = folder / f"metrics{member}.csv"
            curve = {"epoch": range(4), "train_clean": [0.1 * (epoch + member) for epoch in range(4)]}
            pd.DataFrame(curve).to_csv(files[f"member{member}/metrics"])
            for epoch in range(4):
                files[f"member{member}/epoch{epoch}"] = folder / f"{member}{epoch}"
                files[f"member{member}/epoch{epoch}"].write_text(f"{member}{epoch}")
        write_manifest(folder / "block.json", "block", {"members": [0, 1]}, files, {"epochs": list(range(4))})
        window = {"members": 2, "metric": "train_clean", "windows": [[0.15, 0.35]]}
        asked = {"window": window, "epochs": {"members": 1, "epochs": [0, 2]}, "horizon": {**window, "horizon": 2}}
        chosen = {key: view.select([folder / "block.json"], wanted, "p") for key, wanted in asked.items()}
    return {key: np.array([[row["member"], row["epoch"]] for row in rows]) for key, rows in chosen.items()}


def sets() -> Values:
    parts = [synthetic(classes=5, ipc=2, images=ramp(4, 1, 6, 6), labels=labels, stage=torch.tensor([0, 0, 1, 1]))
             for labels in (torch.tensor([3, 1, 3, 1]), torch.tensor([0, 4, 0, 4]))]  # fmt: skip
    whole = merge(parts)
    facts = json.dumps(whole.facts(), sort_keys=True).encode()
    found: Values = {"order": whole.labels, "stage": whole.stage, "images": whole.images, "facts": list(facts)}
    return found | {"decoded": synthetic(factor=2, images=ramp(6, 1, 6, 6)).decode()[0], "split": whole.split(1).images}


def evaluation() -> Values:
    with in_float64():
        source = Labelled(exact().pixels(torch.arange(60)), digits().labels[:60], (0.3,), (0.4,))
        students = {"a": NETWORK, "b": {**NETWORK, "norm": "batch"}}
        rows = list(evaluate(source, exact(), students, PROTOCOL, (1, 8, 8), 10, seed=5))
    steps = [steps_of(PROTOCOL, count, whole) for count, whole in ((100, False), (5, False), (5, True))]
    return {"rows": [[row[key] for key in ("repeat", "accuracy", "train_images", "steps")] for row in rows]} | {
        "steps": steps
    }


def labels() -> Values:
    """Views and what is said of them, and a student taught by it as RDED teaches."""
    protocol = {**PROTOCOL, "augment": "shuffle_resized_flip", "dialect": "crops", "grid": "set", "loss": "kl"}
    protocol |= {"optimiser": "adamw", "temperature": 4.0, "mix_probability": 1.0}
    with in_float64():
        facts = {"grid": 2, "labels": torch.arange(20) // 2, "stage": torch.zeros(20, dtype=torch.int64)}
        made = synthetic(1, 2, 5, images=ramp(20, 1, 8, 8), class_names=tuple("abcdefghij"), **facts)
        told = {"seed": 3, "teacher": "t", "precision": "fp32"}
        view, still = (
            make(kind, made, lambda x: x.flatten(1) @ ramp(64, 10), protocol, **told) for kind in ("per_view", "static")
        )
        source = lessons(made, protocol, view)[0].source
        learning, streams = Learning.of(protocol, grid=2), Streams(3, "evaluate")
        trainer = Trainer(network(), learning, source, streams, "student")
        start = State.of(network(), "adamw")
        state, totals = trainer.run(start, view.batches(1), (0, 1), replay=view.replay(1, 2, "cpu"))
    values = {name.replace("/", "_"): value for name, value in view.tensors.items()}
    params = torch.cat([value.flatten() for value in state.params.values()])
    return {**values, "static": still.logits(), "params": params, "loss": float(totals.loss)}


def table() -> Values:
    with tempfile.TemporaryDirectory() as name:
        rows = [_cell(Path(name), method, seed) for method in ("idc", "random") for seed in range(5)]
        found = tables.table("golden", rows)
    numbers = found.drop(columns=tables.COSTS).select_dtypes("number").astype(float).fillna(-1)
    return {"columns": list(map(len, found.columns)), "numbers": numbers.to_numpy(), "methods": [len(found)]}


def _cell(folder: Path, method: str, seed: int) -> dict[str, Any]:
    stem = folder / f"{method}{seed}"
    scores = [{"network": "n", "repeat": r, "accuracy": 0.3 + 0.05 * (method == "idc") * (r + seed)} for r in range(2)]
    pd.DataFrame(scores).to_csv(f"{stem}.csv")
    write_manifest(f"{stem}.json", "evaluation", {}, {"table": f"{stem}.csv"}, {})
    write_json(f"{stem}.run.json", {"seconds": 1.5 + seed, "peak_memory_mb": 100.0})
    write_manifest(f"{stem}.card.json", "set", {}, {}, {"image_bytes": 1234})
    names = {
        "experiment": method,
        "dataset": "d",
        "source": "d",
        "method": method,
        "factor": 1,
        "as_published": True,
        "ipc": 10,
        "seed": seed,
    }
    files = {
        "stem": str(stem),
        "runs": [f"{stem}.run.json"],
        "card": [f"{stem}.card.json"],
        "pool_runs": [],
        "files": [],
    }
    return {**names, **files, "labels": "hard", "protocol": "p", "at": "", "outer": 7}


STARTED = (
    "data",
    "digits",
    "streams",
    "packing",
    "augment",
    "gradient",
    "optim",
    "train",
    "driver",
    "perturb",
    "masks",
)
STARTED += ("idc", "convnet")


# name of a component, network, method or source -> (what is computed, the components its results stand on besides)
def scores() -> Values:
    """What crops are drawn, their order by an observer that knows a little, and what is selected and stitched."""
    found: Values = {}
    scored = score_table(10, 2, 2, 0)
    found["table"] = [scored.file[:3], scored.box[:3]]
    for name in ("rded", "crops"):
        asked = equipped(name, problem(range(2)), settings(name, factor=2))
        made = condense(recipe(name, asked, factor=2), asked)
        assert made.origin is not None
        found[name] = [made.origin, made.images]
    for name in ("herding", "kmeans"):
        found[name] = condense(recipe(name), problem(range(2))).images
    return found


def observer() -> Values:
    """What an observer is taken for, and what is said of it."""
    shape = {"channels": 1, "size": 8, "classes": 10}
    net = build_observer({**NETWORK, "version": 1}, shape)
    judge = Observer(net, State.of(net), "", "", 8)
    found = confusion(judge, digits(), 5)
    checked = check(found + 50 * np.eye(10, dtype=np.int64), [str(label) for label in range(10)], 0.9, 0.1, "", "")
    return {"confusion": found, "accuracy": checked["accuracy"], "images": checked["images"]}


CASES: dict[str, tuple[Callable[[], Values], tuple[str, ...]]] = {
    "streams": (streams, ()),
    "data": (data, ("streams", "digits")),
    "folder": (folder, ("data", "streams")),
    "whitening": (whitening, ("digits",)),
    "packing": (packing, ()),
    "augment": (augment, ()),
    "gradient": (gradient, ("packing", "convnet")),
    "trajectory": (trajectory, ("streams", "augment", "convnet")),
    "mtt": (
        experts,
        ("data", "digits", "streams", "packing", "augment", "trajectory", "optim", "train", "driver", "convnet"),
    ),
    "optim": (optim, ()),
    "train": (train, ("streams", "augment", "convnet")),
    "perturb": (perturb, ("streams", "convnet")),
    "masks": (masked, ("streams",)),
    "acc_dd": (started, (*STARTED, "drop2sparse")),
    "drop2sparse": (started, (*STARTED, "acc_dd")),
    "driver": (
        driver, ("data", "digits", "streams", "packing", "augment", "gradient", "optim", "train", "idc", "convnet")
    ),
    "condition": (
        conditioned,
        ("data", "digits", "streams", "packing", "augment", "gradient", "optim", "train", "driver", "idc", "convnet"),
    ),
    "pool": (pool, ("data", "digits", "streams", "augment", "train", "convnet")),
    "view": (views, ()),
    "sets": (sets, ("packing",)),
    "evaluate": (evaluation, ("data", "digits", "streams", "augment", "train", "convnet")),
    "labels": (labels, ("streams", "packing", "augment", "train", "evaluate", "convnet")),
    "observer": (observer, ("data", "digits", "convnet")),
    "scores": (
        scores,
        ("data", "digits", "streams", "packing", "augment", "driver", "rded", "crops", "herding", "kmeans"),
    ),
    "table": (table, ()),
    "convnet": (convnet, ()),
    **{name: (functools.partial(transfer, name), ()) for name in ("alexnet", "vgg", "resnet")},
    **{name: (functools.partial(transfer, name), ()) for name in ("densenet", "torchvision")},
    "random": (methods, ("data", "digits", "streams", "packing", "initial")),
}  # fmt: skip
