"""Augmentation: what is drawn, and properties of applying it (values: test_parity_augment)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ddlib.augment import ops
from ddlib.augment.mix import cutmix_apply, cutmix_draw
from ddlib.augment.siamese import Augmentation

FULL = "color_crop_cutout_flip_scale_rotate"
Draws = dict[str, Tensor]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tensors(draws: dict[str, np.ndarray]) -> Draws:
    return {key: torch.from_numpy(value) for key, value in draws.items()}


def images(n: int = 3, height: int = 8, width: int = 12) -> Tensor:
    return torch.randn(n, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("dialect", ["idc", "mtt"])
@pytest.mark.parametrize("many", [None, 7])
def test_draws_have_their_ranges(dialect: str, many: int | None) -> None:
    draws = Augmentation(FULL, dialect).draw(rng(), (500, 2), height=16, width=25, images=many)
    assert draws.pop("choice").shape == (500, 2)
    assert len(draws) == 3 + 2 + 2 + 1 + 2 + 1
    for key, values in draws.items():
        assert values.shape == ((500, 2) if many is None else (500, 2, 7)), key
    integers = {"crop_rows": (-2, 2), "crop_cols": (-3, 3), "cutout_rows": (0, 16), "cutout_cols": (0, 24)}
    for key, (low, high) in integers.items():
        values, counts = np.unique(draws.pop(key), return_counts=True)
        assert values.dtype == np.int64
        assert values.tolist() == list(range(low, high + 1)), key
        assert counts.max() < 2 * counts.min() + 60, key
    for key, values in draws.items():
        assert values.dtype == np.float64
        assert 0 <= values.min() < 0.02, key
        assert 0.98 < values.max() < 1, key
        assert abs(values.mean() - 0.5) < 0.04, key


def test_choices() -> None:
    assert Augmentation("color_crop_cutout").choices == ("crop",)
    assert Augmentation("color_crop_flip_scale_rotate").choices == ("crop", "scale", "rotate")
    assert Augmentation(FULL, "mtt").choices == ("color", "crop", "cutout", "flip", "scale", "rotate")
    assert Augmentation("color_cutout").choices == ()
    choice = Augmentation("color_crop_flip_scale_rotate").draw(rng(), (3000,), height=8, width=8)["choice"]
    assert np.bincount(choice).min() > 900
    assert np.bincount(choice).size == 3


def test_only_what_is_needed_is_drawn_and_the_same_draws_repeat() -> None:
    augmentation = Augmentation("color_cutout")
    draws = augmentation.draw(rng(), (4,), height=8, width=8)
    assert set(draws) == {"brightness", "saturation", "contrast", "cutout_rows", "cutout_cols"}
    again = augmentation.draw(rng(), (4,), height=8, width=8)
    other = augmentation.draw(rng(1), (4,), height=8, width=8)
    assert all(np.array_equal(draws[key], again[key]) for key in draws)
    assert not any(np.array_equal(draws[key], other[key]) for key in draws)
    assert Augmentation("none").draw(rng(), (4,), height=8, width=8) == {}
    assert torch.equal(Augmentation("none").apply(images(), {}, None), images())


@pytest.mark.parametrize("choice", ["crop", "scale", "rotate"])
def test_shared_draws_equal_the_same_draw_for_every_image(choice: str) -> None:
    augmentation = Augmentation(FULL)
    shared = {key: value[0] for key, value in tensors(augmentation.draw(rng(5), (1,), height=8, width=12)).items()}
    each = {key: value.expand(3) for key, value in shared.items()}
    out = augmentation.apply(images(), shared, choice)
    assert out.shape == (3, 3, 8, 12)
    assert torch.equal(out, augmentation.apply(images(), each, choice))
    assert not torch.equal(out, images())


@pytest.mark.parametrize("dialect", ["idc", "mtt"])
def test_per_image_draws_equal_one_image_at_a_time(dialect: str) -> None:
    augmentation = Augmentation(FULL, dialect)
    draws = tensors(augmentation.draw(rng(2), (), height=8, width=12, images=3))
    for choice in augmentation.choices:
        out = augmentation.apply(images(), draws, choice)
        for i in range(3):
            one = {key: value[i] for key, value in draws.items() if key != "choice"}
            torch.testing.assert_close(out[i : i + 1], augmentation.apply(images()[i : i + 1], one, choice))


@pytest.mark.parametrize("dialect", ["idc", "mtt"])
def test_vmap_over_classes_equals_a_loop_with_its_gradient(dialect: str) -> None:
    augmentation = Augmentation(FULL, dialect)
    draws = tensors(augmentation.draw(rng(3), (4,), height=8, width=12))
    draws.pop("choice")
    x = torch.stack([images(3) + c for c in range(4)])
    for choice in augmentation.choices:

        def slope(x: Tensor, draws: Draws, choice: str = choice) -> Tensor:
            return torch.func.grad(lambda x: augmentation.apply(x, draws, choice).sin().sum())(x)

        loop = [slope(x[c], {key: value[c] for key, value in draws.items()}) for c in range(4)]
        torch.testing.assert_close(torch.func.vmap(slope)(x, draws), torch.stack(loop), rtol=0, atol=1e-12)


def test_crop_of_images_that_are_not_square() -> None:
    x = images(2, 8, 20)
    draws = Augmentation("crop").draw(rng(), (300,), height=8, width=20)
    assert abs(draws["crop_rows"]).max() == 1
    assert abs(draws["crop_cols"]).max() == 3
    out = ops.crop(x, torch.tensor(1), torch.tensor(-3))
    assert torch.equal(out[:, :, :7, 3:], x[:, :, 1:, :17])
    assert not out[:, :, 7:].any()
    assert not out[:, :, :, :3].any()


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'colour'.*did you mean 'color'"):
        Augmentation("colour_crop")
    with pytest.raises(ValueError, match="twice"):
        Augmentation("crop_crop")
    with pytest.raises(ValueError, match="dialect is called 'dsa'"):
        Augmentation("crop", "dsa")
    augmentation = Augmentation("color_crop_scale")
    draws = {key: value[0] for key, value in tensors(augmentation.draw(rng(), (1,), height=8, width=12)).items()}
    for choice in (None, "rotate"):
        with pytest.raises(ValueError, match="picks one of crop, scale"):
            augmentation.apply(images(), draws, choice)


def test_cutmix_draws() -> None:
    draws = cutmix_draw(rng(), (400, 3), batch=5, height=8, width=12, probability=0.5)
    box, ratio = draws["box"], draws["ratio"]
    assert (box.shape, draws["permutation"].shape, ratio.shape) == ((400, 3, 4), (400, 3, 5), (400, 3))
    assert (np.sort(draws["permutation"], axis=-1) == np.arange(5)).all()
    assert len({tuple(row) for row in draws["permutation"].reshape(-1, 5).tolist()}) == 120
    assert (box[..., 2:] <= (8, 12)).all()
    assert (box[..., 2:] >= box[..., :2]).all()
    area = (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])
    assert np.array_equal(ratio, 1 - area / 96)
    assert 0.4 < (area > 0).mean() < 0.55
    never = cutmix_draw(rng(), (50,), batch=5, height=8, width=12, probability=0.0)
    assert not never["box"].any()
    assert (never["ratio"] == 1).all()
    with pytest.raises(ValueError, match=r"not 1\.5 and 1"):
        cutmix_draw(rng(), (1,), batch=5, height=8, width=8, probability=1.5)


def test_cutmix_keeps_the_share_it_says() -> None:
    draws = tensors(cutmix_draw(rng(1), (40,), batch=4, height=8, width=12, probability=1.0))
    x = torch.arange(4.0)[:, None, None, None].expand(4, 1, 8, 12)
    for i in range(40):
        out = cutmix_apply(x, draws["permutation"][i], draws["box"][i])
        assert set(out.unique().tolist()) <= set(range(4))
        moved = draws["permutation"][i] != torch.arange(4)
        kept = (out == x).double().mean((1, 2, 3))
        torch.testing.assert_close(kept[moved], draws["ratio"][i].expand(int(moved.sum())))
        assert (kept[~moved] == 1).all()
