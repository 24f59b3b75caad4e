"""Both loaders read what the pure function says, from any row, for any owner."""

import itertools
import sys
import threading

import numpy as np
import pytest

from gptjax import command
from gptjax.data import pipeline
from gptjax.data import rows as rows_lib

T, BATCH = 8, 6


@pytest.fixture
def rows(tmp_path):
    """17 rows over 3 shards: epochs begin in the middle of batches."""
    tokens = np.random.default_rng(0).integers(0, 20, 16 * T + 5).astype('<u2')
    tokens[0] = 0
    files = []
    for number, part in enumerate(np.split(tokens, [50, 90])):
        files.append(tmp_path / f'{number}.tokens')
        part.tofile(files[-1])
    return rows_lib.TextRows(rows_lib.Stream(files, [50, 40, 43], np.dtype('<u2')), T)


def take(rows, count, loader, start_row=0, owned=None):
    made = pipeline.batches(
        rows,
        seed=5,
        batch_size=BATCH,
        start_row=start_row,
        owned=owned,
        loader=loader,
    )
    found = list(itertools.islice(made, count))
    made.close()
    return found


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other) == list(rows_lib.DTYPES)
        for key in rows_lib.DTYPES:
            assert one[key].dtype == other[key].dtype
            np.testing.assert_array_equal(one[key], other[key])


def test_without_tensorflow_the_other_loader_is_named(rows, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorflow', None)
    options = dict(seed=5, batch_size=BATCH, start_row=0, owned=None)
    with pytest.raises(command.UserError, match=r'data\.loader=threads'):
        pipeline.batches(rows, loader='tfdata', **options)
    assert len(take(rows, 1, 'threads')) == 1


@pytest.mark.parametrize('loader', ['tfdata', 'threads'])
@pytest.mark.parametrize('start_row', [0, 4, 2**33 + 1])
def test_loaders_agree_with_the_pure_batch(rows, loader, start_row):
    expected = [
        pipeline.batch(rows, seed=5, batch_size=BATCH, row=start_row + b * BATCH)
        for b in range(7)
    ]
    assert_same(take(rows, 7, loader, start_row), expected)


@pytest.mark.parametrize('loader', ['tfdata', 'threads'])
def test_beginning_in_the_middle_goes_on(rows, loader):
    whole = take(rows, 6, loader, start_row=3)
    assert_same(take(rows, 4, loader, start_row=3 + 2 * BATCH), whole[2:])


@pytest.mark.parametrize('loader', ['tfdata', 'threads'])
@pytest.mark.parametrize('split', [[[0, 1, 2], [3, 4, 5]], [[5], [0, 2, 4, 1], [3]]])
def test_owned_parts_make_up_the_batch(rows, loader, split):
    parts = [take(rows, 3, loader, owned=owned) for owned in split]
    for number, whole in enumerate(take(rows, 3, loader)):
        for key in rows_lib.DTYPES:
            joined = np.empty_like(whole[key])
            for owned, part in zip(split, parts, strict=True):
                joined[owned] = part[number][key]
            np.testing.assert_array_equal(joined, whole[key])


def test_an_epoch_reads_every_row_once_and_the_next_in_another_order(rows):
    n = len(rows)
    first, second = (
        pipeline.batch(rows, seed=1, batch_size=n, row=epoch * n)['tokens']
        for epoch in (0, 1)
    )
    everything = rows.read(np.arange(n))['tokens']
    for epoch in (first, second):
        assert sorted(epoch.tolist()) == sorted(everything.tolist())
    assert (first != second).any()
    assert (first != everything).any()


def test_closing_ends_the_threads(rows):
    before = threading.active_count()
    take(rows, 2, 'threads')
    assert threading.active_count() == before


def test_an_error_while_reading_is_raised(rows):
    class Broken:
        dtypes = rows_lib.DTYPES

        def __len__(self):
            return len(rows)

        def read(self, indices, epochs=None):
            raise OSError('the disk is gone')

    for loader, kind in (('threads', OSError), ('tfdata', Exception)):
        with pytest.raises(kind, match='the disk is gone'):
            take(Broken(), 1, loader)


def test_an_unknown_loader_is_refused(rows):
    with pytest.raises(command.UserError, match='did you mean'):
        take(rows, 1, 'thread')
