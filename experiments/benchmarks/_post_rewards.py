"""Reward models: on preferences of known chances, and on those of people (hh-rlhf)."""

from collections.abc import Iterator
import json
import math
import os
from pathlib import Path
import tempfile
from typing import Any

import numpy as np

from configs import reward as reward_config
from gptjax.data import dataset, ledger
from gptjax.evals import scores
from gptjax.model import table as model_table
from gptjax.train import build, loop

TRAIN, HELD_OUT = 24_000, 20_000  # planted pairs
LETTERS, LENGTH = 'abcdefghijklmnop', 8
FOLDS = 2
HH = dict(T=112, V=1024, D=64, F=256, N=4, K=4, H=16, dropout=0.0)


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        yield from _planted(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        yield from _people(Path(folder))


def _planted(folder: Path) -> Iterator[dict[str, Any]]:
    """Each letter has its worth; the choice between answers is Bradley-Terry's."""
    draw = np.random.default_rng(0)
    worth = draw.normal(0, 0.6, len(LETTERS))
    answers = draw.integers(0, len(LETTERS), (TRAIN + HELD_OUT, 2, LENGTH))
    utility = worth[answers].sum(-1)
    first = draw.random(len(answers)) < 1 / (1 + np.exp(utility[:, 1] - utility[:, 0]))
    lines = []
    for pair, both, yes in zip(answers, utility, first, strict=True):
        order = (0, 1) if yes else (1, 0)
        chosen, rejected = (''.join(LETTERS[i] for i in pair[one]) for one in order)
        better = both[order[0]] - both[order[1]]
        lines.append({'prompt': '?', 'chosen': chosen, 'rejected': rejected,
                      'evidence': str(better)})  # fmt: skip
    (folder / 'pairs.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    config = _config(folder / 'pairs.jsonl', dict(name='bytes'), batch_size=64)
    config.model = model_table.preset(
        'gpt2-nano', T=16, V=264, D=32, F=64, N=4, K=4, H=8, L=1, dropout=0.0,
        head=dict(kind='reward'),
    )  # fmt: skip
    config.data.build.held_out.fraction = HELD_OUT / len(lines)
    config.epochs, config.optimizer.learning_rate = 2.0, 3e-3
    found = _scored(config, folder / 'reward')
    built = dataset.open(folder / 'reward' / 'data')
    better = [float(e.evidence or 0) for e in ledger.entries(built, 'validation')]
    bayes = float(np.mean(np.array(better) > 0))
    yield {
        'name': f'planted utilities: pairs ranked right below Bayes ({bayes:.3f})',
        'value': 100 * (bayes - found['accuracy']), 'goal': 1, 'direction': 'min',
        'unit': 'points',
    }  # fmt: skip
    yield {
        'name': 'planted utilities: calibration error (ECE)', 'value': found['ece'],
        'goal': 0.03, 'direction': 'min', 'unit': '',
    }  # fmt: skip


def _people(folder: Path) -> Iterator[dict[str, Any]]:
    """Each half of the pairs is judged by a model that has read the other alone."""
    data = Path(os.environ['GPTJAX_DATA'])
    pairs = list(_hh(data / 'hh_rlhf' / 'harmless_base.jsonl'))
    right, count = 0.0, 0
    for fold in range(FOLDS):
        mine = folder / str(fold)
        mine.mkdir()
        read = [pair for i, pair in enumerate(pairs) if i % FOLDS != fold]
        rest = [pair for i, pair in enumerate(pairs) if i % FOLDS == fold]
        found = _fold(mine, read, rest)
        right += found['accuracy'] * found['pairs']
        count += found['pairs']
    share = right / count
    yield {
        'name': f'hh-rlhf: {count:,} unseen pairs ranked right ({share:.3f}) above 1/2',
        'value': (share - 0.5) / math.sqrt(0.25 / count), 'goal': 3,
        'direction': 'max', 'unit': 'standard errors',
    }  # fmt: skip


def _fold(
    folder: Path, read: list[dict[str, str]], rest: list[dict[str, str]]
) -> dict[str, Any]:
    texts = [{'text': p['prompt'] + '\n' + p[k]} for p in read
             for k in ('chosen', 'rejected')]  # fmt: skip
    for name, lines in (('texts', texts), ('read', read), ('rest', rest)):
        path = folder / f'{name}.jsonl'
        path.write_text('\n'.join(map(json.dumps, lines)))
    bpe = dict(name='sentencepiece', model_type='bpe', vocab_size=1000)
    config = _config(folder / 'texts.jsonl', bpe, batch_size=16)
    config.model = model_table.preset('gpt2-nano', **HH)
    config.data.build.corpus.name = 'text'
    config.objective = dict(name='next_token')
    config.epochs, config.optimizer.learning_rate = 2.0, 3e-3
    assert loop.train(build.build(config, folder / 'base'))

    config = _config(folder / 'read.jsonl', None, batch_size=16)
    config.model = dict(
        init_from=str(folder / 'base'), dropout=0.1, head=dict(kind='reward')
    )
    config.epochs, config.optimizer.learning_rate = 2.0, 1e-3
    _scored(config, folder / 'reward')
    tokenizer = dict(name='folder', path=str(folder / 'base'))
    built = _build(folder / 'rest.jsonl', folder / 'unseen', tokenizer)
    return scores.score(build.load(folder / 'reward'), built)


def _build(path: Path, output: Path, tokenizer: dict[str, Any]) -> dataset.Dataset:
    from gptjax.data import build as data_build

    return data_build.build(
        output,
        corpus=dict(name='pairs', path=str(path), licence='MIT'),
        tokenizer=tokenizer,
        held_out=dict(fraction=0.999, by='document'),
        shard_tokens=2**24,
    )


def _hh(path: Path) -> Iterator[dict[str, str]]:
    """The last question of each conversation, and both answers."""
    for line in path.read_text().splitlines():
        chosen, rejected = (json.loads(line)[k] for k in ('chosen', 'rejected'))
        asked, good = chosen.rsplit('\n\nAssistant:', 1)
        start, bad = rejected.rsplit('\n\nAssistant:', 1)
        if asked == start and good.strip() and bad.strip():
            prompt = asked.rsplit('\n\nHuman:', 1)[1].strip()
            yield {'prompt': prompt or '?', 'chosen': good.strip(),
                   'rejected': bad.strip()}  # fmt: skip


def _config(path: Path, tokenizer: dict[str, Any] | None, batch_size: int) -> Any:
    config = reward_config.get_config()
    config.data.path, config.data.batch_size = str(path), batch_size
    config.data.loader = 'threads'
    if tokenizer is not None:
        config.data.build.tokenizer = tokenizer
    config.eval.every = 10_000
    return config


def _scored(config: Any, workdir: Path) -> dict[str, Any]:
    assert loop.train(build.build(config, workdir))
    trained = build.load(workdir)
    return scores.score(trained, build.dataset_of(trained))
