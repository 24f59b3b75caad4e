"""Weights in int8 and int4, and drafts of n-grams: GPT-2 124M on a CPU, batch 1.

Greedy decoding of 128 tokens behind 16, by turns with transformers in float32 on the
same weights, which are random. With int8, products and the head round, so the tokens
may part; that the kernel computes what the codes stand for is checked first. A random
model soon repeats itself: that, and a prompt that does, is the text for drafts. What
few bits cost is measured on weights that were trained: stories260K on TinyStories.
"""

from collections.abc import Callable, Iterator
import json
import os
from pathlib import Path
import statistics
import subprocess
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import sharding
from gptjax.exchange import huggingface, llama2c
from gptjax.generate import engine
from gptjax.model import config, gpt, leaves, native, quantise, transformer
from gptjax.model.families import gpt2
from gptjax.text import table

NEW, ROUNDS, DRAFT = 128, 3, 4
COMPUTE = config.Compute('float32', 'none', scan_unroll=1, accumulate=1)


def rows() -> Iterator[dict[str, Any]]:
    arch = gpt2.sized(L=12, N=12, D=768, T=1024, V=50257)
    model = transformer.make(arch, COMPUTE, sharding.single())
    params = transformer.init(model, jax.random.key(0))
    unstacked = transformer.unstack(model, params)
    for kind in quantise.SERVED:
        few = quantise.for_serving(unstacked, kind)
        ours, theirs = _bytes(few), _bytes(params)
        yield {
            'name': f'quantised: bytes of 124M, {kind} / float32', 'unit': 'times',
            'value': ours / theirs, 'goal': 0.3, 'direction': 'min',
            'ours': ours, 'peer': theirs,
        }  # fmt: skip
        yield from _products(kind, few)
    del unstacked, few
    yield from _decoding(model, params)
    yield from _drafts(model, params)
    yield from _quality()


def _bytes(params: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def _products(kind: str, params: Any) -> Iterator[dict[str, Any]]:
    """One row of x times every weight of a token, by the kernel and by XLA."""
    is_rows = lambda leaf: isinstance(leaf, leaves.Rows)  # noqa: E731
    few = [leaf for leaf in jax.tree.leaves(params, is_leaf=is_rows) if is_rows(leaf)]
    rng = np.random.default_rng(0)
    xs = [jnp.asarray(rng.normal(size=w.sides[0]), jnp.float32)[None] for w in few]

    def dense(x: Any, weight: leaves.Rows) -> Any:
        inner = len(weight.sides[0])
        axes = [*range(inner)] if weight.inner > 0 else [-1]
        return jnp.tensordot(x, weight.dense(x.dtype), ([*range(1, inner + 1)], axes))

    def of(product: Callable[..., Any]) -> Any:
        return jax.jit(lambda xs, few: [product(*p) for p in zip(xs, few, strict=True)])

    ours, xla = of(native.product), of(dense)
    if not native.available():
        raise RuntimeError('there is no kernel here: it needs a C++ compiler')
    for a, b in zip(ours(xs, few), xla(xs, few), strict=True):
        apart = float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)))
        if apart > 1e-5:
            raise ValueError(f'kernel and XLA compute different things: {apart}')
    own, theirs = _by_turns(*(lambda f=f: f(xs, few) for f in (ours, xla)))
    yield {
        'name': f'quantised: products of a token, {kind}, kernel / XLA',
        'unit': 'times as fast', 'value': theirs / own, 'goal': 1.0, 'direction': 'max',
        'ours': own, 'peer': theirs,
    }  # fmt: skip


