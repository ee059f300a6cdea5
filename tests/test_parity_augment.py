"""Augmentation against golden numbers of both dialects' reference code; every draw is injected."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from parity import Arrays, colour, count, error, load, pair, tensor
from torch import Tensor

from ddlib.augment import ops
from ddlib.augment.siamese import Augmentation

Operation = Callable[[Tensor, np.ndarray], Tensor]

# name in the golden file -> (name of the drawn array, operation)
IDC: dict[str, tuple[str, Operation]] = {
    "brightness": ("u", lambda x, u: ops.brightness(x, tensor(u))),
    "saturation": ("u", lambda x, u: ops.saturation(x, tensor(u))),
    "contrast": ("u", lambda x, u: ops.contrast(x, tensor(u))),
    "flip": ("u", lambda x, u: ops.flip(x, tensor(u))),
    "crop": ("shift", lambda x, u: ops.crop(x, tensor(u[..., 0]), tensor(u[..., 1]))),
    "cutout": ("centre", lambda x, u: ops.cutout(x, tensor(u[..., 0]), tensor(u[..., 1]))),
    "scale": ("u", lambda x, u: ops.scale(x, tensor(u[..., 0]), tensor(u[..., 1]), align=False)),
    "rotate": ("u", lambda x, u: ops.rotate(x, tensor(u), align=False)),
}


def cases(data: Arrays, prefix: str, name: str, drawn: str) -> list[str]:
    """`img0_b_crop0`, `img0_s_crop`, ...: what is stored for one operation on one image stack."""
    keys = [key.removesuffix(f"_{drawn}") for key in data if key.endswith(f"_{drawn}")]
    wanted = (f"{prefix}_b_{name}", f"{prefix}_s_{name}")
    return [key for key in keys if key.startswith(wanted)]


@pytest.mark.parametrize("name", IDC)
@pytest.mark.parametrize("image", count("idc_aug_ops", "n_img"))
def test_idc_operation(image: int, name: str) -> None:
    data = load("idc_aug_ops")
    drawn, operation = IDC[name]
    found = cases(data, f"img{image}", name, drawn)
    assert len(found) >= 2
    for case in found:
        out = operation(tensor(data[f"img{image}_x"]), data[f"{case}_{drawn}"])
        assert error(out, data[f"{case}_out"]) < (2e-5 if name in ("scale", "rotate") else 1e-10), case


@pytest.mark.parametrize("image", count("idc_aug_ops", "n_img"))
def test_idc_limits(image: int) -> None:
    data = load("idc_aug_ops")
    side = data[f"img{image}_x"].shape[2]
    assert ops.crop_limit(side) == data[f"img{image}_crop_max_shift"]
    assert ops.cutout_side(side) == data[f"img{image}_cutout_side"]


def normalised(data: Arrays) -> tuple[Tensor, Tensor]:
    x = tensor(data["x"]).requires_grad_()
    return x, (x - tensor(data["mean"])[:, None, None]) / tensor(data["std"])[:, None, None]


def test_idc_matching_pipeline() -> None:
    data = load("idc_aug_pipeline")
    x, inputs = normalised(data)
    draws = {
        **colour(data["match_u_brightness_saturation_contrast"]),
        **pair(data["match_crop_shift"], "crop_rows", "crop_cols"),
        **pair(data["match_cutout_centre"], "cutout_rows", "cutout_cols"),
    }
    out = Augmentation("color_crop_cutout").apply(inputs, draws, "crop")
    assert error(out, data["match_out"]) < 1e-10
    (out * tensor(data["cotangent"])).sum().backward()
    assert x.grad is not None
    assert error(x.grad, data["match_grad_x"]) < 1e-10


def test_idc_network_pipeline() -> None:
    data = load("idc_aug_pipeline")
    draws = {
        **colour(data["net_u_brightness_saturation_contrast"]),
        **pair(data["net_crop_shift"], "crop_rows", "crop_cols"),
    }
    out = Augmentation("color_crop").apply(normalised(data)[1], draws, "crop")
    assert error(out, data["net_out"]) < 1e-10


@pytest.mark.parametrize("choice", ["crop", "scale", "rotate"])
def test_idc_evaluation_pipeline(choice: str) -> None:
    data = load("idc_aug_pipeline")
    draws = {
        **colour(data[f"eval_{choice}_u_brightness_saturation_contrast"]),
        "flip": tensor(data[f"eval_{choice}_u_flip"]),
    }
    if choice == "crop":
        draws |= pair(data["eval_crop_shift"], "crop_rows", "crop_cols")
    elif choice == "scale":
        draws |= pair(data["eval_scale_u"], "scale_x", "scale_y")
    else:
        draws["angle"] = tensor(data["eval_rotate_u"])
    out = Augmentation("color_crop_flip_scale_rotate").apply(normalised(data)[1], draws, choice)
    assert error(out, data[f"eval_{choice}_out"]) < (1e-10 if choice == "crop" else 2e-5)


@pytest.mark.parametrize("group", ["color", "flip", "crop", "cutout", "scale", "rotate"])
@pytest.mark.parametrize("image", count("mtt_dsa", "n_img"))
def test_mtt_group(image: int, group: str) -> None:
    data = load("mtt_dsa")
    case = f"img{image}_{group}"
    draws = {
        "color": lambda: colour(data[f"{case}_u_brightness_saturation_contrast"]),
        "flip": lambda: {"flip": tensor(data[f"{case}_u"])},
        "crop": lambda: pair(data[f"{case}_shift"], "crop_rows", "crop_cols"),
        "cutout": lambda: pair(data[f"{case}_centre"], "cutout_rows", "cutout_cols"),
        "scale": lambda: pair(data[f"{case}_u"], "scale_x", "scale_y"),
        "rotate": lambda: {"angle": tensor(data[f"{case}_u"])},
    }[group]()
    x = tensor(data[f"img{image}_x"]).requires_grad_()
    out = Augmentation("color_crop_cutout_flip_scale_rotate", "mtt").apply(x, draws, group)
    (out * tensor(data[f"img{image}_cotangent"])).sum().backward()
    tolerance = 3e-5 if group in ("scale", "rotate") else 1e-10
    assert error(out, data[f"{case}_out"]) < tolerance
    assert x.grad is not None
    assert error(x.grad, data[f"{case}_grad_x"]) < tolerance
    assert torch.equal(x, tensor(data[f"img{image}_x"]))
