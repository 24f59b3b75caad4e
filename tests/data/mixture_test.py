"""A mixture keeps its weights, the order of each source, and its past."""

import itertools

import numpy as np
import pytest

from gptjax import command
from gptjax.data import build, mixture, permute, pipeline

SEED, BATCH = 7, 6


class Numbered:
    """Rows that say which they are, and in which epoch they were read."""

    def __init__(self, name, n):
        self.name, self.n = name, n
        self.dtypes = {'tokens': np.int32, 'epoch': np.int32}

    def __len__(self):
        return self.n

    def read(self, indices, epochs=None):
        epochs = np.full_like(indices, -1) if epochs is None else epochs
        tokens = np.stack([np.full_like(indices, self.name), indices], axis=1)
        return {'tokens': tokens.astype(np.int32), 'epoch': epochs.astype(np.int32)}


def mix(*sources, batch_size=BATCH):
    """Of (name, rows, weights); the key of a source is its name."""
    made = [mixture.Source(Numbered(k, n), k, w) for k, n, w in sources]
    return mixture.Mixture(made, batch_size)


TWO = ((1, 1000, [(0, 0.7), (2000, 0.25)]), (2, 50_000, [(0, 0.3), (2000, 0.75)]))
ROWS = 5 * mixture.BLOCK


def stream(rows, count=ROWS, start=0):
    """(source, row, epoch) of each place of the stream."""
    found = rows.read(*rows.draw(start + np.arange(count), SEED))
    return np.column_stack([found['tokens'], found['epoch']])


