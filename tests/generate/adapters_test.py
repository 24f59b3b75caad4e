"""Many adapters over one base: each row goes through its own, as if it were alone."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import command, trees
from gptjax.generate import engine as engine_lib
from gptjax.model import gpt, lora, transformer

# Paths of adapted weights with R and scale: they differ in all three.
ADAPTERS = {
    'attention': (('blocks/attention/query', 'blocks/attention/out'), 2, 0.5),
    'mlp': (('blocks/mlp/up', 'blocks/mlp/down', 'blocks/attention/query'), 3, 1.25),
}


def adapter(params, paths, R, scale, seed):
    """(adapters, scale) with random factors, made without the library."""
    rng = np.random.default_rng(seed)
    made = {}
    for path in paths:
        *above, name = path.split('/')
        weight = dict(trees.paths(params))[path]
        L, *dims = weight.shape
        inner = dims[:2] if name == 'out' else dims[:1]
        outer = dims[len(inner) :]
        node = made
        for part in above:
            node = node.setdefault(part, {})
        node[name] = {
            'down': jnp.asarray(rng.normal(0, 0.3, (L, *inner, R)), jnp.float32),
            'up': jnp.asarray(rng.normal(0, 0.3, (L, R, *outer)), jnp.float32),
        }
    return made, scale


def merged(params, adapters, scale):
    """The weights with scale down up added in float64, path by path."""
    factors = dict(trees.paths(adapters))

    def add(path, leaf):
        if f'{path}/down' not in factors:
            return leaf
        down, up = (
            np.asarray(factors[f'{path}/{n}'], np.float64) for n in ('down', 'up')
        )
        L, R = down.shape[0], down.shape[-1]
        product = down.reshape(L, -1, R) @ up.reshape(L, R, -1)
        return jnp.asarray(leaf + scale * product.reshape(leaf.shape), jnp.float32)

    return trees.map_with_path(add, params)


@pytest.fixture(scope='module')
def given(tiny):
    return {
        name: adapter(tiny.params, *made, seed)
        for seed, (name, made) in enumerate(ADAPTERS.items())
    }


@pytest.fixture(scope='module')
def engine(tiny, given):
    return engine_lib.Engine(tiny.model, tiny.params, tiny.tokenizer, given)


def requests(engine):
    """Rows of all adapters and none, sampled and greedy, of different lengths."""
    names = [None, 'mlp', 'attention', 'mlp', None, 'attention']
    return [
        engine_lib.Request(
            engine.document('go ' * (i % 3) + 'x' * i),
            max_tokens=12,
            temperature=[0.0, 0.9][i % 2],
            seed=i,
            adapter=name,
        )
        for i, name in enumerate(names)
    ]


def test_a_batch_of_adapters_is_each_of_them_alone(tiny, given, engine):
    asked = requests(engine)
    together = engine.generate(asked)
    assert engine._complete._cache_size() == 1
    alone = copy.copy(tiny.engine)  # compiled once: parameters are an argument
    for name in (None, *given):
        dense = merged(tiny.params, *given[name]) if name else tiny.params
        alone._params = transformer.unstack(tiny.model, dense)
        rows = [i for i, request in enumerate(asked) if request.adapter == name]
        plain = [dataclasses.replace(asked[i], adapter=None) for i in rows]
        expected = alone.generate(plain)
        assert [together[i] for i in rows] == expected
    assert len({completion.text for completion in together}) == len(asked)
    # The order of the rows, and so the number of each adapter's row, has no say.
    assert engine.generate(asked[::-1]) == together[::-1]


def test_log_probs_of_a_batch_are_those_of_each_adapter_alone(tiny, given):
    B, T = 4, 10
    tokens_BT = np.random.default_rng(0).integers(0, 256, (B, T)).astype(np.int32)
    positions_BT = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    segments_BT = np.ones((B, T), np.int32)
    index = [0, 2, 1, 2]
    inputs = jnp.asarray(tokens_BT), jnp.asarray(positions_BT)
    joined = lora.join(tiny.params, lora.several([({}, 1.0), *given.values()]), 1.0)
    joined = lora.choose(transformer.unstack(tiny.model, joined), jnp.array(index))
    model = tiny.model
    cache = gpt.init_cache(model.arch, B, T, model.compute.dtype)
    logits_BTV, _ = jax.jit(
        lambda params: transformer.decode(model, params, *inputs, cache)
    )(joined)
    ours = np.asarray(jax.nn.log_softmax(logits_BTV))
    base = [tiny.params, *(merged(tiny.params, *one) for one in given.values())]
    batch = dict(
        tokens=inputs[0], positions=inputs[1], segments=jnp.asarray(segments_BT)
    )
    forward = jax.jit(lambda params: transformer.forward(model, params, batch))
    for row, which in enumerate(index):
        alone = np.asarray(jax.nn.log_softmax(forward(base[which])[row]))
        np.testing.assert_allclose(ours[row], alone, rtol=0, atol=1e-5)


def test_an_unknown_adapter_is_named(tiny, engine):
    request = engine_lib.Request((1, 2), max_tokens=1, adapter='mpl')
    with pytest.raises(command.UserError, match="did you mean 'mlp'"):
        engine.check(request)
    with pytest.raises(command.UserError, match='no adapter'):
        tiny.engine.check(request)
