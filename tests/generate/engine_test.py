import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_family

from gptjax import command
from gptjax.generate import engine as engine_lib
from gptjax.generate import loop
from gptjax.model import transformer
from gptjax.text import bytes as byte_level
from gptjax.text import table
from gptjax.text import tokenizer as text_tokenizer

Request = engine_lib.Request


def allowed_logits(tiny, tokens):
    """The last logits of the full forward pass, of what may be said: the reference."""
    row = np.zeros((1, tiny.model.arch.T), np.int32)
    row[0, : len(tokens)] = tokens
    segments = (np.arange(row.shape[1]) < len(tokens)).astype(np.int32)[None]
    positions = np.arange(row.shape[1], dtype=np.int32)[None]
    logits = _forward(tiny, row, positions, segments)[0, len(tokens) - 1]
    control = tiny.tokenizer.control
    never = [control[f'<|{role}|>'] for role in ('system', 'user', 'assistant')]
    logits[never] = -np.inf
    logits[tiny.tokenizer.vocab_size :] = -np.inf
    return logits


def _forward(tiny, *arrays):
    if not hasattr(tiny, 'forward'):
        forward = functools.partial(transformer.forward, tiny.model, tiny.params)
        tiny.forward = jax.jit(forward)
    names = ('tokens', 'positions', 'segments')
    batch = dict(zip(names, map(jnp.asarray, arrays), strict=True))
    return np.array(tiny.forward(batch))


def test_greedy_decoding_is_the_argmax_of_the_full_forward_pass(tiny):
    prompt = tiny.engine.document('What is a generator?')
    [got] = tiny.engine.generate(
        [Request(prompt, max_tokens=40, temperature=0.0, stop_tokens=())]
    )
    assert len(got.tokens) == 40
    tokens = list(prompt)
    for token in got.tokens:
        assert token == np.argmax(allowed_logits(tiny, tokens))
        tokens.append(token)
    assert len(set(got.tokens)) > 5  # not a model that says one thing


def test_a_sampled_token_has_the_key_of_its_seed_and_position(tiny):
    prompt = tiny.engine.document('abc')
    request = Request(prompt, max_tokens=20, temperature=0.8, seed=5, stop_tokens=())
    tokens = list(prompt)
    for token in tiny.engine.generate([request])[0].tokens:
        key = jax.random.fold_in(jax.random.key(5), len(tokens))
        scaled = jnp.asarray(allowed_logits(tiny, tokens)) / 0.8
        assert token == jax.random.categorical(key, scaled - scaled.max())
        tokens.append(token)


def requests(engine):
    """Different lengths (so other buckets), settings, stops and seeds."""
    made = []
    for i in range(8):
        made.append(
            Request(
                engine.document('Zażółć gęślą jaźń. ' * (i % 2) + 'x' * i),
                max_tokens=5 + 7 * (i % 4),
                temperature=[0.0, 0.7, 1.3][i % 3],
                top_k=[0, 20][i % 2],
                top_p=[1.0, 0.9, 0.5][i % 3],
                seed=i // 2,
                stop=[(), ('e', 'xy')][i % 2],
            )
        )
    return made


def test_a_request_yields_the_same_alone_and_in_any_batch(tiny, monkeypatch):
    batch = requests(tiny.engine)
    together = tiny.engine.generate(batch)
    assert tiny.engine.generate(batch[::-1])[::-1] == together
    monkeypatch.setattr(tiny.engine, 'batch', 1)
    assert tiny.engine.generate(batch) == together


def test_a_stream_is_the_completion_in_small_pieces(tiny):
    for request in requests(tiny.engine):
        pieces = list(tiny.engine.stream(request))
        [whole] = tiny.engine.generate([request])
        assert ''.join(piece.text for piece in pieces) == whole.text
        assert sum((piece.tokens for piece in pieces), ()) == whole.tokens
        assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (
            len(pieces) - 1
        )
        assert pieces[-1].finish_reason == whole.finish_reason
        assert len(pieces[0].tokens) == 1
        assert max(len(piece.tokens) for piece in pieces) <= loop.CHUNK


def test_stop_tokens_end_the_text_before_themselves(tiny):
    prompt = tiny.engine.document('Hello')
    settings = dict(max_tokens=40, temperature=1.0, seed=3)
    [free] = tiny.engine.generate([Request(prompt, stop_tokens=(), **settings)])
    for index in (0, 5, 17):
        stop = free.tokens[index]
        end = free.tokens.index(stop)
        [got] = tiny.engine.generate([Request(prompt, stop_tokens=(stop,), **settings)])
        assert got.tokens == free.tokens[: end + 1]
        assert got.text == tiny.tokenizer.decode(free.tokens[:end])
        assert got.finish_reason == 'stop'


