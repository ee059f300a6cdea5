"""The network's steps with CutMix, and one complete outer iteration composed by hand, against golden numbers."""

from __future__ import annotations

import numpy as np
import torch
from parity import Arrays, colour, error, load, network, pair, tensor, weights
from torch import Tensor

from ddlib.augment.mix import cutmix_apply, cutmix_boxes, cutmix_ratio
from ddlib.augment.siamese import Augmentation
from ddlib.nn.functional import Params, functional, matched_names
from ddlib.objectives.gradient import match_class
from ddlib.sets.optim import ImageSGD
from ddlib.sets.packing import decode
from ddlib.train.losses import mixed_cross_entropy
from ddlib.train.sgd import sgd_step, zero_velocity


def test_cutmix_boxes() -> None:
    for rows, cols, lam, row, col, *box in load("idc_net_step_cutmix")["boxes_rows_cols_lam_c0_c1_r0_c0_r1_c1"]:
        found = cutmix_boxes(np.array(lam), np.array(int(row)), np.array(int(col)), int(rows), int(cols))
        assert found.tolist() == [int(edge) for edge in box]


class Step:
    """One network step with injected CutMix draws: (params, velocity) after it, its loss and its mixed inputs."""

    def __init__(self, data: Arrays, net: torch.nn.Module, options: dict[str, float]) -> None:
        self.call, self.mix_prob, self.options = functional(net), float(data["mix_prob"]), options

    def __call__(
        self, params: Params, velocity: Params, x: Tensor, y: Tensor, perm: Tensor, draws: tuple[float, ...]
    ) -> tuple[Params, Params, Tensor, Tensor]:
        coin, lam, row, col = draws
        height, width = x.shape[2:]
        box = cutmix_boxes(np.array(lam), np.array(int(row)), np.array(int(col)), height, width)
        box = box * (coin < self.mix_prob)
        mixed = cutmix_apply(x, perm, tensor(box))
        ratio = tensor(cutmix_ratio(box, height, width))

        def loss(params: Params) -> Tensor:
            return mixed_cross_entropy(self.call(params, {}, mixed), y, y[perm], ratio)

        grads, value = torch.func.grad_and_value(loss)(params)
        params, velocity = sgd_step(params, velocity, grads, **self.options)
        return params, velocity, value, mixed


def test_network_steps_with_cutmix() -> None:
    data = load("idc_net_step_cutmix")
    x, y, perm = (tensor(data[key]) for key in ("x", "y", "perm"))
    params = weights(data, "p0_")
    options = {key: float(data[key]) for key in ("lr", "momentum", "weight_decay")}
    step = Step(data, network(params, x.shape[-1]), options)
    velocity = zero_velocity(params)
    for i in range(x.shape[0]):
        draws = (data["coin"][i], data["lam"][i], *data["centre"][i])
        params, velocity, loss, mixed = step(params, velocity, x[i], y[i], perm[i], draws)
        assert error(loss, data["losses"][i]) < 1e-10
        assert error(mixed, data["mixed_inputs"][i]) < 1e-10
    for prefix, ours in (("p3_", params), ("v3_", velocity)):
        for name, golden in weights(data, prefix).items():
            assert error(ours[name], golden) < 1e-10, prefix + name


class Outer:
    """The golden outer iteration: what its rounds read and how they are put together."""

    def __init__(self) -> None:
        data = self.data = load("idc_outer_iteration")
        self.params = weights(data, "p0_")
        self.velocity = zero_velocity(self.params)
        self.real, self.x = tensor(data["real"]), tensor(data["x_init"]).clamp(0, 1)
        self.classes, self.ipc = self.real.shape[0], int(data["ipc"])
        positions = torch.arange(self.classes).repeat_interleave(self.ipc)
        self.sgd = ImageSGD(float(data["lr_img"]), float(data["momentum_img"]), positions, self.classes)
        self.v = torch.zeros_like(self.x)
        self.net = network(self.params, self.x.shape[-1])
        options = {key: float(data[f"net_{key}"]) for key in ("lr", "momentum", "weight_decay")}
        self.step = Step(data, self.net, options)

    def normalise(self, x: Tensor) -> Tensor:
        return (x - tensor(self.data["mean"])[:, None, None]) / tensor(self.data["std"])[:, None, None]

    def rows(self, c: int) -> slice:
        return slice(c * self.ipc, (c + 1) * self.ipc)

    def match(self, k: int, c: int, stored: Tensor) -> tuple[Tensor, Tensor]:
        data, augmentation, call = self.data, Augmentation("color_crop_cutout"), functional(self.net)
        draws = {
            **colour(data["match_u_brightness_saturation_contrast"][k, c]),
            **pair(data["match_crop_shift"][k, c], "crop_rows", "crop_cols"),
            **pair(data["match_cutout_centre"][k, c], "cutout_rows", "cutout_cols"),
        }
        kept = tensor(data["match_subsample_perm"][k, c][: int(data["syn_cap"])])

        def prepare(stored: Tensor) -> Tensor:
            decoded = decode(stored, int(data["factor"])).index_select(0, kept)
            return augmentation.apply(self.normalise(decoded), draws, "crop")

        real = self.real[c][tensor(data["class_batch_index"][k, c])]
        return match_class(
            lambda p, x: call(p, {}, x),
            self.params,
            matched_names(self.net),
            prepare,
            stored,
            augmentation.apply(self.normalise(real), draws, "crop"),
            torch.tensor(c),
            str(data["metric"]),
        )

    def train(self, k: int) -> Tensor:
        data, losses = self.data, []
        for b in range(data["net_x"].shape[1]):
            draws = {
                **colour(data["net_u_brightness_saturation_contrast"][k, b]),
                **pair(data["net_crop_shift"][k, b], "crop_rows", "crop_cols"),
            }
            x = Augmentation("color_crop").apply(self.normalise(tensor(data["net_x"][k, b])), draws, "crop")
            mix = (data["net_coin"][k, b], data["net_lam"][k, b], *data["net_centre"][k, b])
            y, perm = tensor(data["net_y"][k, b]), tensor(data["net_perm"][k, b])
            self.params, self.velocity, loss, _ = self.step(self.params, self.velocity, x, y, perm, mix)
            losses.append(loss)
        return torch.stack(losses).mean()


def test_one_outer_iteration() -> None:
    outer = Outer()
    data = outer.data
    for k in range(data["match_losses"].shape[0]):
        x, v = outer.sgd.before(outer.x, outer.v)
        grads = torch.zeros_like(x)
        for c in range(outer.classes):
            rows = outer.rows(c)
            assert error(x[rows], data["x_before_each_class_step"][k, c][rows]) < 1e-8
            loss, grads[rows] = outer.match(k, c, x[rows])
            assert error(loss, data["match_losses"][k, c]) < 1e-8
        outer.x, outer.v = outer.sgd.after(x, v, grads)
        assert error(outer.train(k), data["net_mean_losses"][k]) < 1e-8
    assert error(outer.x, data["x_final"]) < 1e-8
    golden = weights(data, "p_final_")
    assert set(golden) == set(outer.params)
    for name, value in golden.items():
        assert error(outer.params[name], value) < 1e-8, name
