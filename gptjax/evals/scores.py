"""Scores of a trained model on held-out data: every token, or pair, once.

What a result holds, for each kind of dataset:

text   loss (nats a token), perplexity, bits_per_byte, tokens, bytes
       with a trigram model: trigram_bits_per_byte
chat   loss (nats a token of the assistant), tokens
       with answers: asked, stopped, max_tokens, samples, and where there are
       rewards, reward (see `answers.ask`)
pairs  ranked_right (a share), pairs
       of a reward model: accuracy (a share), pairs, ece, reward_mean, reward_std; see
       `calibration`
other  of models that write no text: accuracy (a share) by their own objective, of so
       many tokens (hidden ones, or those of targets) or examples

and of all: dataset, dataset_digest, kind, split, step.
"""

import functools
import json
import math
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Int64
import numpy as np

from gptjax import command, core
from gptjax.data import dataset as dataset_lib
from gptjax.data import rows as rows_lib
from gptjax.data import storage
from gptjax.evals import answers as answers_lib
from gptjax.evals import calibration, ngram
from gptjax.generate import engine as engine_lib
from gptjax.objectives import next_token, preference
from gptjax.text import chat
from gptjax.train import build, evaluate, feed, settings
from gptjax.train import step as step_lib
from gptjax.train.rewards import table as rewards_table

SPLIT = 'validation'
_LOGITS = 2**26  # of one batch: 256 MiB in float32
_ROWS = 4096  # read at once by `stream`


