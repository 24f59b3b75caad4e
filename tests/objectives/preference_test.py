"""The preference objective against formulas in NumPy, and at its start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gptjax.model import transformer
from gptjax.objectives import preference
from gptjax.train import step


def made(name, beta, reference='live', **options):
    loss = dict(name=name, beta=beta, **options)
    return preference.make(tiny.model(), loss, reference)


@pytest.fixture(scope='module')
def pairs():
    two = [tiny.packed_batch(3, seed=seed) for seed in (1, 2)]
    return {name: jnp.stack([b[name] for b in two], 1) for name in two[0]}


@pytest.fixture(scope='module')
def models():
    return [transformer.init(tiny.model(), jax.random.key(seed)) for seed in (0, 1)]


def test_the_first_loss_is_ln_2(pairs, models):
    loss_fn = made('sigmoid', 0.1)
    loss = step.means(loss_fn(models[0], {'reference': models[0]}, pairs, None))
    assert float(loss['loss']) == pytest.approx(np.log(2), abs=1e-6)
    assert float(loss['reward_accuracy']) == 0  # a tie is not a right answer


def test_the_loss_is_the_formula(pairs, models):
    beta = 0.3
    model = tiny.model()

    def log_p(params):
        sums = np.zeros((3, 2))
        for row in range(3):
            for choice in range(2):
                one = {n: x[row, choice][None] for n, x in pairs.items()}
                logits = np.asarray(
                    transformer.forward(model, params, one), np.float64
                )[0]
                shifted = logits - logits.max(-1, keepdims=True)
                normal = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
                picked = normal[np.arange(tiny.ARCH.T), one['targets'][0]]
                sums[row, choice] = (picked * np.asarray(one['weights'])[0]).sum()
        return sums

    policy, reference = (log_p(params) for params in models)
    margin = beta * ((policy - reference) @ np.array([1, -1]))
    loss_fn = jax.jit(made('sigmoid', beta))
    found = step.means(loss_fn(models[0], {'reference': models[1]}, pairs, None))
    assert float(found['loss']) == pytest.approx(np.log1p(np.exp(-margin)).mean(), 1e-4)
    assert float(found['reward_margin']) == pytest.approx(margin.mean(), 1e-3)
    assert float(found['reward_accuracy']) == pytest.approx((margin > 0).mean())
    assert float(found['accuracy']) == pytest.approx(
        (policy[:, 0] > policy[:, 1]).mean()
    )


def test_pairs_without_weight_do_not_count(pairs, models):
    loss_fn = jax.jit(made('sigmoid', 0.3))
    padded = dict(pairs, weights=pairs['weights'].at[2].set(0))
    two = {name: x[:2] for name, x in pairs.items()}
    full, short = (
        loss_fn(models[0], {'reference': models[1]}, batch, None)
        for batch in (padded, two)
    )
    for a, b in zip(jax.tree.leaves(full), jax.tree.leaves(short), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert float(full.terms['loss'][1]) == 2


def test_the_gradient_leaves_the_reference_alone_and_prefers_the_chosen(pairs, models):
    loss_fn = made('sigmoid', 0.5)

    def loss(params, frozen):
        return step.means(loss_fn(params, {'reference': frozen}, pairs, None))['loss']

    gradient = jax.jit(jax.grad(loss))(models[0], models[0])
    moved = jax.tree.map(lambda p, g: p - 0.01 * g, models[0], gradient)
    metrics = step.means(loss_fn(moved, {'reference': models[0]}, pairs, None))
    assert float(metrics['loss']) < np.log(2)
    assert float(metrics['reward_margin']) > 0
