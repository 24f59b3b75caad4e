"""GGUF files in llama.cpp: the same tokens, logits and greedy text as here."""

import json
import os
from pathlib import Path

from flax import linen as nn
import jax
import jax.numpy as jnp
import llama_cpp
import numpy as np
import pytest
import tiny
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from gptjax import trees
from gptjax.exchange import gguf, llama2c
from gptjax.exchange import tokenizers as text_files
from gptjax.model import config, gpt, table, transformer
from gptjax.text import gpt2, huggingface
from gptjax.text import llama2c as words
from gptjax.text import sentencepiece as own

GOLDEN = json.loads(
    (Path(__file__).parents[1] / 'golden' / 'stories260k.json').read_text()
)
F32 = 0  # the type of llama.cpp's cache that is exact; its default is float16


def opened(path, **options):
    return llama_cpp.Llama(
        str(path), n_threads=1, type_k=F32, type_v=F32, verbose=False, **options
    )


def their_logits(model, tokens):
    """Logits of every position, from an empty cache."""
    model.reset()
    model.eval(tokens)
    return np.array(model.scores[: len(tokens)])


def their_greedy(model, prompt, count):
    model.reset()
    model.eval(prompt)
    made = []
    for _ in range(count):
        made.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        model.eval(made[-1:])
    return made


def our_greedy(arch, params, prompts, count):
    """Prompts of one length, continued through the cache."""
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    prompts_BT = jnp.asarray(prompts, jnp.int32)
    B, T = prompts_BT.shape
    cache = gpt.init_cache(arch, B, T + count, jnp.float32)
    unstacked = gpt.unstack(params)
    positions_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
    logits_BTV, cache = gpt.decode(model, unstacked, prompts_BT, positions_BT, cache)

    def step(state, position):
        token_B, cache, params = state
        positions_B1 = jnp.full((B, 1), position)
        logits_B1V, cache = gpt.decode(
            model, params, token_B[:, None], positions_B1, cache
        )
        next_B = jnp.argmax(logits_B1V[:, 0], -1).astype(jnp.int32)
        return (next_B, cache, params), token_B

    first_B = jnp.argmax(logits_BTV[:, -1], -1).astype(jnp.int32)
    state = first_B, cache, unstacked
    _, made_tB = jax.jit(jax.lax.scan, static_argnums=0)(
        step, state, jnp.arange(T, T + count)
    )
    return np.asarray(made_tB).T.tolist()


@pytest.fixture(scope='module')
def stories(tmp_path_factory):
    data = os.environ.get('GPTJAX_DATA') or pytest.skip('GPTJAX_DATA is unset')
    folder = Path(data) / 'stories260K'
    path = tmp_path_factory.mktemp('gguf') / 'stories.gguf'
    arch, params = llama2c.load(folder / 'stories260K.bin')
    tokens = llama2c.tokenizer(folder / 'stories260K.bin', arch.V)
    gguf.save(arch, params, tokens, path)
    return opened(path, n_ctx=512, logits_all=True), tokens, arch, params


@pytest.mark.parametrize('case', GOLDEN['printed'], ids=lambda case: case['prompt'])
def test_a_real_model_prints_what_llama2c_prints(case, stories):
    model, tokens, _, _ = stories
    prompt = model.tokenize(case['prompt'].encode(), add_bos=True)
    assert prompt == [*tokens.prefix, *tokens.encode(case['prompt'])]
    made = their_greedy(model, prompt, case['steps'] - len(prompt) + 1)
    made = made[: made.index(1)] if 1 in made else made
    assert tokens.decode([*prompt[1:], *made]) == case['text']


def test_logits_of_a_real_model(stories, measured):
    model, tokens, arch, params = stories
    row = [1, *tokens.encode(GOLDEN['printed'][0]['text'])][:256]
    found = distance(arch, params, row, their_logits(model, row))
    measured(f'gguf {"stories260K":22} logits {found:.1e}', gguf=found)
    assert found <= 1e-4


def test_half_precision_loads_and_is_near(stories, tmp_path, measured):
    _, tokens, arch, params = stories
    gguf.save(arch, params, tokens, tmp_path / 'half.gguf', dtype='float16')
    model = opened(tmp_path / 'half.gguf', n_ctx=512, logits_all=True)
    row = [1, *tokens.encode(GOLDEN['printed'][0]['text'])][:256]
    found = distance(arch, params, row, their_logits(model, row))
    measured(f'gguf {"stories260K, float16":22} logits {found:.1e}')
    assert 1e-4 < found < 0.1


ODD = {'D': 36, 'F': 44, 'N': 6, 'K': 3, 'H': 10, 'L': 3, 'T': 160, 'V': 512}
LLAMA3 = {
    'base': 5e5, 'scaling': 'llama3', 'factor': 8.0, 'low': 1.0, 'high': 4.0,
    'original': 64,
}  # fmt: skip
CASES = {
    'llama': ('llama', ODD),
    'llama tied, biases': (
        'llama',
        ODD | {'head': {'tied': True}, 'attention_bias': 'all', 'mlp_bias': True},
    ),
    'llama 3 scaling': ('llama', ODD | {'positions': LLAMA3}),
    'llama linear': (
        'llama',
        ODD | {'positions': {'scaling': 'linear', 'factor': 4.0}},
    ),
    'mistral': ('mistral', ODD | {'windows': (100,)}),
    'mixtral': (
        'mixtral',
        ODD | {'experts': {'E': 5, 'k': 3, 'balance': 0.0, 'z': 0.0}},
    ),
    'qwen2': ('qwen2', ODD | {'H': 6}),
    'qwen3': ('qwen3', ODD),
    'qwen3 untied': ('qwen3', ODD | {'head': {'tied': False}}),
    'gpt2': ('gpt2', ODD | {'K': 6, 'H': 6}),
}


