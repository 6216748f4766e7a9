"""Two samples, of our code and of a peer's: are they of one distribution?"""

import numpy as np
from numpy.typing import ArrayLike


def distance(ours: ArrayLike, theirs: ArrayLike) -> float:
    """Returns the largest gap between the two empirical distribution functions."""
    a, b = np.sort(np.ravel(ours)), np.sort(np.ravel(theirs))
    places = np.concatenate([a, b])
    parts = [np.searchsorted(x, places, side="right") / len(x) for x in (a, b)]
    return float(np.abs(parts[0] - parts[1]).max())


def assert_same(what: str, ours: ArrayLike, theirs: ArrayLike) -> None:
    """Prints the distance, and fails where equal distributions exceed it once in a thousand times.

    Kolmogorov's and Smirnov's test; of whole numbers, which have ties, it is a cautious one.
    """
    a, b = np.ravel(ours), np.ravel(theirs)
    bound = 1.95 * np.sqrt(1 / len(a) + 1 / len(b))
    found = distance(a, b)
    print(
        f"{what}: means {a.mean():.4g} and {b.mean():.4g} of {len(a)} and {len(b)} draws, "
        f"distance {found:.4f} (of one distribution up to {bound:.4f})"
    )
    assert found < bound, f"{what}: distance {found:.4f}, expected less than {bound:.4f}"
