"""Adapters and quantised bases: what they compute, and what they leave alone."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_family

from gptjax import command, trees
from gptjax.model import config, lora, transformer


@functools.cache
def model():
    """Grouped heads, a gated MLP, and an unembedding of its own."""
    return tiny_family.model('llama', L=2, T=8, head=config.Head('tokens', tied=False))


@functools.cache
def base():
    return tiny_family.params(model())


def targets(params):
    return [path for path, _ in trees.paths(params) if lora.adaptable(path)]


@functools.cache
def fresh(R=4):
    boxed, paths = transformer.abstract(model()), targets(base())
    make = jax.jit(lambda key: nn.unbox(lora.init(boxed, paths, R, key)))
    return make(jax.random.key(1))


@functools.cache
def trained(R=4, seed=1):
    """Adapters that are not 0 any more."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(x + rng.normal(0, 0.1, x.shape), x.dtype), fresh(R)
    )


merge = jax.jit(lora.merge)
unmerge = jax.jit(lambda *given: lora.unmerge(*given, 0.7))
unstack = jax.jit(lambda params: transformer.unstack(model(), params))


@jax.jit
def hidden(params):
    batch = tiny.packed_batch(3, model().arch)
    return transformer.hidden(model(), params, batch)[0]


@jax.jit
def two_tokens(layers):
    """Logits of two tokens of 3 rows, one after the other, through the cache."""
    arch, logits = model().arch, []
    tokens, positions, _ = tiny.whole_rows(3, arch)
    cache = transformer.gpt.init_cache(arch, 3, 2, jnp.float32)
    for i in range(2):
        now = slice(i, i + 1)
        given = tokens[:, now], positions[:, now], cache
        found, cache = transformer.decode(model(), layers, *given)
        logits.append(found)
    return jnp.concatenate(logits, axis=1)


def decoded(params):
    return two_tokens(unstack(params))


def test_fresh_adapters_of_all_weights_change_no_bit():
    joined = lora.join(base(), fresh(), 0.7)
    np.testing.assert_array_equal(hidden(joined), hidden(base()))
    np.testing.assert_array_equal(decoded(joined), decoded(base()))


def test_fresh_adapters_begin_as_pefts():
    down = fresh(64)['blocks']['attention']['out']['down']
    bound = np.prod(down.shape[1:-1]) ** -0.5
    assert np.max(np.abs(down)) == pytest.approx(bound, rel=0.01)
    np.testing.assert_allclose(np.std(down), bound / 3**0.5, rtol=0.05)
    assert not np.array_equal(down[0], down[1]), 'layers begin with different numbers'


def test_merged_is_joined_and_unmerges():
    joined = lora.join(base(), trained(), 0.7)
    merged = merge(joined)
    assert jax.tree.structure(merged) == jax.tree.structure(base())
    assert np.max(np.abs(hidden(joined) - hidden(base()))) > 0.1
    np.testing.assert_allclose(hidden(merged), hidden(joined), atol=1e-5)
    np.testing.assert_allclose(decoded(merged), decoded(joined), atol=1e-5)
    for leaf, before in zip(
        jax.tree.leaves(unmerge(merged, trained())),
        jax.tree.leaves(base()),
        strict=True,
    ):
        np.testing.assert_allclose(leaf, before, atol=1e-6)


def test_each_row_goes_through_its_own_adapter():
    """Of another rank and scale each; the second row through the base alone."""
    given, scales = [trained(4, 1), {}, trained(2, 2)], (0.7, 1.0, 1.5)
    several = jax.jit(lambda trees: lora.several([*zip(trees, scales, strict=True)]))
    layers = unstack(lora.join(base(), several(given), 1.0))
    found = two_tokens(lora.choose(layers, jnp.array([2, 1, 0])))
    for row, index in enumerate([2, 1, 0]):
        joined = lora.join(base(), given[index], scales[index])
        alone = decoded(merge(joined) if given[index] else base())
        np.testing.assert_allclose(found[row], alone[row], atol=1e-5)


def test_what_cannot_be_adapted_is_named():
    boxed = transformer.abstract(model())
    for path in ('tokens', 'blocks/mlp_norm/scale', 'blocks/attention/que'):
        with pytest.raises(command.UserError, match=f'{path} cannot be adapted'):
            lora.init(boxed, [path], 4, jax.random.key(0))
    with pytest.raises(command.UserError, match='replaces norm/scale whole'):
        lora.several([({'norm': {'scale': jnp.ones(4)}}, 1.0)])
    with pytest.raises(command.UserError, match='for decoder, which its base does'):
        lora.join(base(), {'decoder': {}}, 1.0)
