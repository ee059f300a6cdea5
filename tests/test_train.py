"""The one training loop and its schedules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small import LEARNING, NETWORK, digits
from torch import Tensor, nn

from ddlib import nn as networks
from ddlib.augment.siamese import Augmentation
from ddlib.streams import Batches, Streams
from ddlib.train.adam import adam_step, no_moments
from ddlib.train.compiler import MODES, decide, forward_flops
from ddlib.train.loop import Learning, State, Trainer
from ddlib.train.schedules import decayed, multistep_factor
from ddlib.train.scoring import accuracy, logits_of

STREAMS = Streams(0, "test")


def build(norm: str = "instance", seed: int = 0) -> nn.Module:
    options = {key: value for key, value in NETWORK.items() if key != "version"}
    return networks.build({**options, "norm": norm}, channels=1, size=8, classes=10, seed=seed)


def trainer(source: Any = None, norm: str = "instance", **over: Any) -> Trainer:
    return Trainer(build(norm), Learning.of({**LEARNING, **over}), source or digits(), STREAMS, "test")


def order(count: int, size: int = 16, many: int = 3) -> list[np.ndarray]:
    return Batches(STREAMS, "order", count, size).batches(0, many)


def equal(a: State, b: State) -> bool:
    return all(torch.equal(value, b.tensors()[name]) for name, value in a.tensors().items())


# ---- the loop -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm, name", [("instance", "sgd"), ("batch", "sgd"), ("instance", "adam")])
def test_it_is_torchs_optimiser_where_nothing_is_augmented(norm: str, name: str) -> None:
    """The same steps with torch's own optimiser, loss and autograd on the module."""
    made = trainer(norm=norm, augment="none", mix_probability=0.0, optimiser=name)
    rates = [1.0, 0.5, 0.1]
    state, totals = made.run(State.of(build(norm), name), order(120), (0,), rates.__getitem__)
    net, data, losses = build(norm).train(), digits(), 0.0
    optimiser: torch.optim.Optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=5e-4)
    if name == "sgd":
        optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for batch, rate in zip(order(120), rates, strict=True):
        optimiser.param_groups[0]["lr"] = 0.01 * rate
        x, y = data.normalise(data.pixels(batch)), data.labels[torch.from_numpy(batch)]
        loss = nn.functional.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses += float(loss.detach()) * len(y)
    for name, value in net.state_dict().items():
        torch.testing.assert_close({**state.params, **state.buffers}[name], value, rtol=1e-4, atol=1e-6)
    assert totals.count == 48
    assert float(totals.loss) == pytest.approx(losses, rel=1e-4)
    assert logits_of(build(norm), state, data).allclose(net.eval()(data.normalise(data.pixels(slice(None)))), atol=1e-4)


def test_partial_batches_see_the_draws_of_their_places() -> None:
    """A batch of 5 of 16 is the beginning of the batch of 16: the draws of the others are not used."""
    seen: dict[int, list[Tensor]] = {}
    for size in (16, 5):
        made = trainer()
        seen[size] = []

        def record(
            state: Any, x: Tensor, y: Tensor, draws: Any, mix: Any, *rest: Any, at: int = size, own: Any = made
        ) -> Any:
            seen[at].append(mix["permutation"])
            assert all(len(value) == len(x) for value in draws.values())
            seen[at].append(torch.stack([value[: min(5, len(x))].double() for value in draws.values()]))
            return own._step(state, x, y, draws, mix, *rest)

        made.step = record
        batches = [np.arange(16), np.arange(size)]
        made.run(State.of(build()), batches, (0,))
    assert torch.equal(seen[5][1], seen[16][1])
    assert torch.equal(seen[5][3], seen[16][3])
    whole, part = seen[16][2], seen[5][2]
    assert sorted(part.tolist()) == list(range(5)), "CutMix stays within the batch"
    assert part.tolist() == [place for place in whole.tolist() if place < 5]
    assert sorted(whole.tolist()) == list(range(16))


def test_draws_belong_to_the_place_and_not_to_what_ran_before() -> None:
    made = trainer(augment="color_crop_cutout_scale_rotate")
    start = State.of(build())
    once = made.run(start, order(120), (1,))[0]
    made.run(start, order(120), (2,))
    assert equal(made.run(start, order(120), (1,))[0], once)
    assert not equal(made.run(start, order(120), (3,))[0], once)
    assert equal(start, State.of(build())), "nothing is changed in place"
    first, _ = made.run(start, order(120)[:1], (1,))
    assert not equal(first, once)


def test_it_counts_what_was_right_and_tells_who_listens() -> None:
    made, told = trainer(), []
    _, totals = made.run(State.of(build()), order(120), (0,), seen=lambda index, right: told.append((index, right)))
    assert [index.tolist() for index, _ in told] == [batch.tolist() for batch in order(120)]
    assert float(totals.correct) == sum(int(right.sum()) for _, right in told)
    assert totals.count == 48


def test_states_come_back_from_tensors() -> None:
    adam, _ = trainer(optimiser="adam").run(State.of(build(), "adam"), order(120), (0,))
    assert equal(State.from_tensors(adam.tensors()), adam)
    assert int(adam.velocity["steps"]) == 3
    state, _ = trainer(norm="batch").run(State.of(build("batch")), order(120), (0,))
    assert equal(State.from_tensors(state.tensors()), state)
    at_rest = State.from_tensors({name: value for name, value in state.tensors().items() if "velocity" not in name})
    assert all((value == 0).all() for value in at_rest.velocity.values())
    assert at_rest.velocity.keys() == state.params.keys()
    assert any((value != 0).any() for value in state.velocity.values())


