"""Random crops, their resizing, shuffled patches, colour: against torchvision's, and by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from parity import count, load, tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as official
from torchvision.transforms import transforms as module

from ddlib.augment.crops import (
    SQUARE,
    TRIES,
    boxes_of,
    crop_boxes,
    jitter,
    lighting,
    resize_weights,
    resized_crop,
    shuffle,
    shuffled_side,
)


class Injected:
    """torch as torchvision's sampler sees it: in float64, its random numbers those of one row of `u`."""

    def __init__(self, u: np.ndarray) -> None:
        self.areas, self.shapes, self.places = iter(u[:TRIES]), iter(u[TRIES : 2 * TRIES]), iter(u[-2:])
        self.turn = 0

    def empty(self, _: int) -> Any:
        self.turn += 1
        drawn = next(self.areas if self.turn % 2 else self.shapes)
        return SimpleNamespace(uniform_=lambda low, high: torch.as_tensor(low + drawn * (high - low)).double())

    def randint(self, _: int, high: int, size: Any) -> Any:
        return torch.tensor([int(next(self.places) * high)])

    def tensor(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), SQUARE, (0.2, 0.3), (2.0, 3.0)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0), (1.0, 1.0), (0.9, 1.0)])
@pytest.mark.parametrize("sides", [(32, 32), (50, 31), (7, 90), (1, 1)])
def test_boxes_are_those_of_torchvision(
    sides: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    u = np.random.default_rng(0).random((40, 2 * TRIES + 2))
    ours = boxes_of(u, *sides, scale, ratio)
    picture = torch.zeros(3, *sides)
    for row, box in zip(u, ours, strict=True):
        monkeypatch.setattr(module, "torch", Injected(row))
        assert module.RandomResizedCrop.get_params(picture, list(scale), list(ratio)) == tuple(box)
        monkeypatch.undo()


def test_images_of_different_sizes_in_one_call() -> None:
    height, width = np.array([40, 9, 200]), np.array([20, 90, 3])
    boxes = crop_boxes(np.random.default_rng(1), 3, height, width)
    assert (boxes >= [0, 0, 1, 1]).all()
    assert (boxes[:, 0] + boxes[:, 2] <= height).all()
    assert (boxes[:, 1] + boxes[:, 3] <= width).all()


def test_a_whole_image_where_the_scale_is_one() -> None:
    """CIFAR's and Tiny-ImageNet's students see no crop at all (factor 1)."""
    boxes = crop_boxes(np.random.default_rng(2), 2000, 64, 64, (1.0, 1.0))
    assert (boxes == [0, 0, 64, 64]).all()


def test_boxes_are_spread_as_asked() -> None:
    boxes = crop_boxes(np.random.default_rng(3), 20_000, 256, 256, (0.25, 0.5))
    share = boxes[:, 2] * boxes[:, 3] / 256**2
    assert abs(share.mean() - 0.375) < 0.01
    assert 0.24 < share.min() < 0.26
    assert abs(np.log(boxes[:, 3] / boxes[:, 2]).mean()) < 0.005
    assert abs((boxes[:, 0] / (256 - boxes[:, 2])).mean() - 0.5) < 0.01


@pytest.mark.parametrize("scale, ratio", [((0.0, 1.0), SQUARE), ((0.5, 1.2), SQUARE), ((0.5, 1.0), (0.0, 1.0))])
def test_impossible_crops_are_refused(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="crops need"):
        crop_boxes(np.random.default_rng(0), 2, 8, 8, scale, ratio)
    with pytest.raises(ValueError, match="of 0 x 8 px"):
        crop_boxes(np.random.default_rng(0), 2, 0, 8)


@pytest.mark.parametrize("size", [16, 48, 33, 1])
def test_resized_crops_are_those_of_torchvision(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(60, 3, 37, 52, generator=generator)
    boxes = torch.from_numpy(crop_boxes(np.random.default_rng(4), 60, 37, 52))
    ours = resized_crop(x, boxes, size)
    for image, box, out in zip(x, boxes.tolist(), ours, strict=True):
        theirs = official.resized_crop(image, *box, [size, size], InterpolationMode.BILINEAR, antialias=True)
        assert (out - theirs).abs().max() < 1e-5


def test_resized_crops_of_whole_images_are_the_images() -> None:
    x = torch.rand(4, 3, 20, 30)
    whole = torch.tensor([0, 0, 20, 30]).expand(4, 4)
    assert torch.equal(resized_crop(x, whole, (20, 30)), x)


def test_resizing_compiles_to_a_linear_map_whose_rows_sum_to_one() -> None:
    weights = resize_weights(torch.tensor([0, 3]), torch.tensor([10, 5]), 10, 7, torch.float64)
    assert weights.shape == (2, 7, 10)
    assert torch.allclose(weights.sum(2), torch.ones(2, 7, dtype=torch.float64))
    assert not weights[1, :, :3].any()
    assert not weights[1, :, 8:].any()


@pytest.mark.parametrize("case", count("rded_train_parts", "n_shuffle"))
def test_shuffled_patches(case: int) -> None:
    data = load("rded_train_parts")
    columns, rows = (tensor(data[f"shuffle{case}_perm_{axis}"])[None] for axis in ("columns", "rows"))
    x, out = (tensor(data[f"shuffle{case}_{end}"])[None] for end in ("x", "out"))
    assert torch.equal(shuffle(x, columns, rows), out)
    grid = int(data[f"shuffle{case}_factor"])
    assert [shuffled_side(side, grid) for side in x.shape[2:]] == list(out.shape[2:])


def test_each_image_is_shuffled_its_own_way() -> None:
    x = torch.arange(32.0).reshape(2, 1, 4, 4)
    columns, rows = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0, 1], [0, 1]])
    out = shuffle(x, columns, rows)
    assert torch.equal(out[0], x[0])
    assert out[1, 0, 0].tolist() == [18.0, 19.0, 16.0, 17.0]
    with pytest.raises(ValueError, match="4 px cannot be cut into 5"):
        shuffled_side(4, 5)


def test_jitter_in_every_order() -> None:
    x = torch.rand(2, 3, 5, 5, dtype=torch.float64)
    amounts = torch.tensor([[0.3, -0.2, 0.1], [-0.4, 0.4, 0.25]], dtype=torch.float64)
    order = torch.tensor([[2, 0, 1], [1, 2, 0]])

    def grey(image: torch.Tensor) -> torch.Tensor:
        return (0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]).expand(3, 5, 5)

    for image, amount, kinds, out in zip(x, amounts, order, jitter(x, amounts, order), strict=True):
        for kind in kinds.tolist():
            aims = (torch.zeros_like(image), grey(image).mean().expand(3, 5, 5), grey(image))
            image = torch.lerp(image, aims[kind], amount[kind])
        assert torch.allclose(out, image, atol=1e-14)


def test_lighting_moves_all_pixels_of_an_image_alike() -> None:
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    moved = lighting(x, torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])) - x
    assert not moved[0].any()
    assert torch.allclose(moved[1, :, 2, 3], torch.tensor([-0.5675, -0.5808, -0.5836]).double() * 0.2175, atol=1e-8)
    assert torch.allclose(moved[1], moved[1, :, :1, :1].expand(3, 4, 4))
