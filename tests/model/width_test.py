"""muP: what scales with the width, by its definition and by the coordinate check."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from gptjax import command, trees
from gptjax.model import config, transformer


def arch(D, **changes):
    N = D // tiny.ARCH.H
    return dataclasses.replace(tiny.ARCH, D=D, F=2 * D, N=N, K=N, **changes)


def params(arch):
    return transformer.init(tiny.model(arch), jax.random.key(0))


def test_weights_begin_as_the_table_of_the_paper_says():
    """Yang et al. (2021), table 8: std of inputs 1, of hidden 1/sqrt(m), logits / m.

    Mutation: hidden weights begin as embeddings.
    """
    plain, wide = (params(arch(64, base_D=base)) for base in (0, 16))
    for (path, a), (_, b) in zip(trees.paths(plain), trees.paths(wide), strict=True):
        name = path.split('/')[-1]
        hidden = name in ('query', 'key', 'value', 'out', 'up', 'down')
        np.testing.assert_allclose(b, a * (0.5 if hidden else 1), rtol=1e-6)
    batch = tiny.packed_batch(2)
    models = [tiny.model(arch(64, base_D=base)) for base in (0, 16)]
    logits = [np.asarray(transformer.forward(m, plain, batch)) for m in models]
    np.testing.assert_allclose(logits[1], logits[0] / 4, rtol=1e-5)


def test_at_its_base_nothing_changes():
    plain, same = (params(arch(32, base_D=base)) for base in (0, 32))
    jax.tree.map(np.testing.assert_array_equal, plain, same)


def test_an_embedding_that_grows_with_the_width_is_refused():
    with pytest.raises(command.UserError, match=r'model\.base_D is 16; .*off then'):
        config.architecture(
            **config.plain(tiny.ARCH) | dict(base_D=16, scale_embedding=True)
        )
