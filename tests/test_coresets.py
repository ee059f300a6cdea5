"""Herding and k-means: against plain loops, in stages, and what they refuse."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small import digits, observe, problem, recipe

from ddlib.methods.driver import condense
from ddlib.sets.centres import herding, kmeans


def test_herding_takes_what_brings_the_mean_closest() -> None:
    x = np.random.default_rng(0).random((30, 5))
    order: list[int] = []
    for taken in range(1, 9):
        away = [np.inf if i in order else np.linalg.norm(x.mean(0) - x[[*order, i]].sum(0) / taken) for i in range(30)]
        order.append(int(np.argmin(away)))
    assert herding(x, [8])[0].tolist() == order
    assert [part.tolist() for part in herding(x, [3, 5])] == [order[:3], order[3:]]


def test_kmeans_takes_the_nearest_to_centres_large_clusters_first() -> None:
    rng = np.random.default_rng(0)
    centres, sizes = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]), (5, 20, 10)
    x = np.concatenate([c + rng.normal(0, 0.1, (n, 2)) for c, n in zip(centres, sizes, strict=True)])
    clusters = np.repeat([0, 1, 2], sizes)
    first, second = kmeans(x, [3, 3], 0)
    assert clusters[first].tolist() == [1, 2, 0]
    for row in first:
        own = x[clusters == clusters[row]]
        assert np.linalg.norm(x[row] - own.mean(0)) == pytest.approx(np.linalg.norm(own - own.mean(0), axis=1).min())
    assert not set(first) & set(second)
    assert clusters[second].tolist() == [1, 2, 0]
    assert kmeans(x[:4], [4], 0)[0].tolist() != []
    assert sorted(kmeans(x[:4], [2, 2], 0)[0].tolist() + kmeans(x[:4], [2, 2], 0)[1].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("method", ["herding", "kmeans"])
def test_real_images_of_their_class_by_pixels_or_by_an_observer(method: str) -> None:
    data = digits()
    by_pixels = condense(recipe(method), problem()).images
    asked = dataclasses.replace(problem(), observe=observe)
    by_logits = condense(recipe(method, features="observer"), asked).images
    assert not torch.equal(by_pixels, by_logits)
    for images in (by_pixels, by_logits):
        for label in range(10):
            real = data.pixels(data.of_class(label))
            assert all((real == image).flatten(1).all(1).any() for image in images[2 * label : 2 * label + 2])
    later = condense(recipe(method), problem(stage=1)).images
    assert not any((later == image).flatten(1).all(1).any() for image in by_pixels)


@pytest.mark.parametrize("method", ["herding", "kmeans"])
def test_what_they_refuse(method: str) -> None:
    with pytest.raises(ValueError, match=rf"has 12 images; {method} of ipc 4 with factor 2 in 1 stage\(s\) takes 16"):
        condense(recipe(method, factor=2), problem(ipc=4))
    with pytest.raises(ValueError, match="name the `observer`"):
        condense(recipe(method, features="observer"), problem())
