"""Rows against slow references, over shards that cut them anywhere."""

import itertools

import numpy as np
import pytest

from gptjax import command
from gptjax.data import rows as rows_lib
from gptjax.data import turn_rows

END = 9  # what stands for <|endoftext|> here


def stream(folder, values, cuts, dtype='<u2', name='tokens'):
    """The values as shards that are cut at `cuts`."""
    parts = np.split(np.array(values, dtype), cuts)
    files = []
    for number, part in enumerate(parts):
        files.append(folder / f'{number}.{name}')
        part.tofile(files[-1])
    return rows_lib.Stream(files, [len(part) for part in parts], np.dtype(dtype))


def random_documents(seed, count, longest):
    rng = np.random.default_rng(seed)
    return [
        [END, *(10 + rng.integers(0, 500, rng.integers(1, longest))).tolist()]
        for _ in range(count)
    ]


def slow_text_rows(documents, T):
    """One row after another, one token after another."""
    flat = [token for document in documents for token in document]
    rows = []
    for start in range(0, len(flat), T):
        row = []
        segment, position = 1, 0
        for place in range(start, min(start + T, len(flat))):
            if flat[place] == END and place > start:
                segment, position = segment + 1, 0
            target = flat[place + 1] if place + 1 < len(flat) else END
            row.append((flat[place], target, segment, position, 1.0))
            position += 1
        rows.append(row + [(0, 0, 0, 0, 0.0)] * (T - len(row)))
    return np.array(rows)


@pytest.mark.parametrize('T', [1, 4, 16, 64, 5000])
@pytest.mark.parametrize('cuts', [[], [1], [100, 101, 340]])
def test_text_rows_are_the_stream_cut_every_T_tokens(tmp_path, T, cuts):
    documents = random_documents(0, 40, 60)
    flat = [token for document in documents for token in document]
    rows = rows_lib.TextRows(stream(tmp_path, flat, cuts), T)
    expected = slow_text_rows(documents, T)
    order = np.random.default_rng(1).permutation(len(rows))
    found = rows.read(order)
    assert len(rows) == len(expected)
    for number, (key, dtype) in enumerate(rows_lib.DTYPES.items()):
        assert found[key].dtype == dtype
        np.testing.assert_array_equal(found[key], expected[order, :, number], key)
    assert found['weights'].sum() == len(flat)  # each target exactly once


@pytest.mark.parametrize('T', [1, 7, 16, 64, 5000])
@pytest.mark.parametrize('at_ends_of', [(), (11, 25)])
def test_best_fit_rows_hold_every_target_of_the_stream_once(tmp_path, T, at_ends_of):
    """Documents that fit stay whole; longer ones are cut every T tokens."""
    documents = random_documents(4, 40, 60)
    flat = [token for document in documents for token in document]
    starts = np.cumsum([0] + [len(document) for document in documents])
    tokens = stream(tmp_path, flat, starts[list(at_ends_of)])
    rows = rows_lib.BestFitRows(tokens, starts, T)
    order = np.random.default_rng(1).permutation(len(rows))
    arrays = rows.read(order)
    after = [*flat[1:], END]
    expected = []  # the pieces, as (input, target)
    for begin, end in itertools.pairwise(starts.tolist()):
        for cut in range(begin, end, T):
            piece = slice(cut, min(cut + T, end))
            expected.append((tuple(flat[piece]), tuple(after[piece])))
    found = []
    for row in range(len(rows)):
        tokens, targets, segments, positions, weights = (
            arrays[key][row] for key in rows_lib.DTYPES
        )
        used = int((segments > 0).sum())
        assert not any(a[used:].any() for a in (tokens, targets, positions, weights))
        assert (weights[:used] == 1).all()
        for segment in range(1, segments.max() + 1):
            here = np.flatnonzero(segments == segment)
            np.testing.assert_array_equal(positions[here], np.arange(len(here)))
            np.testing.assert_array_equal(np.diff(here), 1)
            found.append((tuple(tokens[here]), tuple(targets[here])))
    assert sorted(found) == sorted(expected)
    assert {key: arrays[key].dtype for key in arrays} == dict(rows_lib.DTYPES)
    assert arrays['weights'].sum() == len(flat)