def test_each_source_goes_through_its_own_epochs_in_its_own_order():
    """Also over the end of an epoch, of a block and of a phase, which cuts a block."""
    found = stream(mix(*TWO))
    for name, n, _ in TWO:
        k = np.arange((found[:, 0] == name).sum())
        rows = permute.permute(k % n, n, permute.mix(SEED ^ name, k // n))
        expected = np.column_stack([np.full_like(k, name), rows, k // n])
        np.testing.assert_array_equal(found[found[:, 0] == name], expected)
    assert found[:, 2].max() > 5
    assert 2000 * BATCH % mixture.BLOCK


@pytest.mark.parametrize(
    'weights', [[1], [0.7, 0.3], [1 / 3, 1 / 3, 1 / 3], [5, 0, 1e-4, 3, 1e-3, 1]]
)
def test_counts_follow_the_weights(weights):
    """Up to any row, and so in any block; also a weight of less than a row a block."""
    rows = mix(*((k, 10, [(0, w)]) for k, w in enumerate(weights)))
    share = np.array(weights) / sum(weights)
    ends = np.arange(200) * mixture.BLOCK
    counts = np.array([rows._counts(0, int(end)) for end in ends])
    np.testing.assert_array_equal(counts.sum(axis=1), ends)
    most = 0.5 if len(weights) <= 2 else 1.5
    assert np.abs(counts - ends[:, None] * share).max() <= most
    assert np.abs(np.diff(counts, axis=0) - mixture.BLOCK * share).max() <= 2 * most
    assert (np.diff(counts, axis=0) >= 0).all()
    assert (counts[-1] > 0).tolist() == (share > 0).tolist()
    # What is read is what was counted, well mixed inside a block.
    names = stream(rows, 2 * mixture.BLOCK)[:, 0]
    found = np.bincount(names, minlength=len(weights))
    np.testing.assert_array_equal(found, counts[2])
    half = np.bincount(names[: mixture.BLOCK // 2], minlength=len(weights))
    assert np.abs(half - mixture.BLOCK / 2 * share).max() < 4 * 32  # deviations


def test_weights_change_at_their_step():
    names = stream(mix(*TWO))[:, 0]
    step = 2000 * BATCH
    for part, share in ((names[:step], 0.7), (names[step:], 0.25)):
        whole = part[: len(part) // mixture.BLOCK * mixture.BLOCK]
        assert abs((whole == 1).sum() - share * len(whole)) <= 1


@pytest.mark.parametrize('at', [0, 1, 2])
def test_what_joins_later_changes_nothing_before(at):
    """Nor the order of the others after it, wherever in the list it stands."""
    old = mix(*TWO)
    joined = [*TWO]
    joined.insert(at, (3, 77, [(0, 0), (2500, 0.5)]))
    before, after = stream(old), stream(mix(*joined))
    step = 2500 * BATCH
    assert (step - 2000 * BATCH) % mixture.BLOCK
    np.testing.assert_array_equal(after[:step], before[:step])
    assert (after[step:, 0] == 3).sum() == pytest.approx((ROWS - step) / 3, abs=1500)
    for name in (1, 2):
        mine = after[after[:, 0] == name]
        same = before[before[:, 0] == name][: len(mine)]
        np.testing.assert_array_equal(mine[: len(same)], same)


def test_another_seed_is_another_order():
    rows, places = mix(*TWO), np.arange(3000)
    one, other = (rows.draw(places, seed) for seed in (1, 2))
    assert (np.array(one) != np.array(other)).any(axis=0).mean() > 0.9


def test_any_row_at_once():
    """A fresh mixture, asked far out, in any order."""
    whole = stream(mix(*TWO))
    order = np.random.default_rng(0).permutation(ROWS)[:500]
    rows = mix(*TWO)
    found = rows.read(*rows.draw(order, SEED))
    np.testing.assert_array_equal(found['tokens'], whole[order, :2])
    np.testing.assert_array_equal(found['epoch'], whole[order, 2])


def test_positions_find_every_place_of_a_row():
    joined = [*TWO, (3, 77, [(0, 0), (2500, 0.5)])]
    rows, whole = mix(*joined), stream(mix(*joined))
    for source, (name, n, _) in enumerate(joined):
        for until in (0, 1, mixture.BLOCK, 2000 * BATCH, 2000 * BATCH + 1, ROWS):
            for wanted in ([0], [n - 1, 5, 17]):
                mine = (whole[:, 0] == name) & np.isin(whole[:, 1], wanted)
                expected = np.flatnonzero(mine[:until])
                found = rows.positions(source, np.array(wanted), until, SEED)
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('loader', pipeline.LOADERS)
def test_loaders_and_owners_read_the_same(loader):
    """From the middle of a phase, over its end."""
    rows, start = mix(*TWO), 1998 * BATCH
    whole = [
        pipeline.batch(rows, seed=SEED, batch_size=BATCH, row=start + BATCH * n)
        for n in range(4)
    ]
    for owned in (None, [3, 4, 5], [2, 0, 1]):
        made = pipeline.batches(
            rows, seed=SEED, batch_size=BATCH, start_row=start, owned=owned,
            loader=loader,
        )  # fmt: skip
        for found, expected in zip(itertools.islice(made, 4), whole, strict=True):
            for key in rows.dtypes:
                part = expected[key] if owned is None else expected[key][owned]
                np.testing.assert_array_equal(found[key], part)
        made.close()


def test_a_curriculum_of_many_steps():
    """Weights that change with each of 480 steps are followed, and rows found again."""
    weights = [(step, 1 + step % 3) for step in range(480)]
    rows, until = mix((1, 100, weights), (2, 100, [(0, 2)])), 480 * BATCH
    found = rows.positions(1, np.arange(3), until, SEED)
    whole = stream(rows, until)
    for weight in (1, 2, 3):
        part = whole[:, 0].reshape(160, 3, BATCH)[:, weight - 1]
        assert (part == 1).mean() == pytest.approx(weight / (weight + 2), abs=0.07)
    expected = np.flatnonzero((whole[:, 0] == 2) & (whole[:, 1] < 3))
    np.testing.assert_array_equal(found, expected)


def test_an_evaluation_reads_one_source_after_another():
    rows = mix((1, 3, [(0, 1)]), (2, 4, [(0, 1)]))
    found = rows.read(np.array([6, 0, 3, 2]))
    np.testing.assert_array_equal(found['tokens'], [[2, 3], [1, 0], [2, 0], [1, 2]])
    assert (found['epoch'] == -1).all()
    assert len(rows) == 7


def test_an_evaluation_has_a_source_that_joins_later(built, tmp_path, options):
    """Also where the others hold nothing out."""
    options['held_out'] = dict(fraction=0.0, by='document')
    options['tokenizer'] = dict(name='folder', path=str(built.folder / 'tokenizer'))
    other = build.build(tmp_path / 'other', **options)
    mixed = mixture.Mixed(
        [
            dict(path=str(other.folder), weights=[(0, 1)]),
            dict(path=str(built.folder), weights=[(0, 0), (5, 1)]),
        ],
        BATCH,
    )
    rows = mixed.mix('validation', lambda one: one.rows('validation', 8))
    assert list(rows.parts()) == [built.folder.name]


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        ([(0, 0.5), (5, 0)], r'all weights of data\.mixture are 0 from step 5 on'),
        ([(1, 0.5)], r'weights of .* at the steps \[1\]; they need to ascend'),
        ([(0, 1), (0, 2)], r'\[0, 0\]'),
        ([(0, -1)], r'\(0, -1\) for'),
        ([(0, float('nan'))], r'write \(step, weight\)'),
        ([0.5], r'the weight 0\.5'),
        (0.5, r'the weight 0\.5'),
        ([(0, '0.5')], r"the weight \(0, '0\.5'\)"),
        ([], r'at the steps \[\]'),
    ],
)
def test_weights_that_make_no_sense_are_refused(built, weights, message):
    entry = dict(path=str(built.folder), weights=weights)
    with pytest.raises(command.UserError, match=message):
        mixture.Mixed([entry], BATCH).mix('train', lambda one: one.rows('train', 8))


def test_datasets_need_one_tokenizer_and_stand_once(built, tmp_path, options):
    options['tokenizer'] = dict(name='bytes', mask=True)
    other = build.build(tmp_path / 'other', **options)
    entries = [dict(path=str(one.folder), weights=[(0, 1)]) for one in (built, other)]
    with pytest.raises(command.UserError, match=r'different tokenizers.*name="folder"'):
        mixture.Mixed(entries, BATCH)
    with pytest.raises(command.UserError, match=r'twice in data\.mixture'):
        mixture.Mixed([entries[0]] * 2, BATCH)
    with pytest.raises(command.UserError, match='is empty'):
        mixture.Mixed([], BATCH)
    with pytest.raises(
        command.UserError, match=r'unknown option data\.mixture\.weight'
    ):
        mixture.Mixed([dict(path='x', weight=1)], BATCH)