def test_training_learns_and_evaluation_keeps_statistics() -> None:
    data, net = digits(), build("batch")
    state = State.of(net)
    made = trainer(norm="batch", lr=0.05, mix_probability=0.0, augment="none")
    before = accuracy(net, state, data)
    for epoch in range(12):
        state, _ = made.run(state, order(120, many=8), (epoch,))
    assert accuracy(net, state, data) > max(0.6, before + 0.3)
    kept = {name: value.clone() for name, value in state.tensors().items()}
    first = logits_of(net, state, data, batch=7)
    assert torch.allclose(first, logits_of(net, state, data), atol=1e-5), "the size of batches has no say"
    assert all(torch.equal(value, kept[name]) for name, value in state.tensors().items())


# ---- Adam ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_adam_step_equals_torchs(weight_decay: float) -> None:
    rng = np.random.default_rng(0)
    params = {name: torch.from_numpy(rng.normal(size=shape)) for name, shape in (("a", (3, 4)), ("b/c", (5,)))}
    moving = {name: value.clone().requires_grad_() for name, value in params.items()}
    plain = torch.optim.Adam(list(moving.values()), weight_decay=weight_decay)
    moments = no_moments(params)
    for lr in (0.1, 0.1, 0.02, 0.0, 0.3):
        grads = {name: torch.from_numpy(rng.normal(size=value.shape)) for name, value in params.items()}
        plain.param_groups[0]["lr"] = lr
        for name, value in moving.items():
            value.grad = grads[name].clone()
        plain.step()
        before = {name: value.clone() for name, value in params.items()}
        new, moments = adam_step(params, moments, grads, torch.tensor(lr, dtype=torch.float64), weight_decay)
        assert all(torch.equal(before[name], params[name]) for name in params), "nothing is changed in place"
        params = new
        for name, value in moving.items():
            torch.testing.assert_close(params[name], value.detach(), rtol=1e-13, atol=1e-13)
    assert int(moments["steps"]) == 5


def test_adam_is_one_graph_whatever_the_rate_and_the_step() -> None:
    params = {"a": torch.linspace(-1, 1, 6)}
    compiled = torch.compile(adam_step, backend="eager", fullgraph=True, dynamic=False)
    with torch.compiler.set_stance("default"):
        moments = no_moments(params)
        params, moments = compiled(params, moments, params, torch.tensor(0.1), 0.05)
        with torch.compiler.set_stance("fail_on_recompile"):
            for lr in (0.1, 0.01):
                params, moments = compiled(params, moments, params, torch.tensor(lr), 0.05)
    assert int(moments["steps"]) == 3


def test_an_unknown_optimiser_is_refused() -> None:
    with pytest.raises(ValueError, match="no optimiser is called 'adan': did you mean 'adam'"):
        Learning.of({**LEARNING, "optimiser": "adan"})


# ---- schedules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [*range(1, 40), 150, 300, 1000])
def test_decayed_is_the_published_schedule(epochs: int) -> None:
    shares = [2 / 3, 5 / 6]
    found = [decayed(epoch, epochs, shares, 0.2) for epoch in range(epochs)]
    assert found == [multistep_factor(epoch, epochs) for epoch in range(epochs)]
    net = nn.Linear(1, 1)
    optimiser = torch.optim.SGD(net.parameters(), lr=1.0)
    torchs = torch.optim.lr_scheduler.MultiStepLR(optimiser, [2 * epochs // 3, 5 * epochs // 6], gamma=0.2)
    for epoch in range(epochs):
        if epochs > 2:  # with fewer, torch steps past a milestone at epoch 0
            assert found[epoch] == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        torchs.step()


def test_no_decay_and_decay_from_the_beginning() -> None:
    assert [decayed(epoch, 4, [], 0.2) for epoch in range(4)] == [1.0] * 4
    assert [decayed(epoch, 4, [0.0, 0.5], 0.5) for epoch in range(4)] == [0.5, 0.5, 0.25, 0.25]


# ---- learning and compiling ---------------------------------------------------------------------------------------


def test_learning_reads_prefixed_settings() -> None:
    prefixed = {f"network_{name}": value for name, value in LEARNING.items() if name != "dialect"}
    assert Learning.of(prefixed, "network_") == Learning.of(LEARNING)
    assert Learning.of({**LEARNING, "dialect": "mtt"}).augment == Augmentation("color_crop", "mtt")


def test_compiling_is_decided_once_and_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not decide("auto", "cpu", 1e20).enabled
    assert "no C++ compiler" in decide("auto", "cpu", 1e20).reason
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        decide("always", "cpu", 0.0)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/" + name)
    assert decide("auto", "cpu", 1e20).enabled
    assert not decide("auto", "cpu", 1e3).enabled
    assert not decide("never", "cpu", 1e20).enabled
    assert decide("always", "cpu", 0.0).enabled
    with pytest.raises(ValueError, match=f"{', '.join(MODES)}, not 'maybe'"):
        decide("maybe", "cpu", 0.0)
    net = build()
    assert forward_flops(net, (1, 8, 8)) == 2 * (64 * 9 * 4 + 16 * 9 * 16 + 16 * 10)
    assert net.training
