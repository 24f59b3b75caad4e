"""First-fit and best-fit-decreasing against their definitions, written out slowly."""

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


def slow_best_fit(lengths, T):
    """Into the fullest row that takes it; of equal ones, the one left alone longest."""
    rows, rooms, since = [], [], []
    ordered = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for clock, i in enumerate(ordered):
        fits = [r for r, room in enumerate(rooms) if room >= lengths[i]]
        row = min(fits, key=lambda r: (rooms[r], since[r]), default=len(rows))
        if row == len(rows):
            rows.append([])
            rooms.append(T)
            since.append(clock)
        rows[row].append(i)
        rooms[row] -= lengths[i]
        since[row] = clock
    return rows


@pytest.mark.parametrize('n', [0, 1, 2, 3, 7, 64, 65, 300])
@pytest.mark.parametrize('T', [1, 10, 64])
@pytest.mark.parametrize('longest', [1.0, 0.3])
def test_best_fit_agrees_with_the_definition(n, T, longest):
    lengths = np.random.default_rng(n).integers(1, max(1, int(T * longest)) + 1, n)
    order, bounds = packing.best_fit_decreasing(lengths, T)
    rows = [order[a:b].tolist() for a, b in itertools.pairwise(bounds)]
    assert rows == slow_best_fit(lengths.tolist(), T)


def test_best_fit_fills_rows():
    """Lengths as of web pages: Ding et al. (2024) leave 0.01 % of 2,048 empty."""
    draw = np.random.default_rng(0).lognormal(6, 1.2, 100_000)
    lengths = np.clip(draw.astype(int), 1, 2048)
    _, bounds = packing.best_fit_decreasing(lengths, 2048)
    assert lengths.sum() / (2048 * (len(bounds) - 1)) > 0.999


def test_ranges():
    found = packing.ranges(np.array([5, 0, 9, 2]), np.array([2, 0, 3, 1]))
    np.testing.assert_array_equal(found, [5, 6, 9, 10, 11, 2])
