"""Greedy decoding of GPT-2 124M beside others, on the processor, in one run.

A prompt of 16 tokens and 128 new ones, random weights, float32. Transformers (with a
growing and a static cache), CTranslate2 and llama.cpp read the weights that we export;
all first say the same tokens, then they take turns. The bandwidth is that of a sum over
an array of 400 MB, taken in turns too: a token reads each weight once.
"""

from collections.abc import Callable, Iterator
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import sharding
from gptjax.exchange import gguf, huggingface
from gptjax.generate import engine as engine_lib
from gptjax.model import config, table, transformer
from gptjax.text import gpt2, tokenizer

NEW, PROMPT = 128, 16
ROUNDS = {1: 3, 16: 2}
# What stands against each batch; the best of transformers' two counts.
PEERS = {1: ('dynamic', 'static', 'ctranslate2', 'llama.cpp'), 16: ('dynamic',)}
ALIKE = 32  # first tokens that all say alike; later ones may part at a near tie


def rows() -> Iterator[dict[str, Any]]:
    if 'GPTJAX_PEERS' not in os.environ or 'GPTJAX_DATA' not in os.environ:
        print('decode: GPTJAX_PEERS and GPTJAX_DATA are unset; its rows are left out')
        return
    with tempfile.TemporaryDirectory() as folder:
        yield from _rows(Path(folder))


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    arch = config.architecture(**table.preset('gpt2-small'))
    compute = config.Compute('float32', 'none', scan_unroll=1, accumulate=1)
    model = transformer.make(arch, compute, sharding.single())
    params = transformer.init(model, jax.random.key(0))
    published = Path(os.environ['GPTJAX_DATA']) / 'gpt2_tokenizer'
    found = gpt2.GPT2.make(lambda: [], path=published)
    words = gpt2.GPT2.load({**found.files, **tokenizer.names(gpt2.PUBLISHED)})
    prompt = np.random.default_rng(0).integers(0, 50_000, PROMPT).tolist()
    huggingface.save(arch, params, folder / 'model', words)
    gguf.save(arch, params, words, folder / 'model.gguf')
    given = dict(folder=f'{folder}/model', gguf=f'{folder}/model.gguf')
    peer = _peer({**given, 'prompt': prompt, 'new_tokens': NEW})
    engine = engine_lib.Engine(model, params, words)
    weights = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
    for batch in PEERS:
        yield from _measured(engine, prompt, batch, peer, weights)
    peer.communicate()
    for kind in ('int8', 'int4'):
        engine = engine_lib.Engine(model, params, words, weights=kind)
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(engine._params))
        yield {
            'name': f'bytes of weights held as {kind} / float32',
            'value': held / weights,
            'goal': 0.3,
            'direction': 'min',
            'unit': 'of float32',
            'ours': held,
            'peer': weights,
        }


def _measured(
    engine: engine_lib.Engine, prompt: list[int], batch: int, peer: Any, weights: int
) -> Iterator[dict[str, Any]]:
    request = engine_lib.Request(tuple(prompt), NEW, temperature=0.0, stop_tokens=())
    stream = _stream()
    kinds = _same(engine.generate([request] * batch)[-1].tokens, peer, batch)
    times: dict[str, list[float]] = {name: [] for name in ('ours', 'read', *kinds)}
    for _ in range(ROUNDS[batch]):
        times['read'].append(_timed(stream))
        times['ours'].append(_timed(lambda: engine.generate([request] * batch)))
        for kind in kinds:
            times[kind].append(_ask(peer, f'{kind} {batch}')[1])
    speeds = {
        name: batch * NEW / statistics.median(seconds)
        for name, seconds in times.items()
        if name != 'read'
    }
    print(f'decode: batch {batch}: {speeds}', file=sys.stderr)
    torch = max(speeds.get(kind, 0.0) for kind in ('dynamic', 'static'))
    against: list[Any] = [('transformers', torch, {1: 2.0, 16: 3.0}[batch])]
    if batch == 1:
        against += [
            ('CTranslate2', speeds.get('ctranslate2'), 0.95),
            ('llama.cpp', speeds.get('llama.cpp'), 0.95),
        ]
    for name, theirs, goal in against:
        yield {
            'name': f'decode 124M float32, batch {batch} / {name}',
            'value': speeds['ours'] / theirs if theirs else None,
            'goal': goal,
            'direction': 'max',
            'unit': 'times as fast',
            'ours': speeds['ours'],
            'peer': theirs,
        }
    if batch == 1:
        read = READ / statistics.median(times['read'])
        yield {
            'name': 'decode 124M float32, bytes of weights a second / bandwidth',
            'value': weights * speeds['ours'] / read,
            'goal': 0.7,
            'direction': 'max',
            'unit': 'of a plain read',
            'ours': weights * speeds['ours'],
            'peer': read,
        }


READ = 400_000_000  # bytes


def _stream() -> Callable[[], Any]:
    """Reads READ bytes once, on all cores."""
    array = jnp.ones((READ // 4096, 1024))
    total = jax.jit(jnp.sum)
    total(array).block_until_ready()
    return lambda: total(array).block_until_ready()


def _same(ours: tuple[int, ...], peer: Any, batch: int) -> list[str]:
    """The peers that are there; they say what we say."""
    kinds = []
    for kind in PEERS[batch]:
        theirs, why = _ask(peer, f'{kind} {batch}')
        if theirs is None:
            print(f'decode: no {kind}: {why}', file=sys.stderr)
        elif tuple(theirs[:ALIKE]) != ours[:ALIKE]:
            raise ValueError(f'{kind} says {theirs[:ALIKE]}, and we {ours[:ALIKE]}')
        else:
            kinds.append(kind)
    return kinds


def _timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _peer(given: dict[str, Any]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [os.environ['GPTJAX_PEERS'], '-P', Path(__file__).with_name('_peer_decode.py')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(given) + '\n')
    return process


def _ask(process: subprocess.Popen[str], line: str) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + '\n')
    process.stdin.flush()
    return json.loads(process.stdout.readline())
