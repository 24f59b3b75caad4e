"""The harness for a GPU at small shapes on the CPU, with the peer where it is."""

import numpy as np
import pytest

from experiments.benchmarks import _gpu_sides, _peer_gpu, _speed_gpu


def _rows(name: str) -> dict:
    given = _gpu_sides.Given(name, 'cpu', tiny=True, unroll=1)
    return {row['name']: row for row in _speed_gpu.measured(given)}


def test_without_a_gpu_each_row_is_there_without_a_value():
    rows = list(_speed_gpu.rows())
    assert len({row['name'] for row in rows}) == len(rows) > 20
    assert {row['value'] for row in rows} == {None}


def test_the_stream_can_be_learned():
    """Half of the tokens follow from the one before; the numbers never change."""
    ids = _peer_gpu.stream(3, 8, 64, 50)
    assert ids.shape == (8, 65)
    assert (ids == _peer_gpu.stream(3, 8, 64, 50)).all()
    followers = [ids[:, 1:][ids[:, :-1] == token] for token in range(5)]
    for found in followers:
        _, counts = np.unique(found, return_counts=True)
        assert counts.max() > 0.4 * len(found)


@pytest.mark.long
@pytest.mark.parametrize('model', ['124m', 'llama-1b'])
def test_training_and_decoding_at_a_small_shape(model):
    """With GPTJAX_PEERS, 50 losses agree within 1e-2, or this raises."""
    rows = _rows(f'train-{model}')
    assert rows[f'train-{model}: MFU, full']['value'] > 0
    assert 0 < _rows(f'decode-{model}')[f'decode-{model}: roofline']['value'] < 2
