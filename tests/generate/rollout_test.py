"""Rollouts against the full forward pass: what is drawn, and how probable it was."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gptjax import trees
from gptjax.generate import rollout, sampling
from gptjax.model import lora, transformer

P, C, SEED = 6, 9, 2**40 + 3
NEVER = (0, 7)  # tokens that no model may say
ENDS = (5, 11, 12)
MODEL = tiny.model(L=2)


def sampler(**settings):
    may_say = np.ones(MODEL.arch.V, bool)
    may_say[list(NEVER)] = False
    plain = dict(max_tokens=C, temperature=1.0, top_k=0, top_p=1.0)
    return rollout.Sampler(**{**plain, **settings}, may_say_V=may_say, ends=ENDS)


def prompts(rows=slice(None), index=0):
    """Three prompts of 2, 4 and 6 tokens."""
    lengths = np.array([2, 4, 6])
    tokens = np.random.default_rng(0).integers(13, MODEL.arch.V, (3, P))
    tokens *= np.arange(P) < lengths[:, None]
    numbers = np.array([9, 2**31 + 1, 4], np.uint32)
    return rollout.Prompts(
        *(jnp.asarray(x[rows], jnp.int32) for x in (tokens, lengths)),
        jnp.asarray(numbers[rows]),
        jnp.full(len(lengths[rows]), index, jnp.int32),
    )


@functools.cache
def params(adapted):
    plain = transformer.init(MODEL, jax.random.key(1))
    if not adapted:
        return plain
    targets = ('blocks/attention/query', 'blocks/mlp/up')
    boxed = transformer.abstract(MODEL)
    factors = jax.tree.map(
        lambda leaf: leaf.value + 0.1,
        lora.init(boxed, targets, 2, jax.random.key(2)),
        is_leaf=lora.is_boxed,
    )
    return lora.join(plain, factors, 0.7)


@functools.cache
def made(repeat=4, adapted=False, rows=(0, 3), index=0, **settings):
    run = jax.jit(
        functools.partial(rollout.generate, MODEL, sampler(**settings), repeat=repeat)
    )
    words = jnp.asarray(sampling.seed_words(SEED))
    given = prompts(slice(*rows), index)
    return jax.device_get(run(params(adapted), given, words))


@pytest.mark.parametrize(
    ('adapted', 'settings'),
    [
        (False, dict(temperature=0.7, top_k=6, top_p=0.8)),
        (True, dict(temperature=1.5, top_k=0, top_p=0.9)),
    ],
    ids=['plain', 'adapted'],
)
def test_tokens_and_their_probabilities_are_those_of_the_full_forward(
    adapted, settings
):
    """Cached against full: each token again from the logits of the whole row."""
    completions, batch = made(adapted=adapted, **settings)

    @jax.jit
    def again(params, batch):
        """(tokens, their log-probabilities) at each place of a row, M x T."""
        logits_MTV = transformer.forward(MODEL, params, batch)
        log_p_MTV = jax.vmap(sampler(**settings).log_probs)(logits_MTV)
        seed = jax.random.wrap_key_data(jnp.asarray(sampling.seed_words(SEED)))

        def row(number, index, log_p_TV):
            key = jax.random.fold_in(jax.random.fold_in(seed, number), index)
            places = 1 + jnp.arange(len(log_p_TV))
            keys_T = jax.vmap(lambda place: jax.random.fold_in(key, place))(places)
            return jax.vmap(jax.random.categorical)(keys_T, log_p_TV)

        numbers = jnp.repeat(prompts().number_B, 4)
        tokens_MT = jax.vmap(row)(numbers, jnp.arange(12) % 4, log_p_MTV)
        chosen = jnp.take_along_axis(log_p_MTV, tokens_MT[..., None], -1)
        return tokens_MT, chosen[..., 0]

    tokens_MT, log_p_MT = again(params(adapted), batch)
    weighted = batch['weights'] > 0
    assert weighted.sum() > 40
    np.testing.assert_array_equal(batch['targets'][weighted], tokens_MT[weighted])
    # Within 1e-5 in float32.
    np.testing.assert_allclose(
        batch['sampler_log_p'][weighted], log_p_MT[weighted], atol=1e-5
    )
    np.testing.assert_array_equal(
        batch['targets'][weighted],
        completions.tokens_MC[np.arange(C) < completions.length_M[:, None]],
    )
    first = np.repeat(prompts().length_B, 4)[:, None] - 1
    said = np.arange(P + C - 1) - first
    np.testing.assert_array_equal(
        weighted, (said >= 0) & (said < completions.length_M[:, None])
    )
    assert len(set(map(tuple, completions.tokens_MC))) > 9  # groups are not copies


def test_rows_end_by_themselves_or_at_the_limit():
    completions, batch = made()
    assert 0 < completions.ended_M.sum() < 12
    for tokens, length, ended in zip(*completions[:3], strict=True):
        said = tokens[:length].tolist()
        assert not set(said) & set(NEVER)
        assert not set(said[:-1]) & set(ENDS)
        assert (said[-1] in ENDS) == ended
        assert ended or length == C
        assert not tokens[length:].any()
    real = batch['segments'] > 0
    np.testing.assert_array_equal(real.sum(1), batch['weights'].sum(1)
                                  + np.repeat(prompts().length_B, 4) - 1)  # fmt: skip
    places = np.arange(P + C - 1)
    np.testing.assert_array_equal(batch['positions'], places * real)
    # Each target is the next input, as far as there is one.
    following = real[:, 1:]
    np.testing.assert_array_equal(
        batch['tokens'][:, 1:] * following, batch['targets'][:, :-1] * following
    )


def test_a_completion_does_not_depend_on_its_batch():
    """Prompt 1 alone, and index 2 of its group by itself."""
    (whole, _), (alone, _) = made(), made(repeat=1, rows=(1, 2), index=2)
    at = 1 * 4 + 2
    np.testing.assert_array_equal(alone.tokens_MC[0], whole.tokens_MC[at])
    np.testing.assert_allclose(alone.log_p_MC[0], whole.log_p_MC[at], atol=1e-5)


def test_nothing_of_the_weights_is_left_behind():
    """No second copy between steps: what a call leaves is what it returns."""
    weights = params(False)
    run = jax.jit(functools.partial(rollout.generate, MODEL, sampler(), repeat=4))
    words = jnp.asarray(sampling.seed_words(SEED))
    given = prompts()
    jax.block_until_ready(run(weights, given, words))  # keeps its constants
    before = {id(x) for x in jax.live_arrays()}
    found = run(weights, given, words)
    new = [x for x in jax.live_arrays() if id(x) not in before]
    assert sum(x.nbytes for x in new) == sum(x.nbytes for x in jax.tree.leaves(found))
    assert sum(x.nbytes for x in new) < 4 * trees.count(weights) / 2
