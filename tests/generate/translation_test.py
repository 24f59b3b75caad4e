"""Encoder-decoders through the engine, against the full forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_family

from gptjax import command
from gptjax.generate import engine as engine_lib
from gptjax.model import transformer
from gptjax.text import frames, table


@pytest.fixture(scope='module')
def tokenizer():
    return table.make(lambda: [], name='bytes')


@pytest.mark.parametrize('family', ['transformer', 'bart'])
def test_a_target_is_drawn_from_the_full_forward_pass_given_its_source(
    family, tokenizer
):
    """Sources of different lengths in one batch; the key of a token is its place's."""
    made = tiny_family.arch(family, T=32, V=384).with_head(bias=False, tied=False)
    model = transformer.make(made, tiny.COMPUTE, tiny.sharding())
    params = tiny_family.params(model, std=0.5)
    engine = engine_lib.Engine(model, params, tokenizer)
    sources = [engine.document(text) for text in ('one', 'a longer source text')]
    assert sources[0] == (*tokenizer.encode('one'), frames.end(tokenizer))
    requests = [
        engine_lib.Request(
            source, max_tokens=20, temperature=9.0, seed=3, stop_tokens=()
        )
        for source in sources
    ]
    forward = jax.jit(lambda batch: transformer.forward(model, params, batch))
    steps = np.arange(32)
    for source, got in zip(sources, engine.generate(requests), strict=True):
        assert len(got.tokens) == 20
        assert len(set(got.tokens)) > 3  # not a model that says one thing
        read = [frames.start(tokenizer), *got.tokens]
        rows = {}
        for name, ids in (('', read), ('source_', source)):
            rows[name or 'tokens'] = np.pad(ids, (0, 32 - len(ids)))
            rows[f'{name}positions'] = steps
            rows[f'{name}segments'] = steps < len(ids)
        rows['source'] = rows.pop('source_')
        batch = {k: jnp.asarray(v, jnp.int32)[None] for k, v in rows.items()}
        logits_TV = np.array(forward(batch)[0, :20])
        logits_TV[:, tokenizer.vocab_size :] = -np.inf
        for role in ('system', 'user', 'assistant'):
            logits_TV[:, tokenizer.control[f'<|{role}|>']] = -np.inf
        for place, token in enumerate(got.tokens, start=1):
            key = jax.random.fold_in(jax.random.key(3), place)
            scaled_V = jnp.asarray(logits_TV[place - 1]) / 9
            assert token == jax.random.categorical(key, scaled_V - scaled_V.max())


def test_a_source_may_fill_the_context_and_a_target_too(tokenizer):
    model = tiny_family.model('bart', T=32, V=384)
    engine = engine_lib.Engine(model, tiny_family.params(model), tokenizer)
    request = engine_lib.Request(
        engine.document('x' * 31), max_tokens=99, temperature=0.0, stop_tokens=()
    )
    [got] = engine.generate([request])
    assert (len(got.tokens), got.finish_reason) == (31, 'length')
    with pytest.raises(engine_lib.PromptTooLong, match='at most 32'):
        engine.check(engine_lib.Request(engine.document('x' * 32), max_tokens=1))


@pytest.mark.parametrize('family', ['bert', 'gpt2'])
def test_a_model_without_next_tokens_is_refused(family, tokenizer):
    head = {} if family == 'bert' else {'kind': 'reward'}
    made = tiny_family.arch(family, V=384).with_head(**head)
    model = transformer.make(made, tiny.COMPUTE, tiny.sharding())
    with pytest.raises(command.UserError, match='cannot continue a text'):
        engine_lib.Engine(model, tiny_family.params(model), tokenizer)
