"""The data of a run: its state in a few bytes, found again at once, each row once.

Caught, as tried: a source that goes on a row or a batch late; one that opens the stream
at its begin and reads on to the row; skipped rows that are read, or that take rows
behind them with them; a mixture that counts the rows of a block from its begin.
"""

import contextlib
import itertools
import json
import types

import faults
import numpy as np
import pytest
import tiny

from gptjax.data import mixture, permute
from gptjax.train import build, source, state
from gptjax.train import host as host_lib
from gptjax.train import settings as settings_lib

BATCH, SEED = 8, 5
FAR = 10_000_000  # steps
FEW, MANY = 1003, 30_000_000  # rows, of an epoch that is seen whole, and of one at FAR
INTERRUPTIONS = faults.count(50)


class Rows:
    """Rows that say their number and epoch, and remember which were read."""

    def __init__(self, count, first=0):
        self.dtypes = {'tokens': np.int32, 'epochs': np.int32}
        self.count, self.first, self.asked = count, first, []

    def __len__(self):
        return self.count

    def read(self, indices, epochs=None):
        self.asked += zip(indices.tolist(), epochs.tolist(), strict=True)
        found = {'tokens': indices + self.first, 'epochs': epochs}
        return {name: array.astype(np.int32) for name, array in found.items()}


def parts(kind, n):
    """The rows of one dataset, or of three whose weights change at step 10."""
    if kind == 'dataset':
        return [Rows(n)]
    ends = [0, n // 5, n // 2, n]
    return [Rows(b - a, a) for a, b in itertools.pairwise(ends)]


def joined(found):
    if len(found) == 1:
        return found[0]
    weights = ((0.2, 0.5), (0.3, 0.25), (0.5, 0.25))
    return mixture.Mixture(
        [
            mixture.Source(rows, 11 + i, [(0, a), (10, b)])
            for i, (rows, (a, b)) in enumerate(zip(found, weights, strict=True))
        ],
        BATCH,
    )


def opened(rows, loader, host):
    """The source of a run over these rows, with what its host saved."""
    run = object.__new__(build.Run)  # of which a source needs no more than this
    for name, value in {
        'rows': rows,
        'seed': SEED,
        'data': settings_lib.Data(BATCH, loader, path=''),
        'model': types.SimpleNamespace(sharding=tiny.sharding()),
        'loss_fn': None,
    }.items():
        object.__setattr__(run, name, value)
    return source.Dataset(run, host['row'], host['skips'])


def saved(stream, skips=()):
    """What of the host is the state of the data, as a checkpoint has it."""
    host = host_lib.Host({}, row=stream.row, skips=list(skips))
    return json.dumps({'row': host.row, 'skips': host.skips})


def following(stream):
    """(number of the row, epoch) for each row of the next batch."""
    batch, _, _ = stream.next(state.State(None, None, None, None, {}), {})
    return list(zip(batch['tokens'].tolist(), batch['epochs'].tolist(), strict=True))


def place(found, rows, epoch, number):
    """Where in the stream a row stands, from the row back."""
    n = len(found[number])
    if len(found) == 1:
        i = permute.inverse(np.array([rows]), n, permute.mix(SEED, epoch))
        return epoch * n + int(i[0])
    where = joined(found).positions(number, np.array([rows]), (FAR + 99) * BATCH, SEED)
    return int(where[epoch])


@pytest.mark.parametrize('loader', ['threads', 'tfdata'])
@pytest.mark.parametrize('kind', ['dataset', 'mixture'])
def test_step_ten_million_is_found_without_the_rows_before_it(kind, loader):
    """Each row of two batches stands where it should, seen from the row back."""
    found = parts(kind, MANY)
    stream = opened(joined(found), loader, {'row': FAR * BATCH, 'skips': []})
    with contextlib.closing(stream):
        assert len(saved(stream)) <= 64
        assert len(saved(stream, [(FAR * BATCH - 16, FAR * BATCH + 8)])) <= 64
        read = following(stream) + following(stream)
    for at, (row, epoch) in enumerate(read):
        number = sum(row >= one.first for one in found) - 1
        local = row - found[number].first
        assert place(found, local, epoch, number) == FAR * BATCH + at
    asked = [
        place(found, row, epoch, number)
        for number, one in enumerate(found)
        for row, epoch in one.asked
    ]
    assert min(asked) == FAR * BATCH
    assert len(asked) == len(set(asked)) < 16 * BATCH  # what is read ahead


@pytest.mark.parametrize('loader', ['threads', 'tfdata'])
@pytest.mark.parametrize('kind', ['dataset', 'mixture'])
@pytest.mark.parametrize('skips', [[], [(80, 104), (400, 408), (408, 424)]])
def test_an_epoch_with_interruptions_has_each_row_once(kind, loader, skips):
    """But for rows that are skipped; and each source of a mixture has its epoch."""
    found = parts(kind, FEW)
    rows = joined(found)
    # The slowest source is through all of its rows.
    steps = {'dataset': FEW // BATCH + 9, 'mixture': 3 * FEW // BATCH}[kind]
    draw = np.random.default_rng(0)
    stops = set(draw.choice(np.arange(1, steps), INTERRUPTIONS, False).tolist())
    host, read = json.dumps({'row': 0, 'skips': skips}), []
    stream = opened(rows, loader, json.loads(host))
    for step in range(steps):
        if step in stops:
            host = saved(stream, skips)
            stream.close()
            stream = opened(rows, loader, json.loads(host))
        read += following(stream)
    stream.close()
    places = [i for first, end in skips for i in range(first, end)]
    if kind == 'dataset':
        numbers = np.array(places, np.int64)
        skipped = permute.permute(numbers, FEW, permute.mix(SEED, 0)).tolist()
    else:
        skipped = [row for row, epoch in skipped_of(rows, places) if epoch == 0]
    first = [row for row, epoch in read if epoch == 0]
    assert sorted(first + skipped) == list(range(FEW))


def skipped_of(rows, places):
    """(row, epoch) of these places, one by one."""
    for at in places:
        index, epoch = rows.draw(np.array([at]), SEED)
        yield int(index[0]), int(epoch[0])
