"""Masks: their rates, what they never touch, and what they depend on."""

import itertools

import numpy as np
import pytest

from gptjax import command
from gptjax.data import masking, pipeline
from gptjax.data import rows as rows_lib
from gptjax.text import bytes as byte_level

T, ROWS = 64, 301
TOKENIZER = byte_level.Bytes.make(list, mask=True)
MASK = TOKENIZER.control['<|mask|>']
SHARES = dict(rate=0.15, masked=0.8, random=0.1)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """Rows of random bytes, with some control tokens among them, and padding."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 256, T * ROWS - 20).astype('<u2')
    ids[rng.random(len(ids)) < 0.05] = TOKENIZER.control['<|end|>']
    ids[::100] = TOKENIZER.control['<|endoftext|>']
    path = tmp_path_factory.mktemp('masked') / 'tokens'
    ids.tofile(path)
    return rows_lib.TextRows(rows_lib.Stream([path], [len(ids)], np.dtype('<u2')), T)


def masked(plain, seed=0, **shares):
    return masking.MaskedRows(plain, TOKENIZER, seed, **SHARES | shares)


def test_shares_are_those_asked_for(plain):
    """Within five standard deviations of a binomial."""
    indices = np.arange(ROWS)
    before = plain.read(indices)
    found = masked(plain).read(indices)
    assert list(found) == list(before)
    assert {key: found[key].dtype for key in found} == {
        key: before[key].dtype for key in before
    }
    words = (before['segments'] > 0) & (before['tokens'] < 256)
    chosen = found['weights'] > 0

    def assert_share(part, of, share):
        n = of.sum()
        assert abs(part.sum() - n * share) < 5 * np.sqrt(n * share * (1 - share))

    assert_share(chosen, words, 0.15)
    assert_share((found['tokens'] == MASK) & chosen, chosen, 0.8)
    changed = (found['tokens'] != before['tokens']) & (found['tokens'] != MASK)
    assert_share(changed, chosen, 0.1 * 255 / 256)
    assert set(np.unique(found['weights'])) == {0, 1}
    assert not (chosen & ~words).any()  # neither control tokens nor padding
    np.testing.assert_array_equal(found['targets'], before['tokens'])
    np.testing.assert_array_equal(found['tokens'][~chosen], before['tokens'][~chosen])
    assert found['tokens'][changed].max() < 256
    # No place of a row is preferred, and no row.
    assert 0.05 < chosen.mean(axis=0).min() < chosen.mean(axis=0).max() < 0.26
    assert chosen.sum(axis=1).std() == pytest.approx(np.sqrt(61 * 0.15 * 0.85), rel=0.2)


def test_masks_depend_on_seed_row_and_epoch_alone(plain):
    rows, indices = masked(plain), np.arange(20)

    def weights(rows, indices, epoch):
        epochs = None if epoch is None else np.full(len(indices), epoch)
        return rows.read(indices, epochs)['weights']

    first = weights(rows, indices, 0)
    np.testing.assert_array_equal(first, weights(rows, indices, None))
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_array_equal(first[order], weights(rows, order, 0))
    for other in (weights(rows, indices, 1), weights(masked(plain, 1), indices, 0)):
        assert 0.1 < (first * other).sum() / first.sum() < 0.2  # chance is 0.15
    assert (first[0] != first[1]).any()


@pytest.mark.parametrize('loader', pipeline.LOADERS)
def test_loaders_and_owners_see_the_same_masks(plain, loader):
    """Over the end of an epoch, from the middle, by two processes."""
    rows, start = masked(plain, 3), 2 * ROWS - 12
    whole = [
        pipeline.batch(rows, seed=3, batch_size=8, row=start + 8 * n) for n in range(3)
    ]
    for owned in ([0, 1, 2, 3], [7, 6, 5, 4]):
        batches = pipeline.batches(
            rows, seed=3, batch_size=8, start_row=start, owned=owned, loader=loader
        )
        for found, expected in zip(itertools.islice(batches, 3), whole, strict=True):
            for key in found:
                np.testing.assert_array_equal(found[key], expected[key][owned], key)
        batches.close()


def test_an_epoch_masks_other_tokens_than_the_last(plain):
    batches = [
        pipeline.batch(masked(plain), seed=0, batch_size=ROWS, row=epoch * ROWS)
        for epoch in (0, 1)
    ]
    by_text = [
        {
            row.tobytes(): mask
            for row, mask in zip(b['targets'], b['weights'], strict=True)
        }
        for b in batches
    ]
    both = np.mean([(by_text[0][k] * by_text[1][k]).sum() for k in by_text[0]])
    one = np.mean([mask.sum() for mask in by_text[0].values()])
    assert 0.1 < both / one < 0.2


@pytest.mark.parametrize(
    ('shares', 'message'),
    [
        (dict(rate=0.0), 'rate is above 0'),
        (dict(rate=1.5), r'objective\.rate is 1\.5; it is a share'),
        (dict(masked=0.8, random=0.3), 'the other two make at most 1'),
    ],
)
def test_shares_that_make_no_sense_are_refused(plain, shares, message):
    with pytest.raises(command.UserError, match=message):
        masked(plain, **shares)


def test_a_tokenizer_without_a_mask_is_refused(plain):
    with pytest.raises(command.UserError, match=r'tokenizer\.mask=True'):
        masking.MaskedRows(plain, byte_level.Bytes(), 0, **SHARES)
