"""Adapters of PEFT in and out, and many of them over one base in one batch.

The batch is 16 rows through 8 adapters (R 8, everything of a GPT-2 of 4 layers, width
256) and the base, 32 greedy tokens each: beside PEFT's own mixed batch on the same
weights, which has to say the same, and beside ours without adapters.
"""

from collections.abc import Iterator
import dataclasses
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
from gptjax.exchange import huggingface, peft
from gptjax.generate import engine as engine_lib
from gptjax.model import config, transformer
from gptjax.model.families import gpt2
from gptjax.text import table
from gptjax.train import adapter as adapter_lib

ROWS, ADAPTERS, PROMPT, TOKENS, TURNS = 16, 8, 16, 32, 3


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        yield _parity(Path(folder) / 'figures.json')
        yield from _batch(Path(folder))


def _parity(path: Path) -> dict[str, Any]:
    command = ['-m', 'pytest', '-n0', '-q', 'tests/parity/peft_parity_test.py']
    environment = os.environ | {'GPTJAX_FIGURES': str(path), 'PYTHONPATH': '.'}
    subprocess.run([os.environ['GPTJAX_PEERS'], *command], env=environment, check=True)
    distances = [one['peft'] for one in json.loads(path.read_text())]
    return {
        'name': f'adapters in PEFT and here, logits, worst of {len(distances)}',
        'value': max(distances), 'goal': 1e-5, 'direction': 'min', 'unit': '',
    }  # fmt: skip


def _batch(folder: Path) -> Iterator[dict[str, Any]]:
    arch = dataclasses.replace(
        gpt2.sized(L=4, N=4, D=256, T=128, V=384), dropout=0.0, init_std=0.15
    )
    compute = config.Compute('float32', 'none', scan_unroll=1, accumulate=1)
    model = transformer.make(arch, compute, sharding.single())
    params = transformer.init(model, jax.random.key(0))
    tokenizer = table.make(lambda: [], name='bytes')
    adapters = _adapters(arch, model, folder)
    huggingface.save(arch, params, folder / 'base')
    names = [None, *adapters]
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, 256, (ROWS, PROMPT)).tolist()
    requests = [
        engine_lib.Request(
            tuple(prompt), TOKENS, temperature=0.0, stop_tokens=(),
            adapter=names[row % len(names)],
        )
        for row, prompt in enumerate(prompts)
    ]  # fmt: skip
    asked = {
        'prompts': prompts,
        'adapters': [request.adapter or '__base__' for request in requests],
        'tokens': TOKENS,
        'unsaid': [
            *range(tokenizer.vocab_size, arch.V),
            *(tokenizer.control.get(name, arch.V - 1) for name in engine_lib.UNSAID),
        ],
    }
    (folder / 'asked.json').write_text(json.dumps(asked))
    script = Path(__file__).with_name('_peer_peft.py')
    peer = subprocess.run(
        [os.environ['GPTJAX_PEERS'], '-P', str(script), str(folder), str(TURNS)],
        stdout=subprocess.PIPE,
        check=True,
    )
    theirs = json.loads(peer.stdout.splitlines()[-1])
    several = engine_lib.Engine(model, params, tokenizer, adapters)
    alone = engine_lib.Engine(model, params, tokenizer)
    plain = [dataclasses.replace(request, adapter=None) for request in requests]
    said = [list(completion.tokens) for completion in several.generate(requests)]
    equal = sum(
        ours == other for ours, other in zip(said, theirs['tokens'], strict=True)
    )
    yield {
        'name': 'rows of a mixed batch with the greedy tokens of PEFT',
        'value': equal, 'goal': ROWS, 'direction': 'max', 'unit': f'of {ROWS}',
    }  # fmt: skip
    seconds: dict[Any, list[float]] = {several: [], alone: []}
    for turn in range(TURNS + 1):
        for engine, given in ((several, requests), (alone, plain)):
            before = time.perf_counter()
            engine.generate(given)
            if turn:  # the first one compiles
                seconds[engine].append(time.perf_counter() - before)
    speeds = [
        ROWS * TOKENS / statistics.median(times)
        for times in (seconds[several], seconds[alone], theirs['seconds'])
    ]
    yield {
        'name': f'{ADAPTERS} adapters in a batch / PEFT',
        'value': speeds[0] / speeds[2],
        'goal': 3.0, 'direction': 'max', 'unit': 'times as fast', 'ours': speeds[0],
        'peer': speeds[2],
    }  # fmt: skip
    yield {
        'name': f'{ADAPTERS} adapters in a batch / the base alone',
        'value': speeds[0] / speeds[1], 'goal': 0.5, 'direction': 'max',
        'unit': 'times as fast', 'ours': speeds[0], 'peer': speeds[1],
    }  # fmt: skip


def _adapters(
    arch: config.Architecture, model: transformer.Model, folder: Path
) -> dict[str, tuple[Any, float]]:
    """Random adapters by name, each in a folder of PEFT too."""
    section = adapter_lib.Adapter(
        R=8,
        alpha=16.0,
        rank_stabilised=False,
        targets=('blocks/attention', 'blocks/mlp'),
        train=(),
        base='float32',
    )
    boxed = transformer.abstract(model)
    shapes = jax.eval_shape(
        lambda: section.start(boxed, model.sharding, 0, lambda: None)
    )
    made = {}
    for number in range(ADAPTERS):
        rng = np.random.default_rng(number)
        params = jax.tree.map(
            lambda leaf, rng=rng: jnp.asarray(
                rng.normal(0, 0.05, leaf.shape), leaf.dtype
            ),
            shapes,
        )
        name = f'adapter{number}'
        made[name] = params, section.scale
        (folder / name).mkdir()
        peft.write(
            folder / name, arch, peft.Adapter(params, section, ''), base_name=None
        )
    return made
