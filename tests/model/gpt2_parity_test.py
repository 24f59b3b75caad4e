"""GPT-2's forward pass against `transformers` on the same weights, in a golden file."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gptjax.model import transformer
from gptjax.model.families import gpt2


@pytest.fixture(scope='module')
def golden():
    """Made by tests/golden/make_gpt2.py, with torch; it holds the versions."""
    return np.load(Path(__file__).parents[1] / 'golden' / 'gpt2.npz')


def converted(golden, arch):
    """The weights under our names: their products are (in, out), and so are ours."""
    D, N, H = arch.D, arch.N, arch.H

    def layer(i):
        def get(name):
            return golden[f'h.{i}.{name}']

        kernels = np.split(get('attn.c_attn.weight'), 3, axis=1)
        biases = np.split(get('attn.c_attn.bias'), 3)
        attention = {'out': get('attn.c_proj.weight').reshape(N, H, D)}
        attention['out_bias'] = get('attn.c_proj.bias')
        names = ('query', 'key', 'value')
        for name, kernel, bias in zip(names, kernels, biases, strict=True):
            attention[name] = kernel.reshape(D, N, H)
            attention[f'{name}_bias'] = bias.reshape(N, H)
        return {
            'attention': attention,
            'attention_norm': {'scale': get('ln_1.weight'), 'bias': get('ln_1.bias')},
            'mlp_norm': {'scale': get('ln_2.weight'), 'bias': get('ln_2.bias')},
            'mlp': {
                'up': get('mlp.c_fc.weight'),
                'up_bias': get('mlp.c_fc.bias'),
                'down': get('mlp.c_proj.weight'),
                'down_bias': get('mlp.c_proj.bias'),
            },
        }

    blocks = [layer(i) for i in range(arch.L)]
    return {
        'tokens': golden['wte.weight'],
        'positions': golden['wpe.weight'],
        'norm': {'scale': golden['ln_f.weight'], 'bias': golden['ln_f.bias']},
        'blocks': jax.tree.map(lambda *leaves: np.stack(leaves), *blocks),
    }


def test_logits_equal_those_of_transformers(golden):
    arch = gpt2.sized(L=3, N=4, D=32, T=24, V=61)
    model = tiny.model(arch)
    params = jax.tree.map(jnp.asarray, converted(golden, arch))
    assert jax.tree.map(np.shape, params) == jax.tree.map(
        lambda leaf: leaf.shape,
        jax.eval_shape(lambda: transformer.init(model, jax.random.key(0))),
    )
    for tokens, logits in (
        (golden['tokens'], golden['logits']),
        (golden['tokens'][:1, :7], golden['short_logits']),
    ):
        positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        rows = (jnp.asarray(x) for x in (tokens, positions, np.ones_like(tokens)))
        names = ('tokens', 'positions', 'segments')
        batch = dict(zip(names, rows, strict=True))
        ours = transformer.forward(model, params, batch)
        np.testing.assert_allclose(ours, logits, atol=1e-4)
        assert np.abs(logits).max() > 1  # so that 1e-4 says something
