"""Decoding in one program, with short caches, joined products and caches in int8."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_family

from gptjax import trees
from gptjax.generate import engine as engine_lib
from gptjax.model import attention, gpt, joined, leaves, quantise, transformer

Request = engine_lib.Request
LONG = pytest.mark.long


@pytest.fixture(scope='module')
def short(flat):
    """The engine of `flat` with caches that begin at 32 slots of its 64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_lib, 'SMALLEST', 32)
        yield engine_lib.Engine(flat.model, flat.params, flat.tokenizer, batch=64)


def requests(engine, count):
    """Greedy and sampled, of different lengths, over the ends of all caches."""
    return [
        Request(
            engine.document('abcdefghij'[: i % 10]),
            max_tokens=1 + 7 * i % 52,
            temperature=(0.0, 0.9)[i % 2],
            seed=i,
            stop_tokens=(),
        )
        for i in range(count)
    ]


def test_a_whole_completion_is_the_stream_token_by_token(short):
    """Catches a first token counted twice, and a cache that grows a token late."""
    for request in requests(short, 6)[4:]:
        [whole] = short.generate([request])
        pieces = list(short.stream(request))
        assert sum((piece.tokens for piece in pieces), ()) == whole.tokens
        assert pieces[-1].finish_reason == whole.finish_reason


def test_growing_caches_say_what_a_long_one_says(short, flat):
    """Catches slots that are lost where a cache grows."""
    assert short._room(60) == short.context > short._room(10)
    for request in requests(short, 6)[4:]:
        assert short.generate([request]) == flat.engine.generate([request])


def test_64_rows_are_each_of_them_alone(short, monkeypatch):
    asked = requests(short, 64)
    together = short.generate(asked)
    assert [len(row.tokens) for row in together] == [row.max_tokens for row in asked]
    monkeypatch.setattr(short, 'batch', 1)
    # Those that need both caches, which are one program.
    long = [i for i, row in enumerate(asked) if len(row.prompt) + row.max_tokens > 33]
    for i in long[::5]:
        assert short.generate([asked[i]]) == [together[i]]


def test_nothing_compiles_twice_within_sizes(short):
    """Settings, lengths, seeds and stops are arguments. Catches a size of a length."""

    def compiled():
        made = short._complete, short._prefill, short._decode
        return [function._cache_size() for function in made]

    def ask(n, tokens, **settings):
        request = Request((65,) * n, tokens, **settings)
        short.generate([request])
        list(short.stream(request))

    ask(3, 40, stop_tokens=())
    before = compiled()
    ask(9, 30, temperature=0.0, top_k=3, stop_tokens=(7,))
    ask(16, 33, temperature=0.3, top_p=0.4, seed=9)
    assert compiled() == before
    short.generate([Request((65,), 40)] * 2)  # another batch
    assert compiled()[0] == before[0] + 1


def test_the_cache_is_written_in_its_place(short):
    """Two caches in memory would be a copy a token; `donate_argnames` off is one."""
    cache = jax.eval_shape(lambda: gpt.init_cache(short_arch(short), 4, 64, 'float32'))
    rows = np.zeros(4, np.int32)
    settings = engine_lib._settings([short._row(Request((65,), 9))], 4)
    given = short._params, rows, rows, rows, settings
    compiled = short._decode.lower(*given, cache=cache).compile()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= size


def short_arch(engine):
    return engine._decode.__wrapped__.args[0].arch


def cached_logits(model, params, tokens_BT, dtype='float32'):
    """Logits of each token: the first five prefilled, then one at a time."""
    B, T = tokens_BT.shape
    cache = gpt.init_cache(model.arch, B, T, dtype)
    step = jax.jit(lambda *given: gpt.decode(model, params, *given))
    found = []
    for begin, end in [(0, 5), *((t, t + 1) for t in range(5, T))]:
        places = jnp.broadcast_to(jnp.arange(begin, end), (B, end - begin))
        logits, cache = step(tokens_BT[:, begin:end], places, cache)
        found.append(logits)
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize('family', ['gpt2', 'qwen2', 'qwen3'])
def test_joined_products_are_the_three_and_the_two(family):
    """Biases, fewer key heads, norms of queries and keys, a gate.

    Sums in another order: measured over three layers, 1.01e-6 of the largest logit.
    Catches a cut between queries and keys in the wrong place, and up for gate.
    """
    model = tiny_family.model(family, L=1)
    params = transformer.unstack(model, tiny_family.params(model))
    whole = joined.tree(params)
    assert joined.QKV in whole['blocks'][0]['attention']
    assert (joined.UP_GATE in whole['blocks'][0]['mlp']) == model.arch.gated
    tokens_BT = tiny_family.batch(model.arch)['tokens']
    given, found = (cached_logits(model, p, tokens_BT[:, :5]) for p in (params, whole))
    assert np.abs(found - given).max() <= 3e-6 * np.abs(given).max()


