"""The quality classifier: its figures, its optimum, and what it leaves behind."""

import json
import subprocess
import sys

import numpy as np
import pytest

from gptjax import command
from gptjax.data import documents
from gptjax.data.clean import quality

OPTIONS = {'bits': 16, 'l2': 1e-3, 'iterations': 100, 'folds': 5}


@pytest.fixture(scope='module')
def labels(tmp_path_factory):
    """Two kinds of sentences that share half of their words."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp('labels') / 'labels.jsonl'
    words = [f'word{i}' for i in range(40)]
    with path.open('w') as file:
        for i in range(120):
            part = words[:30] if i % 2 else words[10:]
            text = ' '.join(rng.choice(part, 12))
            file.write(json.dumps({'id': str(i), 'text': text, 'label': i % 2}) + '\n')
    return path


@pytest.fixture(scope='module')
def trained(labels):
    output = labels.with_name('quality.npz')
    return output, quality.train(str(labels), str(output), **OPTIONS)


def test_held_out_labels_of_people(real_data, tmp_path):
    """Human judgements: better than the commoner class, and than length alone."""
    path = real_data('quality_labels/majority_data.jsonl')
    output = tmp_path / 'quality.npz'
    told = quality.train(str(path), str(output), **{**OPTIONS, 'iterations': 12})
    held = told['held_out']
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    truth = np.array([row['label'] for row in rows], float)
    length = quality.auc(truth, np.array([len(row['text']) for row in rows], float))
    assert 0.75 < length < 0.78
    assert held['auc'] >= 0.84
    assert held['majority'] == 0.536
    assert held['accuracy'] >= 0.75
    assert 'majority' in quality.summary(told)


def test_training_is_deterministic_and_its_file_is_checked(labels, trained, tmp_path):
    output, told = trained
    again = tmp_path / 'again.npz'
    assert quality.train(str(labels), str(again), **OPTIONS) == told
    assert again.read_bytes() == output.read_bytes()
    quality.quality(path=str(again), least=None)
    again.write_bytes(again.read_bytes()[:-1])
    with pytest.raises(command.UserError, match='train it again'):
        quality.quality(path=str(again), least=None)
    again.with_suffix('.json').write_text('{}')
    with pytest.raises(command.UserError, match='train it again'):
        quality.quality(path=str(again), least=None)
    with pytest.raises(command.UserError, match='no file'):
        quality.quality(path=str(tmp_path / 'none.npz'), least=None)


def test_the_weights_are_at_the_minimum(labels, trained):
    """The gradient of the regularised loss, in float64, vanishes."""
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    truth = np.array([row['label'] for row in rows], float)
    matrix = np.zeros((len(rows), 2**16))
    for i, row in enumerate(rows):
        buckets, values = quality.features(row['text'], 16)
        matrix[i, buckets] = values
    np.testing.assert_allclose((matrix**2).sum(1), 1)
    weights = np.load(trained[0])['weights'].astype(float)
    score = matrix @ weights[:-1] + weights[-1]
    error = 1 / (1 + np.exp(-score)) - truth
    gradient = matrix.T @ error / len(rows) + OPTIONS['l2'] * weights[:-1]
    assert abs(gradient).max() < 1e-4
    assert abs(error.mean()) < 1e-4
    assert abs(gradient - OPTIONS['l2'] * weights[:-1]).max() > 1e-3


def test_the_step_judges_without_jax(trained):
    output, told = trained
    assert told['held_out']['auc'] > 0.9
    program = f"""
import sys
from gptjax.data import documents
from gptjax.data.clean import quality
step = quality.quality(path={str(output)!r}, least=0.5)
def page(text):
    return documents.Document(id='a', source='b', licence='MIT', text=text)
good = step(page('word1 word2 word3 word4 word5'))
bad = step(page('word31 word32 word33 word35'))
assert good.signals['quality'] > 0.8, good
assert bad.reason == 'quality' and bad.value < 0.2, bad
assert 'jax' not in sys.modules
"""
    subprocess.run([sys.executable, '-c', program], check=True, timeout=60)


def test_auc_is_how_often_the_good_one_is_above():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 60).astype(float)
    scores = rng.integers(0, 9, 60).astype(float)
    pairs = [
        (good > bad) + 0.5 * (good == bad)
        for good in scores[truth == 1]
        for bad in scores[truth == 0]
    ]
    assert quality.auc(truth, scores) == pytest.approx(np.mean(pairs))


def test_calibration_recovers_the_probabilities():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=20_000)
    truth = (rng.random(20_000) < 1 / (1 + np.exp(-(2 * scores - 1)))).astype(float)
    assert quality._platt(scores, truth) == pytest.approx((2, -1), abs=0.1)


@pytest.mark.parametrize(
    ('line', 'said'),
    [
        ({'text': 'a', 'label': 2}, 'needs 1'),
        ({'text': 'a', 'label': True}, 'needs 1'),
        ({'label': 1}, "string 'text'"),
        ({'text': 'a', 'label': 1}, '20 of each'),
    ],
)
def test_wrong_labels(tmp_path, line, said):
    path = tmp_path / 'labels.jsonl'
    path.write_text(json.dumps(line) + '\n')
    with pytest.raises(command.UserError, match=said):
        quality.train(str(path), str(tmp_path / 'q.npz'), **OPTIONS)


def test_features_are_log_counts_of_words_and_pairs():
    """Case and marks do not matter; in Chinese and Thai each character is a word."""
    _, values = quality.features('The CAT, the "cät"! x2;the', 24)
    counts = np.log1p([3, 1, 1, 1] + [1] * 5)  # the, cat, cät, x2; five pairs
    wanted = np.sort(counts / np.linalg.norm(counts))
    np.testing.assert_allclose(np.sort(values), wanted)
    for text, words in (('我是谁', 3), ('กิน', 3), ('. ,', 0), ('', 0)):
        buckets, _ = quality.features(text, 24)
        assert len(buckets) == max(2 * words - 1, 0)
    one, two = (quality.features(text, 24)[0].tolist() for text in ('a b', 'b  A'))
    assert len({*one} & {*two}) == 2


def test_signals_are_noted_without_a_limit(trained):
    step = quality.quality(path=str(trained[0]), least=None)
    page = documents.Document(id='a', source='b', licence='MIT', text='')
    assert 0 <= step(page).signals['quality'] <= 1
