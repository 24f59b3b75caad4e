"""Heads over rows and tokens, and embeddings, against NumPy on hidden states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_family

from gptjax import command
from gptjax.model import bert, config, transformer

LENGTHS = np.array([16, 5, 9])


def with_head(family, **head):
    arch = tiny_family.arch(family).with_head(**head)
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    return model, tiny_family.params(model)


def padded(arch, left: bool):
    """The same three documents of LENGTHS, padded on the right or on the left."""
    batch = tiny_family.batch(arch, rows=3)
    real = np.arange(arch.T) < LENGTHS[:, None]
    rows = {name: np.asarray(value) * real for name, value in batch.items()}
    rows['segments'] = real
    if left:
        rows = {
            name: np.stack(
                [np.roll(r, arch.T - n) for r, n in zip(row, LENGTHS, strict=True)]
            )
            for name, row in rows.items()
        }
    return {name: jnp.asarray(value, jnp.int32) for name, value in rows.items()}


@pytest.fixture(params=['left', 'right'])
def left(request):
    return request.param == 'left'


def hidden_of(model, params, batch):
    return np.asarray(tiny_family.hidden(model)(params, batch))


def edges(model, batch):
    """The index of the token that stands for the row: the last one, or the first."""
    real = np.asarray(batch['segments']) > 0
    return [np.flatnonzero(row)[-1 if model.arch.causal else 0] for row in real]


@pytest.mark.parametrize('family', ['gpt2', 'llama', 'bert'])
def test_a_reward_is_that_of_the_token_that_has_seen_the_row(family, left):
    model, params = with_head(family, kind='reward')
    batch = padded(model.arch, left)
    x_BTD = hidden_of(model, params, batch)
    expected = x_BTD[range(3), edges(model, batch)] @ params['head']['reward'][:, 0]
    found = transformer.rewards(model, params, jnp.asarray(x_BTD), batch['segments'])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert found.dtype == jnp.float32


def test_values_are_one_number_a_token():
    model, params = with_head('qwen3', kind='value')
    x_BTD = hidden_of(model, params, padded(model.arch, left=False))
    found = transformer.values(model, params, jnp.asarray(x_BTD))
    np.testing.assert_allclose(
        found, x_BTD @ params['head']['value'][:, 0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(('family', 'pooler'), [('bert', True), ('gpt2', False)])
def test_classes_are_read_off_one_token(family, pooler, left):
    model, params = with_head(
        family, kind='classes', classes=3, pooler=pooler, bias=False
    )
    batch, head = padded(model.arch, left), params['head']
    x_BTD = hidden_of(model, params, batch)
    x_BD = x_BTD[range(3), edges(model, batch)]
    if pooler:
        x_BD = np.tanh(x_BD @ head['pooler'] + head['pooler_bias'])
    expected = x_BD @ head['classes'] + head.get('classes_bias', 0)
    found = transformer.classify(model, params, jnp.asarray(x_BTD), batch['segments'])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_embeddings_leave_padding_out_wherever_it_is(left):
    model, params = with_head('roberta', kind='none')
    batch = padded(model.arch, left)
    x_BTD = hidden_of(model, params, batch)
    real = np.asarray(batch['segments']) > 0
    means = [row[where].mean(0) for row, where in zip(x_BTD, real, strict=True)]
    first = [row[where][0] for row, where in zip(x_BTD, real, strict=True)]
    for pool, expected in (('mean', means), ('cls', first)):
        found = bert.embed(model, params, batch, pool)
        np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)
    with pytest.raises(command.UserError, match="did you mean 'mean'"):
        bert.embed(model, params, batch, 'means')


def test_dropout_falls_on_what_a_classifier_reads():
    arch = tiny_family.arch('bert', dropout=0.5)
    arch = arch.with_head(kind='classes', classes=2, pooler=True, bias=False)
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    params = tiny_family.params(model)
    x_BTD = jnp.ones((1, arch.T, arch.D))
    segments = jnp.ones((1, arch.T), jnp.int32)
    plain = transformer.classify(model, params, x_BTD, segments)
    dropped = [
        transformer.classify(model, params, x_BTD, segments, jax.random.key(seed))
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert not np.allclose(dropped[0], dropped[2])
    assert not np.allclose(dropped[0], plain)


def test_contradictions_are_refused_by_name():
    plain = config.plain(tiny_family.arch('llama'))
    for changes, message in (
        ({'K': 3}, r'model\.K is 3, which does not divide the 4 query'),
        ({'H': 5}, r'model\.H is 5; rotary positions need it even'),
        ({'windows': []}, r'model\.windows is \(\)'),
        ({'windows': ['all']}, 'a list of whole numbers'),
        ({'experts': {'E': 2, 'k': 3, 'balance': 0.0, 'z': 0.0}}, 'k is 1 to E'),
        ({'head': {'kind': 'clases'}}, "did you mean 'classes'"),
        ({'head': {'kind': 'classes'}}, r'model\.head\.classes is 0'),
        ({'norms': {'kind': 'rms'}}, r'model\.norms lacks eps'),
        ({'positions': 'rotary'}, r'model\.positions is .*a section'),
        ({'encoder_L': 2, 'causal': False}, 'beside an encoder is causal'),
        ({'activation': 'swish'}, r'unknown model\.activation'),
        ({'heads': 4}, r'unknown option model\.heads'),
    ):
        with pytest.raises(command.UserError, match=message):
            config.architecture('model', **(plain | changes))
