"""Random numbers are functions of where they are used; batches are known without the ones before."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ddlib.streams import Batches, Streams


def test_the_same_place_gives_the_same_numbers_whatever_was_drawn_before() -> None:
    first = Streams(1, "a").at("x", 2).random(5)
    Streams(1, "a").at("x", 3).random(50)
    np.random.default_rng(0).random(3)
    assert np.array_equal(Streams(1, "a").at("x", 2).random(5), first)


def test_another_place_gives_other_numbers() -> None:
    places = [(seed, scope, purpose, *index) for seed in (0, 1, 10) for scope in ("a", "b") for purpose in ("x", "y")
              for index in ((), (0,), (1,), (10,), (1, 0), (0, 1), (-1,))]  # fmt: skip
    drawn = [tuple(Streams(seed, scope).at(purpose, *index).random(2)) for seed, scope, purpose, *index in places]
    assert len(set(drawn)) == len(places)
    assert len({Streams(0, "a").integer("x", index) for index in range(100)}) == 100
    assert all(0 <= Streams(seed, "a").integer("x") < 2**63 for seed in range(20))


def test_numbers_are_the_same_on_every_machine() -> None:
    assert Streams(3, "golden").at("a", 1, 2).random() == 0.8542941102580981


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("count, size", [(10, 4), (8, 4), (3, 7), (1, 1), (7, 1)])
def test_every_pass_is_a_permutation_in_batches(count: int, size: int, drop_last: bool) -> None:
    batches = Batches(Streams(0, "t"), "b", count, size, drop_last)
    taken = min(size, count)
    assert batches.per_pass == (count // taken if drop_last else -(-count // taken))
    whole = batches.batches(0, 3 * batches.per_pass)
    for turn in range(3):
        seen = np.concatenate(whole[turn * batches.per_pass : (turn + 1) * batches.per_pass]).tolist()
        assert len(seen) == len(set(seen)) == (batches.per_pass * taken if drop_last else count)
        assert set(seen) <= set(range(count))
    assert all(len(batch) == taken for batch in whole) or not drop_last
    for number, batch in enumerate(whole):
        assert np.array_equal(batches.batch(number), batch)
    if count > 3:
        passes = {
            tuple(np.concatenate(whole[at : at + batches.per_pass])) for at in range(0, len(whole), batches.per_pass)
        }
        assert len(passes) == 3, "each pass is another permutation"


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("first", [0, 1, 2, 7])
@pytest.mark.parametrize("samples", [0, 1, 4, 5, 11, 40])
def test_until_counts_the_batches_that_hold_so_many(first: int, samples: int, drop_last: bool) -> None:
    batches = Batches(Streams(0, "t"), "b", 10, 4, drop_last)
    lengths = (len(batches.batch(number)) for number in itertools.count(first))
    held, many = 0, 0
    while held < samples:
        held, many = held + next(lengths), many + 1
    assert batches.until(first, samples) == many


def test_loaders_of_other_purposes_and_indices_differ() -> None:
    made = [Batches(Streams(0, "t"), *rest) for rest in (("a", 50, 50), ("b", 50, 50), ("a", 50, 50, False, (1,)))]
    assert len({tuple(one.batch(0)) for one in made}) == 3


def test_errors_name_the_numbers() -> None:
    with pytest.raises(ValueError, match="non-negative integer, not -1"):
        Streams(-1, "a")
    with pytest.raises(ValueError, match="at least 1, not 0 and 4"):
        Batches(Streams(0, "a"), "b", 0, 4)
    with pytest.raises(ValueError, match="at least 1, not 4 and 0"):
        Batches(Streams(0, "a"), "b", 4, 0)