def run(
    workdir: Path,
    data: Path | None,
    trigram: bool,
    answers: int | None,
    rewards: Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Scores the newest checkpoint of `workdir`, and writes evals/DATASET.json there.

    data: a built dataset with the same tokenizer; None is the one it trained on.
    rewards: a workdir of rollouts, whose rewards judge the answers. Where DATASET.json
    is of another dataset of that name, DATASET-DIGEST.json is written.
    Raises UserError as `build.load`, `dataset.open` and `score` do.
    """
    trained = build.load(workdir)
    built = build.dataset_of(trained) if data is None else dataset_lib.open(data)
    judge = None if rewards is None else _judge(rewards, answers)
    result = score(trained, built, trigram, answers, judge)
    path = _place(workdir / 'evals', result)
    path.parent.mkdir(exist_ok=True)
    storage.write_json(path, result)
    return path, result


def _place(folder: Path, result: dict[str, Any]) -> Path:
    """The file of a result: it replaces those of the same dataset alone."""
    name, digest = result['dataset'], result['dataset_digest']
    path = folder / f'{name}.json'
    if path.exists() and _read(path)['dataset_digest'] != digest:
        return folder / f'{name}-{digest[:12]}.json'
    return path


def score(
    trained: build.Trained,
    built: dataset_lib.Dataset,
    trigram: bool = False,
    answers: int | None = None,
    judge: rewards_table.Combined | None = None,
) -> dict[str, Any]:
    """The result on the held-out split of a dataset; its fields are those above.

    Raises UserError where the dataset has another tokenizer than the model, no held-out
    split, or is not of the kind that `trigram` (text) or `answers` (chat) is for.
    """
    _check(trained, built, trigram, answers)
    arch = trained.model.arch
    rows = built.rows(SPLIT, build.row_length(trained))
    if arch.head.kind != 'tokens' or arch.encoder_L:
        found = _own(trained, built)
    elif built.kind == 'text':
        found = _text(trained, built, rows, trigram)
    elif built.kind == 'chat':
        means = _means(trained, rows, next_token.make(trained.model))
        found = {'loss': means['loss'], 'tokens': round(means['weight'])}
        if answers is not None:
            found |= _answers(trained, rows, answers, judge)
    elif built.kind != 'pairs':
        raise command.UserError(
            f'{built.folder} is a dataset of {built.kind}, of which there is no score '
            'by itself; metrics.jsonl has the figures of training on it (eval_...).'
        )
    else:
        plain = dict(name='sigmoid', beta=1.0)  # of which only the ranking counts
        loss_fn = preference.make(trained.model, plain, reference='none')
        means = _means(trained, rows, loss_fn)
        found = {'ranked_right': means['accuracy'], 'pairs': round(means['weight'])}
    return {
        'dataset': built.folder.resolve().name,
        'dataset_digest': built.manifest['digest'],
        'kind': built.kind,
        'split': SPLIT,
        'step': trained.step,
        **found,
    }


def _check(
    trained: build.Trained,
    built: dataset_lib.Dataset,
    trigram: bool,
    answers: int | None,
) -> None:
    if built.manifest['tokenizer']['digest'] != trained.tokenizer.digest:
        raise command.UserError(
            f'{built.folder} has another tokenizer than {trained.workdir}; build the '
            'dataset with that workdir as its tokenizer '
            f'(name="folder", path="{trained.workdir}").'
        )
    for flag, given, kind in (
        ('--trigram', trigram, 'text'),
        ('--answers', answers is not None, 'chat'),
    ):
        if given and built.kind != kind:
            raise command.UserError(
                f'{flag} is for a dataset of {kind}, and {built.folder} is one of '
                f'{built.kind}; leave it out, or give another --data.'
            )


def _text(
    trained: build.Trained,
    built: dataset_lib.Dataset,
    rows: rows_lib.Rows,
    trigram: bool,
) -> dict[str, Any]:
    means = _means(trained, rows, next_token.make(trained.model))
    tokens, size = round(means['weight']), built.bytes(SPLIT)
    found = {
        'loss': means['loss'],
        'perplexity': math.exp(means['loss']),
        'bits_per_byte': bits_per_byte(means['loss'] * tokens, size),
        'tokens': tokens,
        'bytes': size,
    }
    if trigram:
        begin = trained.tokenizer.control[chat.BEGIN]
        model = ngram.Trigram(
            stream(built.rows('train', build.row_length(trained))),
            trained.tokenizer.vocab_size,
            begin,
        )
        found['trigram_bits_per_byte'] = bits_per_byte(model.nats(stream(rows)), size)
    return found


def _own(trained: build.Trained, built: dataset_lib.Dataset) -> dict[str, Any]:
    """By the objective that the model was trained on."""
    loss_fn, rows = build.objective_of(trained, built, SPLIT)
    if trained.model.arch.head.kind == 'reward':
        return calibration.ranked(trained, rows, min(32, len(rows)))
    means = _means(trained, rows, loss_fn)
    count = 'examples' if built.kind == 'labelled' else 'tokens'
    return {'accuracy': means['accuracy'], count: round(means['weight'])}


def bits_per_byte(nats: float, size: int) -> float:
    """Total nats / ln 2 / bytes of the text: comparable between tokenizers.

    The nats are those of every target, the <|endoftext|> that ends a document included;
    the bytes are those of the text alone, in UTF-8. So the knowledge of where documents
    end is paid for, and counts as no text.
    """
    return nats / math.log(2) / size


def _judge(workdir: Path, answers: int | None) -> rewards_table.Combined:
    """The rewards of a workdir's run."""
    if answers is None:
        raise command.UserError('--rewards judges answers; give --answers=N too.')
    stored = settings.stored(workdir)
    if 'rewards' not in stored:
        raise command.UserError(
            f'the config of {workdir} has no rewards; name a workdir of rollouts.'
        )
    return rewards_table.combine(stored['rewards'])


def _answers(
    trained: build.Trained,
    rows: rows_lib.Rows,
    count: int,
    judge: rewards_table.Combined | None,
) -> dict[str, Any]:
    asked = answers_lib.pick(rows, trained.tokenizer.control, count)
    engine = engine_lib.Engine(trained.model, trained.params, trained.tokenizer)
    return answers_lib.ask(engine, trained.tokenizer, asked, judge)


def _means(
    trained: build.Trained,
    rows: rows_lib.Rows,
    loss_fn: core.LossFn,
) -> dict[str, float]:
    """Means of a loss function over all rows, in batches that fit the memory."""
    row = build.row_length(trained) * trained.model.arch.V
    batch_size = min(max(_LOGITS // row, 1), 32, len(rows))
    return evaluate.evaluate(
        jax.jit(functools.partial(step_lib.eval_step, loss_fn=loss_fn)),
        trained.params,
        {},
        feed.Feed(trained.model.sharding, batch_size),
        rows,
    )


def stream(rows: rows_lib.Rows) -> Int64[np.ndarray, ' n']:
    """All tokens of text rows in order, and the <|endoftext|> that ends the last."""
    parts = []
    for start in range(0, len(rows), _ROWS):
        arrays = rows.read(np.arange(start, min(start + _ROWS, len(rows))))
        real = arrays['segments'] > 0
        parts += [arrays['tokens'][real], arrays['targets'][real][-1:]]
    kept = [*parts[::2], parts[-1]]  # the last target of the last rows ends the stream
    return np.concatenate(kept).astype(np.int64)


# name: (label, unit, what it is for a reader who does not know)
LABELS = {
    'loss': ('loss', 'nats a token', 'average surprise at the true next token'),
    'perplexity': ('perplexity', '', 'as unsure as among so many equal choices'),
    'bits_per_byte': ('bits per byte', '', 'what storing the text would take'),
    'trigram_bits_per_byte': (
        'trigram bits per byte',
        '',
        'of a model that only counts phrases',
    ),
    'ranked_right': ('pairs ranked right', 'share', 'whose better answer is likelier'),
    'accuracy': ('accuracy', 'share', 'of what is asked: guessed right'),
    'ece': ('calibration error', '', 'of the chance that it gives its choices'),
    'reward_mean': ('mean reward', '', 'of both answers'),
    'reward_std': ('deviation of rewards', '', 'of both answers'),
    'examples': ('examples', '', 'each with its class'),
    'pairs': ('pairs', '', 'each a better and a worse answer'),
    'asked': ('questions asked', '', 'of the part that was kept out of training'),
    'stopped': ('answers that stopped', '', 'by themselves, not at the limit'),
    'reward': ('reward', '', 'of an answer, in the mean'),
    'tokens': ('tokens', '', 'predicted, each once'),
    'bytes': ('bytes', '', 'of text, in UTF-8'),
}


def shown(value: float | int) -> str:
    """A number of a result, as people read it."""
    if isinstance(value, int):
        return f'{value:,}'
    return f'{value:.4f}' if value < 100 else f'{value:,.1f}'


def table(result: dict[str, Any]) -> str:
    """A result for people: one line a number."""
    head = f'{result["dataset"]} ({result["kind"]}), held-out split, step '
    lines = [f'{head}{result["step"]:,}', '']
    for name, (label, unit, _) in LABELS.items():
        if name in result:
            lines.append(f'{label:<22} {shown(result[name]):>12}  {unit}'.rstrip())
    return '\n'.join(lines)


def read(workdir: Path) -> list[dict[str, Any]]:
    """The results that stand in a workdir, by name; UserError for a damaged one."""
    return [_read(path) for path in sorted((workdir / 'evals').glob('*.json'))]


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
        result['kind'], result['dataset'], result['dataset_digest']
    except (ValueError, KeyError, TypeError):
        raise command.UserError(
            f'{path} is damaged; delete it and evaluate that dataset again.'
        ) from None
    return result