def _by_turns(*functions: Callable[[], Any]) -> list[float]:
    """Median seconds of each, called by turns."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(ROUNDS + 1):
        for function, times in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(function())
            times.append(time.perf_counter() - start)
    return [statistics.median(times[1:]) for times in seconds]


def _engine(model: Any, params: Any, **settings: Any) -> engine.Engine:
    tokenizer = table.make(lambda: [], name='bytes')
    return engine.Engine(model, params, tokenizer, **settings)


def _request(prompt: tuple[int, ...]) -> list[engine.Request]:
    return [engine.Request(prompt, NEW, temperature=0.0, stop_tokens=())]


def _decoding(model: Any, params: Any) -> Iterator[dict[str, Any]]:
    prompt = tuple(range(40, 56))
    engines = [_engine(model, params, weights=kind) for kind in quantise.SERVED]
    calls = [lambda e=e: e.generate(_request(prompt)) for e in engines]
    if 'GPTJAX_PEERS' not in os.environ:
        print('quantised: GPTJAX_PEERS is unset; rows with the peer are left out')
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / 'weights'
        huggingface.save(model.arch, params, weights)
        peer = subprocess.Popen(
            [os.environ['GPTJAX_PEERS'], '-P', _beside('_peer_decode.py')],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        given = dict(folder=str(weights), gguf='', prompt=prompt, new_tokens=NEW)
        _write(peer, json.dumps(given))
        *ours, theirs = _by_turns(*calls, lambda: _ask(peer))
        peer.communicate()
    for kind, own in zip(quantise.SERVED, ours, strict=True):
        yield {
            'name': f'quantised: decode 124M, {kind} / transformers float32',
            'value': theirs / own, 'goal': 3.0, 'direction': 'max',
            'unit': 'times as fast', 'ours': NEW / own, 'peer': NEW / theirs,
        }  # fmt: skip


def _beside(name: str) -> Path:
    return Path(__file__).with_name(name)


def _write(peer: subprocess.Popen[str], line: str) -> None:
    assert peer.stdin is not None
    peer.stdin.write(line + '\n')
    peer.stdin.flush()


def _ask(peer: subprocess.Popen[str]) -> None:
    _write(peer, 'dynamic 1')
    assert peer.stdout is not None
    tokens, why = json.loads(peer.stdout.readline())
    if tokens is None:
        raise RuntimeError(why)


def _drafts(model: Any, params: Any) -> Iterator[dict[str, Any]]:
    prompt = tuple(range(40, 50)) * 6
    for weights in ('float32', 'int8'):
        plain = _engine(model, params, weights=weights)
        fast = _engine(model, params, weights=weights, drafted=DRAFT)
        said = [e.generate(_request(prompt))[0].tokens for e in (plain, fast)]
        if said[0] != said[1]:
            raise ValueError(f'drafts change tokens: {said}')
        theirs, own = _by_turns(
            *(lambda e=e: e.generate(_request(prompt)) for e in (plain, fast))
        )
        yield {
            'name': f'speculate: {DRAFT} drafted, repetitive, {weights} / without',
            'value': theirs / own, 'goal': 1.5, 'direction': 'max',
            'unit': 'times as fast', 'ours': NEW / own, 'peer': NEW / theirs,
        }  # fmt: skip


def _quality() -> Iterator[dict[str, Any]]:
    """The perplexity of 32,000 tokens of stories, few bits / float32."""
    data = os.environ.get('GPTJAX_DATA')
    if not data:
        print('quantised: GPTJAX_DATA is unset; rows of quality are left out')
        return
    path = Path(data) / 'stories260K' / 'stories260K.bin'
    arch, params = llama2c.load(path)
    model = transformer.make(arch, COMPUTE, sharding.single())
    tokenizer = llama2c.tokenizer(path, arch.V)
    text = (Path(data) / 'tinystories_mini' / 'tinystories.txt').read_text()
    tokens_BT = np.array(tokenizer.encode(text)[:32_000]).reshape(-1, 250)

    @jax.jit
    def nats(params: Any, tokens_BT: Any) -> Any:
        B, T = tokens_BT.shape
        cache = gpt.init_cache(arch, B, T, 'float32')
        positions_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
        logits_BTV, _ = transformer.decode(
            model, params, tokens_BT, positions_BT, cache
        )
        log_p_BTV = jax.nn.log_softmax(logits_BTV[:, :-1])
        said = jnp.take_along_axis(log_p_BTV, tokens_BT[:, 1:, None], -1)
        return -jnp.mean(said)

    unstacked = transformer.unstack(model, params)
    before = float(np.exp(nats(unstacked, tokens_BT)))
    for kind, goal in (('int8', 1.01), ('int4', 1.10)):
        few = quantise.for_serving(unstacked, kind)
        after = float(np.exp(nats(few, tokens_BT)))
        yield {
            'name': f'quantised: perplexity of stories260K, {kind} / float32',
            'value': after / before, 'goal': goal, 'direction': 'min', 'unit': 'times',
            'ours': after, 'peer': before,
        }  # fmt: skip
