"""A whole outer iteration by the product's own path (driver, objective, loop), the draws of the golden run injected."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from parity import Arrays, error, load, network, tensor, weights
from torch import Tensor

from ddlib.augment.mix import cutmix_boxes, cutmix_ratio
from ddlib.augment.showing import Drawing
from ddlib.methods import driver
from ddlib.methods.recipe import Problem, Recipe
from ddlib.objectives.draws import Drawn
from ddlib.objectives.matching import Execution, GradientMatching
from ddlib.sets.optim import ImageSGD
from ddlib.streams import Streams
from ddlib.train.loop import State

COLOUR = ("brightness", "saturation", "contrast")
DATA = load("idc_outer_iteration")
STEPS, CLASSES = DATA["match_losses"].shape
BATCHES, BATCH = DATA["net_y"].shape[1:]


class Real:
    """The golden run's images as a data set: those of the classes, then those of the network's batches, in float64."""

    channels, height, width = DATA["real"].shape[2:]
    classes, name, space = CLASSES, "golden", "unit"
    class_names = tuple(map(str, range(CLASSES)))
    mean, std = tuple(DATA["mean"].tolist()), tuple(DATA["std"].tolist())

    def __init__(self) -> None:
        per_class = DATA["real"].shape[1]
        self.first = CLASSES * per_class
        self.images = torch.cat([tensor(DATA["real"]).flatten(0, 1), tensor(DATA["net_x"]).flatten(0, 2)])
        own = torch.arange(CLASSES).repeat_interleave(per_class)
        self.labels = torch.cat([own, tensor(DATA["net_y"]).flatten()])

    def pixels(self, index: Tensor) -> Tensor:
        return self.images[index]

    def of_class(self, label: int) -> Tensor:
        return torch.nonzero(self.labels[: self.first] == label).flatten()


class Start:
    """The golden run's network."""

    def __init__(self) -> None:
        self.params = weights(DATA, "p0_")
        self.net = network(self.params, DATA["real"].shape[-1])

    def draw(self, outer: int) -> State:
        return State.of(self.net)


class Draws:
    """What the golden run drew for matching."""

    def __init__(self, data: Real) -> None:
        self.data = data

    def of(self, outer: int) -> Drawn:
        found = {
            f"aug/{name}": tensor(DATA["match_u_brightness_saturation_contrast"])[..., i]
            for i, name in enumerate(COLOUR)
        }
        for key, name in (("match_crop_shift", "crop"), ("match_cutout_centre", "cutout")):
            found |= {f"aug/{name}_{side}": tensor(DATA[key])[..., i] for i, side in enumerate(("rows", "cols"))}
        rows = tensor(DATA["match_subsample_perm"])[..., : int(DATA["syn_cap"])]
        return Drawn(found, [["crop"] * CLASSES] * STEPS, [rows])

    def real(self, label: int, number: int) -> Tensor:
        return self.data.of_class(label)[tensor(DATA["class_batch_index"][number, label])]


class Batches:
    """The network's batches in the order of the golden run."""

    def __init__(self, first: int) -> None:
        self.first = first

    def until(self, cursor: int, samples: int) -> int:
        return int(BATCHES)

    def batches(self, cursor: int, many: int) -> list[np.ndarray]:
        starts = [self.first + BATCH * (cursor + i) for i in range(many)]
        return [np.arange(start, start + BATCH) for start in starts]


def network_draws(steps: int, index: tuple[int, ...]) -> Drawing:
    """Augmentation, CutMix and chosen operations of the batches from `index` on."""
    k = index[0] // BATCHES
    draws = {name: tensor(DATA["net_u_brightness_saturation_contrast"][k, ..., i]) for i, name in enumerate(COLOUR)}
    draws |= {f"crop_{side}": tensor(DATA["net_crop_shift"][k, ..., i]) for i, side in enumerate(("rows", "cols"))}
    centres, (height, width) = DATA["net_centre"][k], DATA["real"].shape[-2:]
    boxes = cutmix_boxes(DATA["net_lam"][k], centres[..., 0], centres[..., 1], height, width)
    boxes = boxes * (DATA["net_coin"][k] < DATA["mix_prob"])[:, None]
    ratio = tensor(cutmix_ratio(boxes, height, width))
    mix = {"box": tensor(boxes), "permutation": tensor(DATA["net_perm"][k]), "ratio": ratio}
    return Drawing(draws, mix, ["crop"] * steps)


@pytest.fixture
def in_double() -> Iterator[None]:
    """New tensors are float64, as the golden run's."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("chunk", [1, CLASSES])
def test_one_outer_iteration_of_the_driver(in_double: None, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    golden: Arrays = DATA
    settings = {
        "factor": int(golden["factor"]), "decode": "single", "decode_limit": 128, "match": "gradient",
        "metric": str(golden["metric"]), "matched": "conv", "outer_iterations": 1, "inner_steps": STEPS,
        "real_batch": golden["class_batch_index"].shape[-1], "synthetic_batch": int(golden["syn_cap"]),
        "match_augment": "color_crop_cutout", "network_lr": float(golden["net_lr"]),
        "network_momentum": float(golden["net_momentum"]), "network_weight_decay": float(golden["net_weight_decay"]),
        "network_batch": BATCH, "network_samples": BATCH * BATCHES, "network_augment": "color_crop",
        "network_mix_probability": float(golden["mix_prob"]), "network_mix_beta": 1.0, "pretrain_epochs": 0,
    }  # fmt: skip
    data, ipc = Real(), int(golden["ipc"])
    execution = Execution("never", chunk)
    objective = GradientMatching(settings, data, range(CLASSES), [ipc], Start(), Streams(0, "golden"), execution)  # type: ignore[arg-type]
    objective.draws, objective.batches = Draws(data), Batches(data.first)  # type: ignore[assignment]
    objective.trainer._draw = network_draws  # type: ignore[method-assign]
    losses, trained = [], []
    gradient, advance = objective.gradient, objective.advance

    def noted(*given: object) -> tuple[Tensor, Tensor]:
        loss, slope = gradient(*given)  # type: ignore[arg-type]
        losses.append(loss)
        return loss, slope

    def kept(*given: object) -> object:
        trained.append(advance(*given))  # type: ignore[arg-type]
        return trained[-1]

    objective.gradient, objective.advance = noted, kept  # type: ignore[method-assign, assignment]
    positions = torch.arange(CLASSES).repeat_interleave(ipc)
    optimiser = ImageSGD(float(golden["lr_img"]), float(golden["momentum_img"]), positions, CLASSES)
    recipe = Recipe("mix", settings["factor"], 1, objective, {"images": optimiser}, range="free")
    # The images are clamped once, at the beginning: here before it, so that the end can be compared as it is.
    monkeypatch.setattr(driver, "initial_images", lambda *given: tensor(golden["x_init"]).clamp(0, 1))
    made = driver.condense(recipe, Problem(data, ipc, range(CLASSES), 0, 32))  # type: ignore[arg-type]
    assert error(torch.cat(losses), golden["match_losses"].mean(1)) < 1e-8
    assert error(made.images, golden["x_final"]) < 1e-8
    for name, value in weights(golden, "p_final_").items():
        assert error(trained[-1].network.params[name], value) < 1e-8, name