def test_rows_of_best_fit_are_those_that_hold_an_input_or_a_target(tmp_path):
    documents = random_documents(5, 30, 20)
    flat = np.array([token for document in documents for token in document])
    flat[flat != END] = np.arange(10, 10 + (flat != END).sum())  # each its own
    starts = np.cumsum([0] + [len(document) for document in documents])
    rows = rows_lib.BestFitRows(stream(tmp_path, flat, [100]), starts, 16)
    arrays = rows.read(np.arange(len(rows)))
    for begin, end in itertools.pairwise(starts.tolist()):
        inside = np.isin(arrays['tokens'], flat[begin + 1 : end])
        inside |= np.isin(arrays['targets'], flat[begin + 1 : end])
        held = rows.rows_of(begin + 1, end)
        np.testing.assert_array_equal(np.flatnonzero(inside.any(axis=1)), held)
    # The first token is the target that ends the last document, as in the stream.
    last = rows.rows_of(len(flat) - 1, len(flat))
    assert set(last.tolist()) <= set(rows.rows_of(0, 1).tolist())


def test_a_row_that_is_asked_for_twice_is_there_twice(tmp_path):
    rows = rows_lib.TextRows(stream(tmp_path, [END, *range(10, 40)], [7]), 4)
    found = rows.read(np.array([7, 2, 7]))
    np.testing.assert_array_equal(found['tokens'][0], found['tokens'][2])
    np.testing.assert_array_equal(found['weights'][0], [1, 1, 1, 0])
    np.testing.assert_array_equal(found['tokens'][1], [17, 18, 19, 20])


def sequences(folder, found, cuts):
    """Sequences over shards; the mask is 1 on even tokens."""
    starts = np.cumsum([0] + [len(one) for one in found])
    flat = np.concatenate(found)
    cuts = starts[cuts]
    return turn_rows.Sequences(
        stream(folder, flat, cuts),
        stream(folder, flat % 2 == 0, cuts, 'u1', 'mask'),
        starts,
    )


@pytest.mark.parametrize('cuts', [[], [1, 20]])
@pytest.mark.parametrize('T', [64, 200])
def test_packed_rows_hold_every_conversation_once(tmp_path, T, cuts):
    found = [np.array(one) for one in random_documents(2, 50, 64)]
    rows = turn_rows.ChatRows(sequences(tmp_path, found, cuts), T)
    arrays = rows.read(np.arange(len(rows)))
    seen = []
    for row in range(len(rows)):
        tokens, targets, segments, positions, weights = (
            arrays[key][row] for key in rows_lib.DTYPES
        )
        used = int((segments > 0).sum())
        for array in (tokens, targets, segments, positions, weights):
            assert not array[used:].any()
        for segment in range(1, segments.max() + 1):
            here = np.flatnonzero(segments == segment)
            np.testing.assert_array_equal(np.diff(here), 1)
            np.testing.assert_array_equal(positions[here], np.arange(len(here)))
            np.testing.assert_array_equal(tokens[here][1:], targets[here][:-1])
            np.testing.assert_array_equal(weights[here], targets[here] % 2 == 0)
            seen.append([*tokens[here].tolist(), int(targets[here][-1])])
    assert sorted(seen) == sorted(one.tolist() for one in found)
    assert len(rows) < len(found)


def test_a_conversation_longer_than_a_row_is_cut_and_counted(tmp_path, capsys):
    found = [np.arange(10, 50), np.arange(60, 70)]
    rows = turn_rows.ChatRows(sequences(tmp_path, found, []), 16)
    assert '1 of 2 conversations are longer than a row of 16' in capsys.readouterr().err
    arrays = rows.read(np.arange(2))
    np.testing.assert_array_equal(arrays['tokens'][0], np.arange(10, 26))
    np.testing.assert_array_equal(arrays['targets'][0], np.arange(11, 27))
    assert arrays['segments'][1].sum() == 9


