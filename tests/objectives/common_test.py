"""What every objective of the table must do: add over rows, and refuse wrong heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import tiny_family

from gptjax import command, trees
from gptjax.model import config, transformer
from gptjax.objectives import table
from gptjax.train import state, step

ROWS = 8
CLASSES = dict(head=config.Head('classes', classes=3, pooler=True))
# family, changes to its architecture, options
SETTINGS = {
    'next_token': ('mixtral', {}, {}),
    'masked_lm': ('bert', {}, {}),
    'classification': ('bert', CLASSES, {}),
    'seq2seq': ('transformer', {}, dict(label_smoothing=0.1)),
    'reward': ('gpt2', dict(head=config.Head('reward')), dict(centre=0.1)),
    'preference': (
        'mixtral', {}, dict(loss=dict(name='bco', beta=0.3), reference='live'),
    ),
    'kto': (
        'gpt2', {},
        dict(
            loss=dict(name='kto', beta=0.3, desirable=1.0, undesirable=0.7),
            reference='stored',
        ),
    ),
    'ppo': (
        'gpt2', dict(head=config.Head(values=True)),
        dict(
            temperature=0.7, max_tokens=8, group=1, clip_low=0.2, clip_high=0.3,
            value_coefficient=0.1, gamma=1.0, lam=0.95, kl_coefficient=0.1,
            kl_estimator='k1', whiten_rewards=True, whiten_advantages=True,
            clip_value=0.2, dual_clip=3.0, entropy_coefficient=0.01, importance_cap=2.0,
        ),
    ),
    'group': (
        'gpt2', {},
        dict(
            temperature=0.7, max_tokens=8, group=4, method='grpo', kl_coefficient=0.1,
            kl_in='loss', kl_estimator='k3', entropy_coefficient=0.01,
        ),
    ),
    'distil': ('gpt2', {}, dict(beta=0.3, temperature=0.7)),
}  # fmt: skip
RUNNING = {'delta': 0.4, 'steps': 3.0, 'kl': 0.2}  # of those that read them


@functools.cache
def model(name, place=None):
    family, changes, _ = SETTINGS[name]
    return tiny_family.model(family, place=place, T=8, L=1, **changes)


def loss_of(name, place=None, of=None):
    objective, options = table.OBJECTIVES[name], SETTINGS[name][2]
    made = of or model(name, place)
    if objective.options:
        return objective.make(made, objective.options(**options))
    if 'teacher' in objective.frozen:
        options = options | {'teacher': model(name, place)}
    return objective.make(made, **options)


def batch(name):
    """ROWS ragged rows of one document, the last of them padding without weight."""
    arch, rng = model(name).arch, np.random.default_rng(0)
    objective = table.OBJECTIVES[name]
    pairs = 'pairs' in objective.kinds and not objective.prepare
    shape = (ROWS, 2, arch.T) if pairs else (ROWS, arch.T)
    lengths = rng.integers(3, arch.T + 1, shape[:-1])[..., None]
    real = np.arange(arch.T) < lengths
    places = np.broadcast_to(np.arange(arch.T), shape)
    ids = rng.integers(1, arch.V, (*shape[:-1], arch.T + 1))
    weights = (real & (rng.random(shape) < 0.7)).astype(np.float32)
    weights[..., 1] = 1
    weights[-1] = 0
    made = {
        'tokens': ids[..., :-1] * real,
        'targets': ids[..., 1:] * real,
        'segments': real,
        'positions': places * real,
        'weights': weights,
    }
    if name == 'classification':
        made |= {'labels': rng.integers(0, 3, ROWS), 'types': (places > 3) & real}
        made['weights'] = weights[:, 1]
        del made['targets']
    if name == 'kto':
        made['labels'] = rng.integers(0, 2, ROWS)
        made['reference_log_p'] = rng.normal(-9, 3, (ROWS, 2))
    if name == 'seq2seq':
        made |= {
            'source': rng.integers(1, arch.V, shape) * (places < 5),
            'source_segments': places < 5,
            'source_positions': places * (places < 5),
        }
    if objective.prepare:
        names = ('log_p', 'sampler_log_p', 'reference_log_p', 'values', 'returns')
        made |= {key: rng.normal(-4, 1, shape) for key in names}
        made['advantages'] = rng.normal(0, 1, shape) * weights
    return {
        key: jnp.asarray(x, jnp.float32 if x.dtype.kind == 'f' else jnp.int32)
        for key, x in made.items()
    }


@functools.cache
def compiled(name, place, accumulate):
    """(a step of gradient descent, where its state lies)."""
    optimizer = optax.sgd(1.0)
    made = model(name, place)
    _, places = state.shardings_of(transformer.abstract(made), optimizer, place)
    run = jax.jit(
        functools.partial(
            step.train_step,
            loss_fn=loss_of(name, place),
            optimizer=optimizer,
            accumulate=accumulate,
            apart=place if place.copies > 1 else None,
        ),
        out_shardings=(places, place.replicated),
    )
    params = tiny_family.params(made)
    start = jax.device_put(params, places.params)
    return run, state.create(start, optimizer, 0, places)


def updated(name, place, given, accumulate=1):
    """(metrics, parameters after the step)."""
    run, start = compiled(name, place, accumulate)
    reference = jax.tree.map(lambda leaf: leaf * 0.9, start.params)
    after, metrics = run(
        start,
        {'reference': reference, 'teacher': reference, 'running': RUNNING},
        jax.device_put(given, place.named(('batch',))),
    )
    return jax.device_get((metrics, after.params))


@functools.cache
def reference(name):
    return updated(name, tiny.sharding(), batch(name))


@pytest.mark.long
@pytest.mark.parametrize('name', table.OBJECTIVES)
def test_copies_change_nothing(name):
    """Each of two sums the losses of its own rows."""
    check_equal(name, tiny.sharding(2, 1, 1, 'data'), accumulate=2)


@pytest.mark.parametrize('name', table.OBJECTIVES)
def test_accumulation_changes_nothing(name):
    """A mean of the microbatches' means would differ: their weights do.

    Two of them on a mesh as well, which takes three times as long to compile: one that
    splits all weights, and one of two copies of them, each with its own sums.
    """
    meshes = {'next_token': (1, 2, 2, 'fsdp_tensor'), 'seq2seq': (2, 2, 1, 'fsdp')}
    check_equal(name, tiny.sharding(*meshes.get(name, ())), accumulate=4)


def check_equal(name, place, accumulate):
    metrics, params = updated(name, place, batch(name), accumulate)
    wanted, expected = reference(name)
    # Float32 sums in another order; some are differences of larger ones.
    for key, value in wanted.items():
        np.testing.assert_allclose(
            metrics[key], value, rtol=2e-5, atol=1e-6, err_msg=key
        )
    for (path, leaf), (_, value) in zip(
        trees.paths(params), trees.paths(expected), strict=True
    ):
        np.testing.assert_allclose(leaf, value, rtol=1e-4, atol=2e-5, err_msg=path)


@pytest.mark.parametrize('name', table.OBJECTIVES)
def test_what_is_in_rows_without_weight_does_not_count(name):
    """But for a router, which serves them like all others."""
    given, (wanted, _) = batch(name), reference(name)
    for key in {'tokens', 'targets', 'labels', 'source'} & set(given):
        last = given[key][-1]
        given[key] = given[key].at[-1].set(jnp.where(last > 0, last % 2 + 1, last))
    metrics, _ = updated(name, tiny.sharding(), given)
    routed = {'balance', 'router_z'} & set(wanted)
    assert all(wanted[key] > 0 for key in routed)
    for key in set(metrics) - routed - ({'loss', 'gradient_norm'} if routed else set()):
        np.testing.assert_allclose(metrics[key], wanted[key], rtol=2e-5, err_msg=key)


@pytest.mark.parametrize('name', table.OBJECTIVES)
def test_a_wrong_head_is_named_with_what_to_set(name):
    other = 'gpt2' if name == 'classification' else 'bert'
    wrong = tiny_family.model(other, head=config.Head('value'))
    kinds = r"model\.head\.kind is 'value', and objective '" + name + "' trains"
    with pytest.raises(command.UserError, match=kinds):
        loss_of(name, of=wrong)


@pytest.mark.parametrize(
    ('name', 'family', 'message'),
    [
        ('next_token', 'transformer', r'model\.encoder_L is 2, and .* needs 0'),
        ('seq2seq', 'gpt2', r'model\.encoder_L is 0, and .* needs 1 or more'),
    ],
)
def test_a_wrong_family_is_named(name, family, message):
    with pytest.raises(command.UserError, match=message):
        table.OBJECTIVES[name].make(tiny_family.model(family), **SETTINGS[name][2])


def test_masked_lm_refuses_a_causal_model():
    causal = tiny_family.model('bert', causal=True)
    with pytest.raises(command.UserError, match=r'set model\.causal=False'):
        table.OBJECTIVES['masked_lm'].make(causal)
