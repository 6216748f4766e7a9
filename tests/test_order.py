"""The order of the images is Grain's, computed faster."""

import numpy as np
import pytest
from grain.experimental import index_shuffle

from s2mlp_jax.data import order


@pytest.mark.parametrize("length", [1, 2, 3, 1437, 50_000, 65_536, 65_537, 65_538, 2**18 + 1])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_an_epoch_is_in_grain_s_order(length: int, seed: int) -> None:
    """At its ends and at random places; widths of 8, 9 and 10 bits; where Grain repeats itself."""
    found = order.epoch_order(length, seed)
    places = np.random.RandomState(0).randint(0, length, 20)
    places[:2] = 0, length - 1
    expected = [index_shuffle(int(i), length - 1, seed, order._ROUNDS) for i in places]
    np.testing.assert_array_equal(found[places], expected)
    repeats = length > 2**16 and np.log2(length - 1) % 2 == 0
    assert len(np.unique(found)) == length - repeats


def test_large_sets_go_on_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the borders of epochs, by one position at a time as by whole epochs."""
    places = np.array([5, 0, 96, 97, 98, 250, 1000])
    whole = order.record_order(97, seed=3)(places)
    monkeypatch.setattr(order, "_WHOLE_EPOCHS_UP_TO", 0)
    np.testing.assert_array_equal(order.record_order(97, seed=3)(places), whole)
