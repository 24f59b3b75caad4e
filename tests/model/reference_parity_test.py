"""What `transformers` has no class of, against the NumPy reference in float64."""

import dataclasses
import zlib

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import tiny

from gptjax import trees
from gptjax.model import config, table, transformer

T = 12
SMALL = dict(T=T, V=31, D=20, F=28, N=4, K=2, H=6, L=3)


def arch(preset, **changes):
    made = config.architecture('model', **table.preset(preset, **(SMALL | changes)))
    return dataclasses.replace(made, dropout=0.0)


ONE_HEAD_EACH = dict(K=4)
ARCHS = {
    'gpt3': arch('gpt3-nano', windows=(0, 3), **ONE_HEAD_EACH),
    'gpt3-other-order': arch('gpt3-nano', windows=(2, 0), head=dict(tied=False)),
    'modern': arch('modern-nano', head=dict(soft_cap=3.0)),
    'transformer': arch('transformer-nano', encoder_L=2, L=1, **ONE_HEAD_EACH),
    'experts': arch('mixtral-nano', experts=dict(E=4, k=2, balance=0.3, z=0.1)),
    'experts-1': arch(
        'modern-nano',
        experts=dict(E=5, k=1, balance=0.2, z=0.3),
        positions=dict(kind='learned'),
        norms=dict(kind='layer', query_key=False),
    ),
    'encoder-windows': arch(
        'bert-nano', windows=(3,), types=0, head=dict(kind='tokens'), **ONE_HEAD_EACH
    ),
}
GRADIENTS = ('gpt3', 'modern', 'transformer', 'experts')


def packed():
    """Rows of two documents and padding on either side, then one whole document."""
    rng = np.random.default_rng(0)
    lengths = [[(0, 1), (1, 6), (2, 4), (0, 1)], [(1, 3), (2, 9)], [(1, T)]]
    segments = np.array([np.concatenate([[n] * k for n, k in row]) for row in lengths])
    positions = np.array(
        [np.concatenate([np.arange(k) for _, k in row]) for row in lengths]
    )
    tokens, targets = rng.integers(0, SMALL['V'], (2, *segments.shape))
    batch = {'tokens': tokens, 'positions': positions, 'segments': segments}
    return batch, targets


def batch_of(arch):
    batch, targets = packed()
    if arch.encoder_L:  # sources in another order than the documents of the row
        flipped = {f'source_{name}': batch[name][:, ::-1] for name in batch}
        flipped['source_positions'] = batch['positions'] * 0 + np.arange(T)
        batch |= flipped | {'source': flipped.pop('source_tokens')}
    return {k: jnp.asarray(v, jnp.int32) for k, v in batch.items()}, targets


def weights(model):
    """Parameters larger than at initialisation; scales around 1, biases not 0."""

    def fill(path, leaf):
        name = path.rsplit('/', 1)[-1]
        normal = np.random.default_rng(zlib.crc32(path.encode())).standard_normal(
            leaf.shape
        )
        if name == 'scale' or name.endswith('_norm'):
            return 1 + 0.3 * normal
        if 'bias' in name:
            return 0.3 * normal
        return normal * (0.25 if 'blocks' in path else 0.6)

    return trees.map_with_path(fill, nn.unbox(transformer.abstract(model)))


def total(logits, targets, real, xp):
    """The mean cross-entropy of real tokens."""
    chosen = xp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return xp.sum((xp.log(xp.exp(logits).sum(-1)) - chosen) * real) / real.sum()


@pytest.mark.parametrize('name', ARCHS)
def test_logits_losses_and_gradients_equal_the_reference(name):
    arch = ARCHS[name]
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    batch, targets = batch_of(arch)
    real = np.asarray(batch['segments'] > 0)
    exact = weights(model)

    def truth(params):
        x_BTD, router = reference.hidden(arch, params, batch)
        logits = reference.logits(arch, params, x_BTD)
        losses = np.array([total(logits, targets, real, np), 0.0, 0.0])
        if arch.experts:
            losses[1] = arch.experts.balance * router.balance / (arch.L * len(real))
            losses[2] = arch.experts.z * router.z / (arch.L * real.sum())
        return logits, losses

    @jax.jit
    def ours(params):
        def loss(params):
            x_BTD, router = transformer.hidden(model, params, batch)
            logits = transformer.logits(model, params, x_BTD)
            terms = [total(logits, jnp.asarray(targets), real, jnp)]
            for term in ('balance', 'router_z'):
                value, weight = router.get(term, (0.0, 1.0))
                terms.append(value / weight)
            return sum(terms), (logits, jnp.stack(terms))

        if name not in GRADIENTS:
            return loss(params), {}
        return jax.value_and_grad(loss, has_aux=True)(params)

    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), exact)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    (_, (logits, losses)), gradients = ours(params)
    true_logits, true_losses = truth(exact)
    assert np.abs(true_logits).max() > 1  # so that 1e-4 says something
    np.testing.assert_allclose(logits[real], true_logits[real], atol=1e-4)
    np.testing.assert_allclose(losses, true_losses, rtol=1e-5)

    everything = optax.tree.norm(gradients)
    for path, gradient in trees.paths(gradients):
        slope, step = directional(truth, exact, path), 1e-3 * np.linalg.norm(gradient)
        mine = np.sum(direction(path, gradient.shape) * np.asarray(gradient))
        assert abs(mine - slope) <= step + 1e-6 * everything, path


def direction(path, shape):
    return np.random.default_rng(zlib.crc32(path.encode()) + 1).standard_normal(shape)


def directional(truth, params, path, step=1e-7):
    """The slope of the loss along a random direction of one leaf, by differences.

    The step is small enough to leave each ReLU on its side of 0.
    """

    def moved(sign):
        along = trees.map_with_path(
            lambda p, leaf: (
                leaf + sign * step * direction(p, leaf.shape) if p == path else leaf
            ),
            params,
        )
        return truth(along)[1].sum()

    return (moved(1) - moved(-1)) / (2 * step)


def test_the_modern_recipe_begins_as_its_embeddings():
    """Projections begin at 0: the layers add nothing to the residual stream."""
    arch = ARCHS['modern']
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    params = transformer.init(model, jax.random.key(0))
    batch, _ = batch_of(arch)
    embedded = np.asarray(params['tokens'], np.float64)[batch['tokens']]
    ones = {'scale': np.ones(arch.D)}
    expected = reference.logits(arch, params, reference.norm(arch, ones, embedded))
    np.testing.assert_allclose(
        transformer.forward(model, params, batch), expected, atol=1e-6
    )
    assert np.abs(expected).max() > 1e-2
