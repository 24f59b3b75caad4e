"""Single answers that are good or bad: what is read of them, and of pairs as such."""

import json

import numpy as np
import pytest

from gptjax.data import build, pipeline

TURNS = [
    {'role': 'user', 'content': 'Hi'},
    {'role': 'assistant', 'content': 'Hello.'},
]
T = 96


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """The datasets of one list of answers, as feedback and as pairs."""
    folder = tmp_path_factory.mktemp('feedback')
    prompts = [[*TURNS, {'role': 'user', 'content': f'{n}?'}] for n in range(5)]
    pairs = [
        {'prompt': p, 'chosen': f'good {n}', 'rejected': 'g' + 'bad ' * n}
        for n, p in enumerate(prompts)
    ]
    answers = [
        {'prompt': pair['prompt'], 'completion': pair[side], 'label': side == 'chosen'}
        for pair in pairs
        for side in ('chosen', 'rejected')
    ]
    built = {}
    for kind, lines in {'pairs': pairs, 'feedback': answers}.items():
        raw = folder / f'{kind}.jsonl'
        raw.write_text('\n'.join(map(json.dumps, lines)))
        built[kind] = build.build(
            folder / kind,
            corpus=dict(name=kind, path=str(raw), licence='MIT'),
            tokenizer=dict(name='bytes'),
            held_out=dict(fraction=0.0, by='document'),
            shard_tokens=200,  # several shards
        )
    return built, answers


def said(arrays, row, side):
    """(the whole text, what of it is learned, the end as '.')."""
    targets = arrays['targets'][row, side]
    learned = targets[arrays['weights'][row, side] > 0]
    whole = targets[arrays['segments'][row, side] > 0]
    return [''.join(chr(t) if t < 256 else '.' for t in x) for x in (whole, learned)]


def test_each_answer_stands_beside_one_to_another_prompt(made):
    built, answers = made
    rows = built['feedback'].rows('train', T)
    assert len(rows) == 10
    arrays = rows.read(np.arange(10))
    assert {k: v.dtype.name for k, v in arrays.items()} == {
        k: np.dtype(v).name for k, v in rows.dtypes.items()
    }
    for row, answer in enumerate(answers):
        other = answers[(row + 5) % 10]
        for side, of in enumerate((answer, other)):
            whole, learned = said(arrays, row, side)
            # Not the earlier answer, but the end of this one.
            assert learned == of['completion'] + '.'
            asked = '.Hi..Hello...' + answer['prompt'][-1]['content'] + '..'
            assert whole == asked + learned
        assert arrays['labels'][row] == answer['label']
    places = arrays['positions'] * (arrays['segments'] > 0)
    np.testing.assert_array_equal(places, np.arange(T) * (arrays['segments'] > 0))


def test_pairs_are_two_answers_each_beside_those_of_another_pair(made):
    built, _ = made
    rows = built['pairs'].rows('train', T, feedback=True)
    plain = built['pairs'].rows('train', T).read(np.arange(5))
    arrays = rows.read(np.arange(10))
    own = {k: v[:, 0].reshape(5, 2, T) for k, v in arrays.items() if v.ndim == 3}
    for name, array in plain.items():
        np.testing.assert_array_equal(own[name], array, err_msg=name)
    assert arrays['labels'].tolist() == [1, 0] * 5
    texts = [said(arrays, row, 1)[1] for row in range(10)]
    assert [text.startswith('good') for text in texts] == [True, False] * 5
    assert [text for n, text in enumerate(texts) if f'good {n // 2}' in text] == []


@pytest.mark.parametrize(
    ('T', 'longer', 'pairs', 'answers'),
    [(17, 'cut', 10, 10), (18, 'cut', 10, 0), (20, 'drop', 9, 9)],
)
def test_what_has_nothing_to_learn_is_counted(made, T, longer, pairs, answers):
    """18 tokens hold the question and a g, of the rejected answers as of the chosen."""
    for kind, unlearned in (('pairs', pairs), ('feedback', answers)):
        rows = made[0][kind].rows('train', T, feedback=True, longer=longer)
        weights = rows.read(np.arange(10))['weights'][:, 0].sum(1)
        assert (weights == 0).sum() == rows.counts['unlearned'] == unlearned
        assert rows.counts['answers'] == 10
        assert rows.counts['longer'] >= answers


def test_what_is_too_long_is_cut_or_left_out_and_the_stream_is_pure(made):
    lengths = {
        (T, longer): (
            made[0]['feedback'].rows('train', T, longer=longer).read(np.arange(10))
        )['segments'].sum(-1)
        for T, longer in ((T, 'cut'), (32, 'cut'), (32, 'drop'))
    }
    whole = lengths[T, 'cut']
    assert 0 < (whole > 32).sum() < whole.size
    np.testing.assert_array_equal(lengths[32, 'cut'], np.minimum(whole, 32))
    np.testing.assert_array_equal(lengths[32, 'drop'], whole * (whole <= 32))
    rows = made[0]['feedback'].rows('train', T)
    one, two = (pipeline.batch(rows, seed=1, batch_size=4, row=row) for row in (12, 14))
    np.testing.assert_array_equal(one['tokens'][2:], two['tokens'][:2])