def test_what_is_not_arrays_is_not_joined():
    """An adapter of queries alone, and a base in few bits, stay as they are."""
    model = tiny_family.model('qwen2')
    params = tiny_family.params(model)
    attend = params['blocks']['attention']
    shape = attend['query'].shape
    down, up = jnp.ones((shape[0], shape[1], 2)), jnp.ones((shape[0], 2, *shape[2:]))
    adapted = leaves.Adapted(attend['query'], down, up, scale=0.1)
    few = quantise.quantise('blocks/attention/query', attend['query'], 'int8')
    for leaf in (adapted, few):
        tree = {'blocks': {'attention': {**attend, 'query': leaf}}}
        made = joined.tree(tree)['blocks']['attention']
        assert made.keys() == attend.keys()
        assert made['query'] is leaf


@pytest.mark.parametrize('family', ['gpt2', 'qwen3'])
def test_a_cache_in_int8_is_near_and_small(family):
    """Each number of a head rounds by at most absmax / 254: 0.4 % of its largest.

    So logits, of a spread of some tens here, move by less than 3 % of it. Catches a
    scale of another token (all is wrong) and one of the whole cache (10 % and more).
    """
    model = tiny_family.model(family, L=1)
    params = transformer.unstack(model, tiny_family.params(model))
    tokens_BT = tiny_family.batch(model.arch)['tokens']
    exact = cached_logits(model, params, tokens_BT)
    found = cached_logits(model, params, tokens_BT, 'int8')
    assert 0 < np.abs(found - exact).max() < 0.03 * np.ptp(exact)
    layer = gpt.init_cache(model.arch, 1, 8, 'int8')[0]
    assert layer.key_BKSH.dtype == jnp.int8


def test_a_written_slot_reads_back_within_half_a_code():
    rng = np.random.default_rng(0)
    keys, values = rng.normal(0, 1, (2, 3, 2, 4, 8)).astype(np.float32)
    zeros = jnp.zeros((3, 4, 9, 8), jnp.int8)
    absmax = jnp.zeros((3, 4, 9, 1))
    empty = attention.LayerCache(zeros, zeros, absmax, absmax)
    start_B = jnp.array([0, 5, 7])
    cache = attention.write(empty, jnp.asarray(keys), jnp.asarray(values), start_B)
    for want, found in zip(
        (keys, values), attention.read(cache, 'float32'), strict=True
    ):
        for b, start in enumerate(start_B):
            row = found[b, start : start + 2]
            half = np.abs(want[b]).max(-1, keepdims=True) / 254
            assert np.all(np.abs(row - want[b]) <= 1.001 * half)
            assert np.abs(found[b]).sum() == pytest.approx(np.abs(row).sum())


@pytest.mark.parametrize(
    'weights', ['int8', *(pytest.param(x, marks=LONG) for x in ('bfloat16', 'int4'))]
)
def test_each_form_of_weights_and_cache_generates(flat, weights):
    """Lossy forms may say other words, but as many."""
    cache = {'bfloat16': 'bfloat16', 'int8': 'int8'}.get(weights, '')
    engine = engine_lib.Engine(
        flat.model, flat.params, flat.tokenizer, weights=weights, cache=cache
    )
    request = Request(engine.document('abc'), 12, temperature=0.0, stop_tokens=())
    [got] = engine.generate([request])
    assert len(got.tokens) == 12
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(engine._params))
    plain = trees.count(flat.params) * 4
    assert held <= plain * (0.5 if weights == 'bfloat16' else 0.45)