def test_both_ends_of_the_tokenizer_stop_by_default(tiny, monkeypatch):
    monkeypatch.setattr(tiny.engine, 'batch', 1)
    ends = {tiny.tokenizer.control[name] for name in ('<|endoftext|>', '<|end|>')}
    prompt = tiny.engine.document('?')
    got = tiny.engine.generate(
        [Request(prompt, max_tokens=60, temperature=2.0, seed=s) for s in range(64)]
    )
    assert {c.tokens[-1] for c in got if c.finish_reason == 'stop'} == ends
    assert not any(ends & set(c.tokens[:-1]) for c in got)


def test_stop_strings_cut_wherever_chunks_end(tiny):
    prompt = tiny.engine.document('Hello')
    settings = dict(max_tokens=40, temperature=1.0, seed=3, stop_tokens=())
    [free] = tiny.engine.generate([Request(prompt, **settings)])
    for begin in range(0, len(free.text) - 3):
        stop = free.text[begin : begin + 3]
        [got] = tiny.engine.generate([Request(prompt, stop=(stop,), **settings)])
        assert got.text == free.text.split(stop)[0]
        assert got.finish_reason == 'stop'
        assert got.tokens == free.tokens[: len(got.tokens)]
        assert stop in tiny.tokenizer.decode(got.tokens)


def test_length_is_bounded_by_max_tokens_and_by_the_context(tiny):
    T = tiny.model.arch.T
    for n, max_tokens, expected in [
        (10, 1, 1),
        (10, 9, 9),
        (T - 3, 50, 3),
        (T - 1, 50, 1),
    ]:
        request = Request((65,) * n, max_tokens, temperature=0.0, stop_tokens=())
        [got] = tiny.engine.generate([request])
        assert (len(got.tokens), got.finish_reason) == (expected, 'length')
        assert got.prompt_tokens == n


@pytest.mark.parametrize(
    ('request_', 'said'),
    [
        (Request((65,) * 64, 1), r'64 tokens.*context.*64.*at most 63'),
        (Request((), 1), 'no token'),
        (Request((65, 261), 1), r'token 261.*0 to 260'),
        (Request((65,), 0), 'max_tokens is 0'),
        (Request((65,), 1, temperature=-1.0), 'temperature is -1'),
        (Request((65,), 1, temperature=float('nan')), 'temperature is nan'),
        (Request((65,), 1, top_p=1.5), 'top_p is 1.5'),
        (Request((65,), 1, top_k=-1), 'top_k is -1'),
        (Request((65,), 1, stop=('',)), 'stop is'),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_numbers(tiny, request_, said):
    with pytest.raises(command.UserError, match=said):
        tiny.engine.generate([request_])


def test_tokenizers_with_other_control_tokens(tiny):
    V = tiny.model.arch.V
    few = byte_level.Bytes(('<|endoftext|>',))
    many = byte_level.Bytes((*text_tokenizer.CONTROL, *map(str, range(V))))
    assert few.vocab_size < V < many.vocab_size
    for made in (few, many):
        engine = engine_lib.Engine(tiny.model, tiny.params, made)
        prompt = engine.document('?')
        known = min(made.vocab_size, V)
        [got] = engine.generate([Request(prompt, max_tokens=20, temperature=3.0)])
        assert max(got.tokens) < known
        with pytest.raises(command.UserError, match=f'tokens are 0 to {known - 1}'):
            engine.check(Request((known,), 1))
    few.prefix = ()
    engine = engine_lib.Engine(tiny.model, tiny.params, few)
    assert engine.document('?') == (ord('?'),)
    assert engine.document('') == (256,)


def test_a_cache_is_as_long_as_its_requests_need():
    """Not as the context: a context of 131,072 would take all memory."""
    model = tiny_family.model('llama', T=2048, V=384)
    params = tiny_family.params(model)
    tokenizer = table.make(lambda: [], name='bytes')
    engine = engine_lib.Engine(model, params, tokenizer)
    made = []
    complete = engine._complete
    engine._complete = lambda *a, rooms: made.append(rooms) or complete(*a, rooms=rooms)
    prompt = engine.document('a prompt')
    for tokens, rooms in ((8, (128,)), (119, (128,)), (120, (128, 256))):
        [got] = engine.generate(
            [Request(prompt, max_tokens=tokens, temperature=0.0, stop_tokens=())]
        )
        assert len(got.tokens) == tokens
        assert made.pop() == rooms