def test_pair_rows_put_chosen_before_rejected(tmp_path):
    found = [np.array(one) for one in random_documents(3, 12, 30)]
    rows = turn_rows.PairRows(sequences(tmp_path, found, [4]), 32)
    assert len(rows) == 6
    arrays = rows.read(np.array([4, 0]))
    for row, pair in enumerate([4, 0]):
        for which in (0, 1):
            ids = found[2 * pair + which]
            row_of = {key: arrays[key][row, which] for key in rows_lib.DTYPES}
            n = len(ids) - 1
            expected = (ids[:-1], ids[1:], np.ones(n), np.arange(n), ids[1:] % 2 == 0)
            for key, values in zip(rows_lib.DTYPES, expected, strict=True):
                padded = np.zeros(32)
                padded[:n] = values
                np.testing.assert_array_equal(row_of[key], padded, key)


def short(folder, found, learned, longer):
    """Sequences of which the tokens from the first learned one on are learned."""
    starts = np.cumsum([0] + [len(one) for one in found])
    mask = [np.arange(len(one)) >= n for one, n in zip(found, learned, strict=True)]
    return turn_rows.Sequences(
        stream(folder, np.concatenate(found), []),
        stream(folder, np.concatenate(mask), [], 'u1', 'mask'),
        starts,
        longer,
    )


@pytest.mark.parametrize('longer', ['cut', 'drop'])
def test_conversations_that_lose_their_answers_are_counted(tmp_path, capsys, longer):
    found = [np.arange(10, 50), np.arange(60, 70), np.arange(100, 131)]
    rows = turn_rows.ChatRows(short(tmp_path, found, [17, 4, 16], longer), 16)
    said = capsys.readouterr().err
    assert '2 of 3 conversations are longer than a row of 16' in said
    lost = 1 if longer == 'cut' else 2
    assert f'{lost} of 3 conversations have nothing to learn in a row of 16' in said
    assert rows.counts == {'conversations': 3, 'longer': 2, 'unlearned': lost}
    arrays = rows.read(np.arange(len(rows)))
    learned = arrays['targets'][arrays['weights'] > 0].tolist()
    whole = list(range(64, 70))
    assert sorted(learned) == ([*whole, 116] if longer == 'cut' else whole)
    if longer == 'drop':
        assert arrays['segments'].max() == 1
        assert set(arrays['tokens'][arrays['segments'] > 0]) == set(range(60, 69))
        assert rows.rows_of(0, 40).size == 0
    with pytest.raises(command.UserError, match=r"unknown data\.longer 'cute'"):
        short(tmp_path, found, [1, 1, 1], 'cute')


def test_pairs_without_two_answers_count_for_nothing(tmp_path, capsys):
    """One cut to nothing, one cut to equal answers, one of equal answers; and two."""
    prompt = list(range(10, 20))
    found = [
        [*range(10, 30), 40], [*prompt, 41, 42],  # the prompt of the first fills a row
        [*prompt, 43, 44, *range(50, 60), 45], [*prompt, 43, 44, *range(50, 60), 46],
        [*prompt, 47], [*prompt, 47],
        [*prompt, 47], [*prompt, 48],
        [*prompt, 47, *range(50, 60)], [*prompt, 48],
    ]  # fmt: skip
    learned = [20, 10, 10, 10, 10, 10, 10, 10, 10, 10]
    rows = turn_rows.PairRows(
        short(tmp_path, [np.array(one) for one in found], learned, 'cut'), 16
    )
    assert rows.counts == {'pairs': 5, 'longer': 3, 'unlearned': 3}
    said = capsys.readouterr().err
    assert '3 of 5 pairs have nothing to learn in a row of 16 tokens' in said
    weights = rows.read(np.arange(5))['weights']
    assert weights.sum((1, 2)).tolist() == [0, 0, 0, 2, 8]
    rows = turn_rows.PairRows(
        short(tmp_path, [np.array(one) for one in found], learned, 'drop'), 16
    )
    assert rows.counts['unlearned'] == 4
    assert rows.read(np.arange(5))['weights'].sum((1, 2)).tolist() == [0, 0, 0, 2, 0]
