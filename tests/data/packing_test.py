"""First-fit-decreasing against the definition, written out slowly."""

import itertools

import numpy as np
import pytest

from gptjax.data import packing


def slow(lengths, T):
    rows = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        for row in rows:
            if sum(lengths[j] for j in row) + lengths[i] <= T:
                row.append(i)
                break
        else:
            rows.append([i])
    return rows


@pytest.mark.parametrize('n', [0, 1, 2, 3, 7, 64, 65, 300])
@pytest.mark.parametrize('T', [1, 10, 64])
def test_agrees_with_the_definition(n, T):
    lengths = np.random.default_rng(n).integers(1, T + 1, n)
    order, bounds = packing.first_fit_decreasing(lengths, T)
    rows = [order[a:b].tolist() for a, b in itertools.pairwise(bounds)]
    assert rows == slow(lengths.tolist(), T)


def test_ranges():
    found = packing.ranges(np.array([5, 0, 9, 2]), np.array([2, 0, 3, 1]))
    np.testing.assert_array_equal(found, [5, 6, 9, 10, 11, 2])
