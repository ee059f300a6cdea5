"""How long students train, how their rate falls, and that methods are compared on paired ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import NETWORK, PROTOCOL, digits

from ddlib.streams import Batches, Streams
from ddlib.train.evaluate import Labelled, evaluate, steps_of, train_student
from ddlib.train.loop import State, Trainer
from ddlib.train.schedules import multistep_factor

STREAMS = Streams(0, "test")


@pytest.mark.parametrize("images, batch, epochs, steps, want", [
    (100, 16, 3, 0, 21), (10, 64, 5, 0, 5), (64, 64, 5, 0, 5), (65, 64, 5, 0, 10), (100, 16, 3, 40, 40),
])  # fmt: skip
def test_steps_of_a_student(images: int, batch: int, epochs: int, steps: int, want: int) -> None:
    protocol = {"epochs": epochs, "steps": steps, "batch": batch, "whole_steps": 77}
    assert steps_of(protocol, images, whole=False) == want
    assert steps_of(protocol, images, whole=True) == 77
    with pytest.raises(ValueError, match="0 epochs and 0 steps"):
        steps_of({**protocol, "epochs": 0, "steps": 0}, images, whole=False)


@pytest.mark.parametrize("count, steps", [(48, 9), (48, 7), (40, 4), (200, 5)])
def test_rates_fall_by_epochs_or_by_steps(count: int, steps: int) -> None:
    """Passes of 3 batches: 9 steps are 3 epochs, each with one rate; 7 are none, and the rate falls by steps."""
    used: list[float] = []

    class Recorder:
        def run(self, state: State, batches: Any, index: Any, factor: Any, rest_at: Any) -> tuple[State, None]:
            assert not rest_at
            used.extend(factor(step) for step in range(len(batches)))
            seen.append((index, len(batches)))
            return state, None

    seen: list[Any] = []
    batches = Batches(STREAMS, "b", count, 16, index=(4,))
    passes = range(-(-steps // batches.per_pass))
    train_student(Recorder(), State({}, {}, {}), passes, steps, batches, PROTOCOL)  # type: ignore[arg-type]
    assert len(used) == steps
    assert [index for index, _ in seen] == [(4, turn) for turn in passes]
    epochs = steps // batches.per_pass
    if steps % batches.per_pass == 0:
        assert used == [multistep_factor(step // batches.per_pass, epochs) for step in range(steps)]
    else:
        assert used == [multistep_factor(step, steps) for step in range(steps)]


STUDENTS = {"plain": NETWORK, "batch": {**NETWORK, "norm": "batch"}}


def some(count: int) -> Labelled:
    data = digits()
    return Labelled(data.pixels(torch.arange(count)), data.labels[:count], data.mean, data.std)


def scored(source: Any, seed: int = 0, students: Any = STUDENTS, **over: Any) -> list[dict[str, Any]]:
    test = digits(test=True)
    return list(evaluate(source, test, students, {**PROTOCOL, **over}, (1, 8, 8), 10, seed))


def test_rows_say_who_was_trained_how_long() -> None:
    rows = scored(some(40))
    assert [(row["network"], row["repeat"]) for row in rows] == [(n, r) for n in ("plain", "batch") for r in (0, 1)]
    assert {(row["train_images"], row["steps"]) for row in rows} == {(40, 6)}
    assert all(set(row) == {"network", "repeat", "accuracy", "train_images", "steps"} for row in rows)
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
    assert [row["accuracy"] for row in scored(some(40))] == [row["accuracy"] for row in rows]
    assert scored(some(40), students={"batch": STUDENTS["batch"]}) == rows[2:], "whoever else is in the group"
    whole = list(evaluate(digits(), digits(test=True), STUDENTS, PROTOCOL, (1, 8, 8), 10, 0, whole=True))
    assert {row["steps"] for row in whole} == {30}


def test_students_of_a_repeat_start_alike_whatever_the_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods are compared on paired students: same weights and augmentation for the same seed and repeat."""
    from ddlib.train import evaluate as module

    started: list[list[float]] = []

    def spy(made: Trainer, state: State, *rest: Any) -> State:
        drawing = made._draw(2, (0, 0))
        started.append(
            [
                float(value.double().sum())
                for value in (*state.params.values(), *drawing.draws.values(), *drawing.mix.values())
            ]
        )
        return state

    monkeypatch.setattr(module, "train_student", spy)
    for source, seed in ((some(40), 0), (some(100), 0), (digits(), 0), (some(40), 1)):
        scored(source, seed, {"plain": NETWORK})
    a, b = started[:2]
    assert started[2:4] == started[4:6] == [a, b]
    assert a != b, "repeats differ"
    assert started[6] not in (a, b), "seeds differ"


def test_better_data_makes_better_students() -> None:
    long = {"epochs": 40, "repeats": 1, "lr": 0.05, "mix_probability": 0.0}
    good = scored(some(120), students={"plain": NETWORK}, **long)[0]["accuracy"]
    shuffled = some(120)
    wrong = Labelled(shuffled.images, (shuffled.labels + 1) % 10, shuffled.mean, shuffled.std)
    bad = scored(wrong, students={"plain": NETWORK}, **long)[0]["accuracy"]
    assert good > 0.55
    assert bad < 0.2
