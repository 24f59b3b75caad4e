"""Books that sound pleased: PPO and GRPO on real text, from their start to their end.

The base and the classifier are kept in runs/sentiment, and are made where they lack.
"""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import _sentiment
from gptjax.data import dataset, prompts
from gptjax.generate import engine
from gptjax.model import transformer
from gptjax.objectives import next_token
from gptjax.train import build

FOLDER = Path('runs/sentiment')
PROMPTS, TOKENS = 256, 24
TARGET = 20.0  # nats a completion: objective.kl_target of configs/sentiment/ppo.py


def rows() -> Iterator[dict[str, Any]]:
    """A quarter of an hour, and as much again where the base is to be made."""
    _sentiment.make(Path(os.environ['GPTJAX_DATA']), FOLDER)
    for name in ('base', 'classifier'):
        _train(name)
    right = _records('classifier')[-1]
    yield _row(
        'sentiment: pieces of reviews that the classifier tells',
        100 * right['eval_accuracy'], 60, 'max', '%',
    )  # fmt: skip
    plain = _perplexity('base')
    for name in ('ppo', 'grpo'):
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        start = time.perf_counter()
        _train(name)
        seconds = time.perf_counter() - start
        held_out = [r for r in _records(name) if 'eval_reward_classifier' in r]
        first, last = held_out[0], held_out[-1]
        yield _row(
            f'sentiment, {name}: mean probability of pos on held-out prompts',
            last['eval_reward_classifier'], 0.9, 'max', '',
            ours=last['eval_reward_classifier'], peer=first['eval_reward_classifier'],
        )  # fmt: skip
        yield _row(f'sentiment, {name}: the whole run', seconds, 300, 'min', 's')
        kl = last['eval_kl']
        yield _row(
            f'sentiment, {name}: KL to the base, over the target of PPO',
            kl / TARGET, 1.5, 'min', 'ratio', ours=kl, peer=TARGET,
        )  # fmt: skip
        ratio = _perplexity(name) / plain
        yield _row(
            f"sentiment, {name}: perplexity under the base, against the base's own",
            ratio, 2, 'min', 'ratio', ours=ratio * plain, peer=plain,
        )  # fmt: skip


def _train(name: str) -> None:
    """Ends at once where it was trained before."""
    command = (
        sys.executable, '-m', 'gptjax.train',
        f'--config=configs/sentiment/{name}.py', f'--workdir={FOLDER / name}',
    )  # fmt: skip
    subprocess.run(command, check=True)


def _records(name: str) -> list[dict[str, Any]]:
    lines = (FOLDER / name / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def _perplexity(name: str) -> float:
    """Of the completions of one workdir under the base, both at temperature 1."""
    base, writer = (build.load(FOLDER / which) for which in ('base', name))
    built = dataset.open(FOLDER / 'base' / 'data')
    asked = prompts.Prompts(built, 'validation', 16).read(np.arange(PROMPTS))
    given = [
        tuple(row[:length].tolist())
        for row, length in zip(asked['tokens'], asked['lengths'], strict=True)
    ]
    requests = [
        engine.Request(prompt, max_tokens=TOKENS, seed=seed)
        for seed, prompt in enumerate(given)
    ]
    said = engine.Engine(writer.model, writer.params, writer.tokenizer)
    answers = said.generate(requests)
    T = base.model.arch.T
    tokens, weights = np.zeros((PROMPTS, T + 1), np.int32), np.zeros((PROMPTS, T))
    for row, (prompt, answer) in enumerate(zip(given, answers, strict=True)):
        whole = (*prompt, *answer.tokens)
        tokens[row, : len(whole)] = whole
        weights[row, len(prompt) - 1 : len(whole) - 1] = 1

    @jax.jit
    def log_p(params: Any, tokens_BT: jax.Array) -> jax.Array:
        inputs = tokens_BT[:, :-1]
        places = jnp.broadcast_to(jnp.arange(T), inputs.shape)
        segments = jnp.ones_like(inputs)
        batch = {'tokens': inputs, 'positions': places, 'segments': segments}
        logits_BTV = transformer.forward(base.model, params, batch)
        return next_token.log_likelihood(logits_BTV, tokens_BT[:, 1:])

    nats = -np.asarray(log_p(base.params, tokens)) * weights
    return float(np.exp(nats.sum() / weights.sum()))


def _row(
    name: str, value: float, goal: float, direction: str, unit: str, **both: float
) -> dict[str, Any]:
    return dict(
        name=name, value=value, goal=goal, direction=direction, unit=unit, **both
    )


if __name__ == '__main__':
    for row in rows():
        print(row)
