"""The one train step: accumulation, meshes and dropout keys against each other."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from gptjax import core
from gptjax.model import transformer
from gptjax.objectives import next_token
from gptjax.train import optim, schedules, state, step

STEPS = 20


def adamw():
    schedule = schedules.cosine(3e-3, 5, 1e-4, steps=STEPS)
    return optim.adamw(
        schedule, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, clip_norm=1.0
    )


@functools.cache
def compiled(place, accumulate, dropout):
    """(the step, what makes the state at its start), once for each setting."""
    model = tiny.model(place=place, dropout=dropout)
    optimizer = adamw()
    _, places = state.shardings_of(transformer.abstract(model), optimizer, place)
    params = transformer.init(model, jax.random.key(0))
    run = jax.jit(
        functools.partial(
            step.train_step,
            loss_fn=next_token.make(model),
            optimizer=optimizer,
            accumulate=accumulate,
            apart=place if place.copies > 1 and accumulate > 1 else None,
        ),
        out_shardings=(places, place.replicated),
    )
    return run, state.create(params, optimizer, 0, places)


def train(place, batches, accumulate=1, dropout=0.0):
    """(losses, final parameters) of one run from seed 0."""
    run, current = compiled(place, accumulate, dropout)
    losses = []
    for batch in batches:
        batch = jax.device_put(batch, place.named(('batch',)))
        current, metrics = run(current, {}, batch)
        losses.append(float(metrics['loss']))
    return np.array(losses), jax.device_get(current.params)


@pytest.fixture(scope='module')
def batches():
    return [tiny.packed_batch(8, seed=seed) for seed in range(STEPS)]


@pytest.fixture(scope='module')
def reference(batches):
    return train(tiny.sharding(), batches)


@pytest.mark.parametrize(
    ('mesh', 'rules'),
    [
        ((8, 1, 1), 'data'),
        ((1, 8, 1), 'fsdp'),
        ((1, 4, 2), 'fsdp_tensor'),
        ((1, 2, 4), 'fsdp_tensor'),
    ],
    ids=str,
)
def test_meshes_agree_on_twenty_losses(batches, reference, mesh, rules):
    losses, _ = train(tiny.sharding(*mesh, rules=rules), batches)
    # Float32 sums in another order.
    np.testing.assert_allclose(losses, reference[0], rtol=1e-5)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ('accumulate', 'mesh', 'rules'),
    [(2, (), 'data'), (4, (), 'data'), (2, (2, 2), 'fsdp')],
    ids=str,
)
def test_accumulation_agrees_on_ragged_masks(
    batches, reference, accumulate, mesh, rules
):
    """A mean of the microbatches' means would differ: their weights do.

    So would one of the copies' that data parallelism has.
    """
    losses, _ = train(tiny.sharding(*mesh, rules=rules), batches[:5], accumulate)
    np.testing.assert_allclose(losses, reference[0][:5], rtol=1e-5)
    per_row = np.asarray(batches[0]['weights']).sum(1)
    assert len(set(per_row)) > 1


def test_one_step_is_the_textbook_one(batches):
    """AdamW and clipping in NumPy, from JAX's gradient of the mean loss."""
    model, batch = tiny.model(), batches[0]
    params = transformer.init(model, jax.random.key(0))

    def mean_loss(params):
        logits = transformer.forward(model, params, batch)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch['targets'])
        return jnp.sum(nats * batch['weights']) / jnp.sum(batch['weights'])

    loss, gradients = jax.value_and_grad(mean_loss)(params)
    norm = np.sqrt(sum(np.square(g).sum() for g in jax.tree.leaves(gradients)))
    scale = min(1, 1 / norm)
    losses, new = train(tiny.sharding(), batches[:1])
    assert losses[0] == pytest.approx(float(loss), rel=1e-5)
    learning_rate = 3e-3 / 5
    for name in ('tokens', 'positions'):
        g = np.asarray(gradients[name]) * scale
        # After one step, both moments with bias correction are g and g squared.
        update = g / (np.abs(g) + 1e-8) + 0.1 * np.asarray(params[name])
        expected = params[name] - learning_rate * update
        # Tokens without a gradient leave 0 / eps, tiny ones amplify rounding.
        certain = np.abs(g) > 1e-6
        np.testing.assert_allclose(new[name][certain], expected[certain], rtol=1e-4)
    old, bias = params['norm']['scale'], np.asarray(gradients['norm']['scale']) * scale
    expected = old - learning_rate * np.sign(bias)  # no decay here
    np.testing.assert_allclose(new['norm']['scale'], expected, rtol=1e-4)


def test_dropout_repeats_by_seed_and_step(batches):
    same = [batches[0]] * 2
    first, _ = train(tiny.sharding(), same, dropout=0.3)
    again, _ = train(tiny.sharding(), same, dropout=0.3)
    np.testing.assert_array_equal(first, again)
    assert first[0] != first[1]


def test_copies_have_rows_and_dropout_keys_of_their_own():
    """Mutations: one key for all; every fourth row."""

    def gradient(params, batch, key):
        return (jax.random.uniform(key, (3,)), batch['tokens']), core.Loss({}, {})

    run = functools.partial(step._of_copies, gradient, tiny.sharding(4))
    found, _ = jax.jit(run)({}, {'tokens': jnp.arange(8)}, jax.random.key(0))
    drawn, rows = (np.asarray(x) for x in found)
    assert len(np.unique(drawn)) == 4 * 3
    assert rows.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_batch_without_weight_changes_nothing_but_decay():
    batch = tiny.packed_batch(4)
    empty = dict(batch, weights=jnp.zeros_like(batch['weights']))
    losses, params = train(tiny.sharding(), [empty])
    assert losses[0] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_eval_equals_the_training_loss_without_dropout(batches, reference):
    model = tiny.model(dropout=0.5)
    params = transformer.init(model, jax.random.key(0))
    loss = step.eval_step(params, {}, batches[0], loss_fn=next_token.make(model))
    assert float(step.means(loss)['loss']) == pytest.approx(reference[0][0], rel=1e-5)
    assert dataclasses.replace(tiny.ARCH, dropout=0.5) == model.arch