def random(arch, rng):
    def fill(path, leaf):
        scale = path.endswith(('scale', '_norm'))
        spread = 0.1 if scale else 0.3
        if path == 'blocks/mlp/down' and arch.family == 'gpt2':
            spread /= 200  # llama.cpp looks GELU up in a table of float16
        values = rng.normal(float(scale), spread, leaf.shape)
        return jnp.asarray(values, jnp.float32)

    module = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    return trees.map_with_path(fill, nn.unbox(transformer.abstract(module)))


def distance(arch, params, row, theirs_TV):
    """The largest difference of logits, at every position of a row."""
    module = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    inputs = {
        'tokens': jnp.asarray([row]),
        'positions': jnp.arange(len(row))[None],
        'segments': jnp.ones((1, len(row)), jnp.int32),
    }
    forward = jax.jit(lambda *given: transformer.forward(module, *given))
    return np.abs(np.asarray(forward(params, inputs)[0]) - theirs_TV).max()


@pytest.mark.parametrize('case', CASES)
def test_random_models(case, tmp_path, real_data, measured):
    family, sizes = CASES[case]
    arch = config.architecture(**table.preset(f'{family}-nano', **sizes))
    rng = np.random.default_rng(0)
    params = random(arch, rng)
    tokens = words.Llama2C(real_data('stories260K/tok512.bin').read_bytes())
    gguf.save(arch, params, tokens, tmp_path / 'model.gguf')
    T = gguf.context(arch)
    theirs = opened(tmp_path / 'model.gguf', n_ctx=T, logits_all=True)
    row = rng.integers(3, 512, T).tolist()
    theirs_TV = their_logits(theirs, row)
    found = distance(arch, params, row, theirs_TV)
    largest = np.abs(theirs_TV).max()
    measured(f'gguf {case:22} logits {found:.1e} of {largest:.1f}', gguf=found)
    assert found <= 1e-4

    prompts = rng.integers(3, 512, (5, 7)).tolist()
    made = our_greedy(arch, params, prompts, 64)
    for prompt, ours in zip(prompts, made, strict=True):
        assert their_greedy(theirs, prompt, 64) == ours


TEXTS = (
    'Once upon a time, there was a little girl.',
    '  two spaces,  trailing ',
    'line\nline\n\n\ttab  and   more',
    'naïve café — “quotes” … 北京 🙂👩‍👩‍👧 ﬁ',
    "I'm, you've, it's 1234567 x+=1; #!?",
    '',
    ' ',
    'a',
    '\u0000\u0001\u007f',
)


CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
OTHERS = r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'


def byte_bpe(folder, numbers, **options):
    """GPT-2's merges under the patterns of Qwen 2 and Llama 3."""
    bpe = models.BPE.from_file(
        str(folder / 'encoder.json'), str(folder / 'vocab.bpe'), **options
    )
    made = tokenizers.Tokenizer(bpe)
    pattern = tokenizers.Regex(CONTRACTED + numbers + OTHERS)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cut = pre_tokenizers.Split(pattern, 'isolated')
    made.pre_tokenizer = pre_tokenizers.Sequence([cut, level])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(['<|endoftext|>'])
    return huggingface.HuggingFace({'tokenizer.json': made.to_str().encode()})


def our_words(kind, real_data):
    stories = llama2c.tokenizer(real_data('stories260K/stories260K.bin'), 512)
    published = real_data('gpt2_tokenizer')
    page = real_data('stories260K/stories260K.md').read_text()
    match kind:
        case 'llama2c':
            return stories
        case 'its tokenizer.json':
            files = text_files.contents(stories)
            return huggingface.HuggingFace(
                {name: files[name] for name in huggingface.FILES if name in files}
            )
        case 'gpt2':
            return gpt2.GPT2.make(lambda: (), path=published)
        case 'qwen2':
            return byte_bpe(published, r'\p{N}')
        case 'llama3':
            return byte_bpe(published, r'\p{N}{1,3}', ignore_merges=True)
        case 'sentencepiece':
            return own.SentencePiece.make(
                lambda: [page] * 3, model_type='bpe', vocab_size=400
            )


KINDS = ('llama2c', 'its tokenizer.json', 'gpt2', 'qwen2', 'llama3', 'sentencepiece')


@pytest.mark.parametrize('kind', KINDS)
def test_texts_have_the_same_tokens(kind, tmp_path, real_data):
    tokens = our_words(kind, real_data)
    sizes = {'D': 4, 'F': 4, 'N': 1, 'K': 1, 'H': 4, 'L': 1, 'T': 8}
    arch = config.architecture(
        **table.preset('llama-nano', **sizes, V=tokens.vocab_size)
    )
    module = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    params = transformer.init(module, jax.random.key(0))
    gguf.save(arch, params, tokens, tmp_path / 'model.gguf')
    model = opened(tmp_path / 'model.gguf', n_ctx=8, vocab_only=True)
    page = real_data('stories260K/stories260K.md').read_text()
    for text in (*TEXTS, page):
        theirs = model.tokenize(text.encode(), add_bos=False, special=False)
        assert theirs == tokens.encode(text), text
        said = b''.join(map(tokens.token_bytes, theirs))
        assert model.detokenize(theirs) == said
