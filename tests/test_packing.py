"""Packing, the image optimiser, and the network's step: properties and errors (values: test_parity)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddlib.sets.optim import ImageSGD
from ddlib.sets.packing import bound_plan, decode, decode_labels, decoded_count, pack, stitch, to_bytes, to_shares
from ddlib.train.losses import cross_entropy, mixed_cross_entropy
from ddlib.train.schedules import multistep_factor
from ddlib.train.sgd import sgd_step, zero_velocity


def test_decode_gives_back_flat_images_in_the_order_packed() -> None:
    images = torch.arange(1.0, 9.0)[:, None, None, None].expand(8, 1, 8, 12)
    stored = pack(images, 2, 2)
    assert stored.shape == (2, 1, 8, 12)
    assert torch.equal(decode(stored, 2), images)
    assert torch.equal(decode(stored, 1), stored)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_decode_under_vmap_equals_a_loop(factor: int) -> None:
    x = torch.rand(4, 2, 3, 8, 8, dtype=torch.float64)
    loop = torch.stack([decode(rows, factor) for rows in x])
    torch.testing.assert_close(torch.func.vmap(lambda rows: decode(rows, factor))(x), loop, rtol=0, atol=1e-12)


def test_soft_labels_are_decoded_like_hard_ones() -> None:
    soft = torch.eye(3)
    for kind, limit in (("single", None), ("multi", None), ("bound", 9)):
        hard = decode_labels(torch.arange(3), 2, kind, limit)
        assert torch.equal(decode_labels(soft, 2, kind, limit).argmax(1), hard)
        assert len(hard) == decoded_count(3, 2, kind, limit)


@pytest.mark.parametrize("n", [1, 3, 7, 20])
@pytest.mark.parametrize("limit", [20, 33, 128])
def test_bound_uses_every_image_and_stays_below_the_limit(n: int, limit: int) -> None:
    plan = bound_plan(n, 3, limit)
    assert sum(images for _, images in plan) == n
    assert n <= sum(images * factor**2 for factor, images in plan) <= limit
    assert [factor for factor, _ in plan] == sorted({factor for factor, _ in plan}, reverse=True)


def test_what_cannot_be_packed_or_decoded_says_why() -> None:
    x = torch.zeros(3, 1, 8, 8)
    with pytest.raises(ValueError, match="bound of 2 is below the 3 images"):
        decode(x, 2, "bound", 2)
    with pytest.raises(ValueError, match="needs a limit"):
        decode(x, 2, "bound")
    with pytest.raises(ValueError, match=r"'singel'.*did you mean 'single'"):
        decode(x, 2, "singel")
    with pytest.raises(ValueError, match="at least 1, not 0"):
        decode(x, 0)
    with pytest.raises(ValueError, match="hold 8 images, but 3 were given"):
        pack(x, 2, 2)
    with pytest.raises(ValueError, match="8 px cannot hold 9 x 9"):
        pack(torch.zeros(81, 1, 8, 8), 1, 9)
    with pytest.raises(ValueError, match="no resizing is called"):
        pack(x, 3, 1, "cubic")


def rounds(sgd: ImageSGD, x: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
    v = torch.zeros_like(x)
    for g in grads:
        x, v = sgd.after(*sgd.before(x, v), g)
    return x, v


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_image_sgd_equals_torchs_optimiser_stepped_once_a_class(momentum: float) -> None:
    generator = torch.Generator().manual_seed(0)
    positions = torch.tensor([2, 0, 1, 0, 2])
    x = torch.randn(5, 2, 3, dtype=torch.float64, generator=generator)
    grads = torch.randn(4, 5, 2, 3, dtype=torch.float64, generator=generator)
    moving = x.clone()
    plain = torch.optim.SGD([moving], lr=0.1, momentum=momentum)
    for g in grads:
        for c in range(3):
            moving.grad = g * (positions == c)[:, None, None]
            plain.step()
    ours, _ = rounds(ImageSGD(0.1, momentum, positions, 3), x, grads)
    torch.testing.assert_close(ours, moving, rtol=0, atol=1e-12)


def test_a_phase_of_the_classes_moves_as_it_does_among_all() -> None:
    generator = torch.Generator().manual_seed(1)
    x, grads = torch.randn(6, 3, generator=generator), torch.randn(3, 6, 3, generator=generator)
    positions = torch.arange(3).repeat_interleave(2)
    whole, _ = rounds(ImageSGD(0.1, 0.5, positions, 3), x, grads)
    part, _ = rounds(ImageSGD(0.1, 0.5, positions[2:4], 3), x[2:4], grads[:, 2:4])
    assert torch.equal(part, whole[2:4])


def test_ordinary_momentum() -> None:
    x, grads = torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 4, 3, dtype=torch.float64)
    moving = x.clone()
    plain = torch.optim.SGD([moving], lr=0.1, momentum=0.5)
    for g in grads:
        moving.grad = g
        plain.step()
    ours, _ = rounds(ImageSGD(0.1, 0.5, torch.arange(4), 4, sequential=False), x, grads)
    torch.testing.assert_close(ours, moving, rtol=0, atol=1e-12)


def test_impossible_image_optimisers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0 to 2.*0 to 3"):
        ImageSGD(0.1, 0.5, torch.arange(4), 3)
    with pytest.raises(ValueError, match=r"not 1\.0"):
        ImageSGD(0.1, 1.0, torch.arange(4), 4)


@pytest.mark.parametrize("momentum, weight_decay", [(0.9, 5e-4), (0.0, 0.0)])
@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1, dtype=torch.float64)])
def test_sgd_step_equals_torchs(momentum: float, weight_decay: float, lr: float | Tensor) -> None:
    params = {name: torch.randn(3, 2, dtype=torch.float64) for name in ("a", "b")}
    kept = {name: value.clone() for name, value in params.items()}
    moving = {name: value.clone() for name, value in params.items()}
    plain = torch.optim.SGD(list(moving.values()), lr=0.1, momentum=momentum, weight_decay=weight_decay)
    ours, velocity = params, zero_velocity(params)
    for _ in range(4):
        grads = {name: torch.randn(3, 2, dtype=torch.float64) for name in ("b", "a")}
        for name, value in moving.items():
            value.grad = grads[name]
        plain.step()
        ours, velocity = sgd_step(ours, velocity, grads, lr, momentum, weight_decay)
    for name, value in moving.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-12)
        assert torch.equal(params[name], kept[name])


@pytest.mark.parametrize("epochs", [1, 7, 300, 1000])
def test_multistep_equals_torchs_schedule(epochs: int) -> None:
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    plain = torch.optim.lr_scheduler.MultiStepLR(optimiser, [2 * epochs // 3, 5 * epochs // 6], gamma=0.2)
    for epoch in range(epochs):
        # Of several milestones in one epoch torch counts all, as we do; before epoch 0 it has not stepped.
        expected = plain.get_last_lr()[0] if epoch else 0.2 ** (2 * epochs // 3 == 0) * 0.2 ** (5 * epochs // 6 == 0)
        assert abs(multistep_factor(epoch, epochs) - expected) < 1e-12
        optimiser.step()
        plain.step()


def test_losses_equal_torchs() -> None:
    logits, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 3, 1])
    reference = torch.nn.functional.cross_entropy
    torch.testing.assert_close(cross_entropy(logits, y), reference(logits, y))
    ratio = torch.tensor(0.3, dtype=torch.float64)
    expected = 0.3 * reference(logits, y) + 0.7 * reference(logits, y.flip(0))
    torch.testing.assert_close(mixed_cross_entropy(logits, y, y.flip(0), ratio), expected)
    assert cross_entropy(logits.bfloat16(), y).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_stitched_cells_of_a_side_that_does_not_divide(dtype: torch.dtype) -> None:
    patches = torch.arange(8, dtype=dtype)[:, None, None, None].expand(8, 3, 5, 5)
    made = stitch(patches, 2, 2, 11)
    assert made.dtype == dtype
    assert made.shape == (2, 3, 11, 11)
    for i in range(2):
        cells = made[i, 0, :6, :6], made[i, 0, :6, 6:], made[i, 0, 6:, :6], made[i, 0, 6:, 6:]
        assert [set(cell.flatten().tolist()) for cell in cells] == [{2 * k + i} for k in range(4)]
    with pytest.raises(ValueError, match="3 images of 2 x 2 cells take 12 patches, 8 were given"):
        stitch(patches, 3, 2, 11)
    with pytest.raises(ValueError, match="1 px cannot hold 2 x 2"):
        stitch(patches, 2, 2, 1)


def test_bytes_and_shares() -> None:
    every = torch.arange(256)
    assert torch.equal(to_bytes(every / 255), every.to(torch.uint8)), "whole numbers stay"
    assert to_bytes(torch.tensor([-0.1, 0.999, 1.2, 100.6 / 255])).tolist() == [0, 254, 255, 100]
    assert torch.equal(to_shares(every.to(torch.uint8)), every / 255)
    x = torch.rand(3)
    assert to_shares(x) is x
