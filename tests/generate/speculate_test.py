"""Drafts decide how fast tokens come, and never which."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import command
from gptjax.generate import engine, loop, sampling, speculate


@pytest.mark.parametrize(
    ('row', 'wanted'),
    [
        ([1, 2, 3, 4, 9, 1, 2, 3], [4, 9, 1]),  # behind the longest match
        ([1, 2, 3, 7, 2, 3, 8, 1, 2, 3], [7, 2, 3]),  # not the latest
        ([2, 3, 7, 2, 3, 8, 5, 2, 3], [8, 5, 2]),  # the latest of equals
        ([6, 5, 4, 5, 4], [5, 4, 5]),  # a period goes on
        ([8], [0, 0, 0]),
    ],
)
def test_a_draft_is_what_followed_the_same_words(row, wanted):
    """Catches a match that ends a token early or late, and one with what is ahead."""
    tokens_BS = np.full((1, 16), 99, np.int32)
    tokens_BS[0, : len(row)] = row
    if len(row) == 1:
        tokens_BS[0, 1:] = 0
    found = speculate.draft(jnp.asarray(tokens_BS), jnp.array([len(row) - 1]), 3)
    assert found[0].tolist() == wanted


def batch(temperature):
    """Five prompts of different lengths, of which one repeats itself."""
    rng = np.random.default_rng(0)
    prompts_BT = rng.integers(0, 256, (5, 16)).astype(np.int32)
    prompts_BT[1] = np.tile([5, 6, 7, 8], 4)
    last_B = np.array([3, 15, 9, 0, 12], np.int32)
    left_B = 63 - last_B  # to the end of the context
    left_B[0] = 1
    seeds = np.stack([sampling.seed_words(b) for b in range(5)])
    settings = loop.Settings(
        jnp.full(5, temperature),
        jnp.array([0, 0, 20, 0, 0]),
        jnp.array([1.0, 1, 1, 0.9, 1]),
        jnp.asarray(seeds),
        jnp.full((5, 4), -1, jnp.int32),
    )
    return prompts_BT, last_B, last_B, left_B, settings


@pytest.mark.parametrize(
    ('drafted', 'left', 'stop', 'taken'),
    [
        ([4, 7, 9], 9, -1, [4, 7, 9, 2]),  # all right, and one more
        ([4, 8, 9], 9, -1, [4, 7]),  # up to what corrects the wrong one
        ([4, 7, 9], 9, 7, [4, 7]),
        ([4, 7, 9], 3, -1, [4, 7, 9]),
        ([4, 7, 9], 0, -1, []),
    ],
)
def test_what_is_taken_of_a_pass(drafted, left, stop, taken):
    """Catches tokens behind a stop, a wrong guess, or the last that was asked for."""
    nothing = jnp.zeros(1)
    settings = loop.Settings(*[nothing] * 4, stops_BX=jnp.array([[stop]]))
    out_BC = jnp.array([[5, *[-1] * 7]])
    state = loop.State(*jnp.array([[1], [5], [3], [left]]), out_BC, None)
    state = speculate._taken(
        state, jnp.array([drafted]), jnp.array([[4, 7, 9, 2]]), settings
    )
    said = [5, *taken]
    assert state.out_BC[0].tolist() == said + [-1] * (8 - len(said))
    assert (state.token_B[0], state.position_B[0]) == (said[-1], 3 + len(taken))
    done = stop in taken or len(taken) == left
    assert (state.left_B[0] == 0) == done


@pytest.fixture(scope='module')
def decoders(flat):
    """Plain, and with 4 tokens drafted, compiled once."""
    model, params = flat.model, flat.engine._params
    allowed_V = jnp.arange(model.arch.V) < 300
    begin = functools.partial(loop.prefill, model, allowed_V)
    plain = functools.partial(loop.complete, model)
    fast = functools.partial(speculate.complete, model, 4)
    made = [
        functools.partial(complete, begin, allowed_V, rooms=rooms, dtype='float32')
        for complete, rooms in ((plain, (64,)), (fast, (32, 64)))
    ]
    return [functools.partial(jax.jit(complete), params) for complete in made]


@pytest.mark.parametrize('temperature', [0.0, 0.7])
def test_tokens_are_those_of_plain_decoding(decoders, temperature):
    """Greedy and sampled, with stop tokens, up to the last slot of the context.

    Catches a cache without room for the draft, a key of another position, and a token
    taken behind a wrong one or behind a stop.
    """
    plain, fast = decoders
    *rows, settings = batch(temperature)
    wanted = np.asarray(plain(*rows, settings))
    np.testing.assert_array_equal(fast(*rows, settings), wanted)
    assert ((wanted >= 0).sum(1) == rows[-1]).all()
    stops_BX = np.full((5, 4), -1, np.int32)
    stops_BX[:, 0] = wanted[:, 11]  # that row 0 never says
    settings = settings._replace(stops_BX=jnp.asarray(stops_BX))
    stopped = np.asarray(plain(*rows, settings))
    assert ((stopped >= 0).sum(1) < rows[-1])[1:].all()
    np.testing.assert_array_equal(fast(*rows, settings), stopped)


@pytest.mark.long
def test_chunks_are_those_of_the_whole(flat, decoders):
    """What streams read: the same tokens, and more of them in a chunk."""
    model, params = flat.model, flat.engine._params
    allowed_V = jnp.arange(model.arch.V) < 300
    prompts_BT, last_B, position_B, left_B, settings = batch(0.0)
    begin = functools.partial(loop.prefill, model, allowed_V, dtype='float32')
    first_B, cache = jax.jit(functools.partial(begin, S=67))(
        params, prompts_BT, last_B, settings
    )
    decode = jax.jit(functools.partial(speculate.decode, model, 3, allowed_V))
    plain, _ = decoders
    wanted = np.asarray(plain(prompts_BT, last_B, position_B, left_B, settings))
    said = [[int(token)] for token in first_B]
    chunks = 0
    while any(len(one) < left for one, left in zip(said, left_B, strict=True)):
        tokens_BS = np.zeros((5, 65), np.int32)
        for b, one in enumerate(said):
            row = [*prompts_BT[b, : last_B[b] + 1], *one]
            tokens_BS[b, : len(row)] = row
        count_B = np.array([len(one) for one in said], np.int32)
        out_BC, cache = decode(
            params,
            tokens_BS,
            np.array([one[-1] for one in said], np.int32),
            last_B + count_B,
            left_B - count_B,
            settings,
            cache=cache,
        )
        for one, tokens in zip(said, np.asarray(out_BC).tolist(), strict=True):
            one += [token for token in tokens if token >= 0]
        chunks += 1
    for one, tokens in zip(said, wanted.tolist(), strict=True):
        assert one == [token for token in tokens if token >= 0]
    assert chunks < 62 / loop.CHUNK  # a draft was right


@pytest.mark.long
def test_the_engine_says_the_same(tiny):
    """Whole, in a stream and up to a stop string; rows of one batch differ."""
    fast = engine.Engine(tiny.model, tiny.params, tiny.tokenizer, drafted=4)
    settings = dict(max_tokens=40, stop_tokens=())
    texts = 'abcabcabc', 'What?'
    requests = [
        engine.Request(tiny.engine.document(text), temperature=t, seed=3, **settings)
        for text, t in zip(texts, (0.0, 0.8), strict=True)
    ]
    wanted = tiny.engine.generate(requests)
    assert fast.generate(requests) == wanted
    streamed = [token for piece in fast.stream(requests[0]) for token in piece.tokens]
    assert tuple(streamed) == wanted[0].tokens
    stop = dataclasses.replace(requests[0], stop=(wanted[0].text[10:12],))
    assert fast.generate([stop]) == tiny.engine.generate([stop])


@pytest.mark.parametrize('drafted', [-1, 64])
def test_drafts_beyond_the_context_are_refused(tiny, drafted):
    with pytest.raises(command.UserError, match='63'):
        engine.Engine(tiny.model, tiny.params, tiny.tokenizer, drafted=drafted)
