"""A step of GRPO: rollout, rewards, log-probabilities of policy and reference, update.

Beside it, the same by hand in torch and transformers, by turns and in one run; both
first show equal log-probabilities of the same rows. No completion may end early, so
that both sides write as many tokens.

The share that is not generation depends on how cheap generation is: with a cache, and
each prompt read once for its group, it is less than one pass over the tokens, beside
two that score them (the reference's is the `kl` of metrics.jsonl even where no loss
reads it) and an update, which is worth three.
"""

from collections.abc import Iterator
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
from ml_collections import ConfigDict
import numpy as np

from gptjax.exchange import workdir as workdir_lib
from gptjax.generate import engine
from gptjax.model import table as model_table
from gptjax.train import build, loop, phases, stop

ROUNDS = 7
SHAPES = dict(prompts=8, group=8, prompt_tokens=32, max_tokens=64)
ROWS = SHAPES['prompts'] * SHAPES['group']
V = 1024


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        yield from _rows(Path(folder))


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    raw = folder / 'texts.jsonl'
    rng = np.random.default_rng(0)
    with raw.open('w') as file:
        for _ in range(200):
            letters = rng.integers(97, 123, 80).astype(np.uint8)
            file.write(json.dumps({'text': letters.tobytes().decode()}) + '\n')
    base = folder / 'base'
    loop.train(build.build(_base(raw), base))
    ours = _Ours(folder, raw, base)
    times: dict[str, list[tuple[float, float]]] = {'ours': [], 'peer': []}
    peer = None
    if 'GPTJAX_PEERS' in os.environ:
        workdir_lib.export_model(base, folder / 'exported')
        peer = _peer(folder / 'exported', ours)
    else:
        print('step: GPTJAX_PEERS is unset; the row with the peer is left out')
    for _ in range(ROUNDS):
        times['ours'].append(ours.step())
        if peer is not None:
            times['peer'].append(_ask(peer, 'go'))
    if peer is not None:
        peer.communicate()
    own, generation = (statistics.median(x) for x in zip(*times['ours'], strict=True))
    yield {
        'name': 'GRPO step, the share that is not generation',
        'value': 1 - generation / own,
        'goal': 0.5,
        'direction': 'min',
        'unit': 'of the step',
        'ours': own,
    }
    if peer is not None:
        theirs, writing = (
            statistics.median(x) for x in zip(*times['peer'], strict=True)
        )
        for what, a, b in (
            ('step / torch and transformers', own, theirs),
            ('generation / torch and transformers', generation, writing),
        ):
            yield {
                'name': f'GRPO {what}',
                'value': b / a,
                'goal': 3.0 if what.startswith('step') else 1.0,
                'direction': 'max',
                'unit': 'times as fast',
                'ours': a,
                'peer': b,
            }


def _base(raw: Path) -> ConfigDict:
    """GPT-2 of 4 layers of width 128, untrained but for one step."""
    config = ConfigDict()
    config.seed, config.steps = 0, 1
    config.model = model_table.preset(
        'gpt2-micro', T=128, V=V, D=128, F=512, N=4, K=4, H=32, L=4
    )
    config.data = dict(
        path=str(raw),
        batch_size=ROWS,
        loader='threads',
        build=dict(
            corpus=dict(name='text', licence='CC0-1.0'),
            tokenizer=dict(name='bytes'),
            held_out=dict(fraction=0.1, by='document'),
            shard_tokens=1 << 20,
        ),
    )
    config.optimizer = dict(
        name='adamw', learning_rate=1e-5, warmup_steps=0, final_learning_rate=1e-5,
        b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, clip_norm=1.0, freeze=(),
    )  # fmt: skip
    config.objective = dict(name='next_token')
    config.mesh = dict(data=1, fsdp=1, tensor=1, rules='data')
    config.compute = dict(dtype='float32', remat='none', scan_unroll=4, accumulate=1)
    config.checkpoint = dict(every=100, keep=1)
    config.eval = dict(every=100, rows=4, patience=0)
    config.run = dict(log_every=1)
    return config


class _Ours:
    """The loop of a run, a step at a time, its generation timed too."""

    def __init__(self, folder: Path, raw: Path, base: Path):
        config = _base(raw)
        config.steps = 1000
        config.model = dict(init_from=str(base), dropout=0.0)
        config.objective = dict(
            name='group', method='grpo', kl_coefficient=0.04, kl_in='loss',
            kl_estimator='k3',
        )  # fmt: skip
        config.rollout = dict(**SHAPES, temperature=1.0, top_k=0, top_p=1.0, epochs=1)
        config.rewards = (
            dict(name='contains', weight=1.0, texts=('e', 'th'), ignore_case=False),
        )
        run = build.build(config, folder / 'run')
        run.tokenizer.ends = ()  # nothing ends early
        self._loop = loop._Loop(run, phases.Phases(None), stop.Stop())
        may_say_V = engine.may_say(run.model.arch.V, run.tokenizer)
        self.unsaid = np.flatnonzero(~may_say_V).tolist()
        source: Any = self._loop.source
        self._generate = source._generate
        source._generate = {r: self._timed(f) for r, f in self._generate.items()}
        self.batch, _ = self._next()
        self._seconds = 0.0
        self.step()

    def _timed(self, function: Any) -> Any:
        def timed(*given: Any) -> Any:
            jax.block_until_ready(given)
            start = time.perf_counter()
            found = jax.block_until_ready(function(*given))
            self._seconds = time.perf_counter() - start
            return found

        return timed

    def _next(self) -> Any:
        return self._loop._next()

    def step(self) -> tuple[float, float]:
        """Seconds of a step, and of its generation."""
        run = self._loop
        jax.block_until_ready(run.state)
        start = time.perf_counter()
        batch, _ = run._next()
        run.state, metrics = run.train_step(run.state, run.frozen, batch)
        jax.block_until_ready((run.state, metrics))
        return time.perf_counter() - start, self._seconds

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """(the rows of the first rollout, log-probabilities of their completions)."""
        P = SHAPES['prompt_tokens']
        batch = jax.device_get(self.batch)
        tokens = np.concatenate([batch['tokens'][:, :1], batch['targets']], axis=1)
        assert batch['weights'].sum() == ROWS * SHAPES['max_tokens']
        return tokens, batch['log_p'][:, P - 1 :]


def _peer(folder: Path, ours: _Ours) -> subprocess.Popen[str]:
    tokens, log_p = ours.rows()
    process = subprocess.Popen(
        [os.environ['GPTJAX_PEERS'], '-P', Path(__file__).with_name('_peer_grpo.py')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    given = {**SHAPES, 'folder': str(folder), 'tokens': tokens.tolist()}
    given['unsaid'] = ours.unsaid
    theirs = np.array(_ask(process, json.dumps(given)))
    apart = np.abs(theirs - log_p).max()
    print(f'step: log-probabilities differ by at most {apart:.1e}', file=sys.stderr)
    if apart > 1e-3:
        raise ValueError(f'the two sides compute different things: {apart}')
    _ask(process, 'go')
    return process


def _ask(process: subprocess.Popen[str], line: str) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + '\n')
    process.stdin.flush()
    return json.loads(process.stdout.readline())
