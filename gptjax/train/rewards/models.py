"""Models as rewards: what a classifier says, and what a reward model gives.

The model has a tokenizer of its own: texts are encoded again.
"""

from collections.abc import Callable, Sequence
import math
from pathlib import Path

import numpy as np

from gptjax import command
from gptjax.data import storage
from gptjax.generate import reader as reader_lib
from gptjax.text import chat, frames
from gptjax.train import build
from gptjax.train.rewards import sample as sample_lib

_SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'probability': lambda odds_B: np.exp(-np.logaddexp(0, -odds_B)),
    'log_odds': lambda odds_B: odds_B,
}


def classifier(
    *, workdir: str, label: str, score: str, prompt: bool
) -> sample_lib.Reward:
    """How likely a completion is of a class, or, with `prompt`, the prompt and it.

    workdir: of a run of the objective 'classification'. label: the name of the class.
    score: 'probability', or 'log_odds', log(p / (1 - p)). What is longer than the rows
    of that run has no reward (NaN). Raises UserError for another model, or class.
    """
    trained = build.load(Path(workdir))
    _require(trained, 'classes')
    numbers = {name: number for number, name in enumerate(trained.labels)}
    number = command.lookup(numbers, label, f'class of {workdir}')
    scaled = command.lookup(_SCORES, score, 'score of a classifier')
    reader = reader_lib.Reader(trained.model, trained.params, trained.tokenizer)

    def framed(sample: sample_lib.Sample) -> reader_lib.Framed:
        text = sample_lib.whole(sample) if prompt else sample.completion
        return frames.example(trained.tokenizer, trained.tokenizer.encode(text))

    def scores(rows: Sequence[reader_lib.Framed]) -> np.ndarray:
        logits_BC = reader.classes(rows).astype(np.float64)
        others_BC = np.delete(logits_BC, number, axis=1)
        return scaled(logits_BC[:, number] - np.logaddexp.reduce(others_BC, axis=1))

    return _of(framed, scores, build.row_length(trained))


def reward_model(*, workdir: str, normalise: bool) -> sample_lib.Reward:
    """The reward of the conversation that ends with the completion, as it was trained.

    workdir: of a run of the objective 'reward'. A plain prompt is what a user says.
    normalise: less the mean and over the standard deviation of the rewards of its
    held-out pairs, which `python -m gptjax.evals --workdir=WORKDIR` has written. What
    is longer than the rows of that run has no reward (NaN). Raises UserError for
    another model, and for none or several evaluations of it where one is needed.
    """
    trained = build.load(Path(workdir))
    _require(trained, 'reward')
    mean, std = _evaluated(trained) if normalise else (0.0, 1.0)
    reader = reader_lib.Reader(trained.model, trained.params, trained.tokenizer)

    def framed(sample: sample_lib.Sample) -> reader_lib.Framed:
        ids, _ = chat.encode(trained.tokenizer, sample_lib.conversation(sample))
        return ids, [0] * len(ids)

    def scores(rows: Sequence[reader_lib.Framed]) -> np.ndarray:
        return (reader.rewards_of(rows) - mean) / std

    return _of(framed, scores, build.row_length(trained))


def _require(trained: build.Trained, kind: str) -> None:
    found = trained.model.arch.head.kind
    if found != kind:
        raise command.UserError(
            f'{trained.workdir} has a head of {found!r}, and this reward needs one of '
            f'{kind!r}; see configs/classify.py and configs/reward.py.'
        )


def _of(
    framed: Callable[[sample_lib.Sample], reader_lib.Framed],
    scores: Callable[[Sequence[reader_lib.Framed]], np.ndarray],
    T: int,
) -> sample_lib.Reward:
    def reward(samples: Sequence[sample_lib.Sample]) -> np.ndarray:
        rows = [framed(sample) for sample in samples]
        fits = [i for i, (ids, _) in enumerate(rows) if len(ids) <= T]
        found = np.full(len(rows), math.nan, np.float32)
        if fits:
            found[fits] = scores([rows[i] for i in fits])
        return found

    return reward


def _evaluated(trained: build.Trained) -> tuple[float, float]:
    """Mean and standard deviation of its rewards of held-out pairs."""
    folder = trained.workdir / 'evals'
    results = [storage.read_json(path) for path in sorted(folder.glob('*.json'))]
    found = [
        (result['reward_mean'], result['reward_std'])
        for result in results
        if result.get('reward_std', 0) > 0 and result['step'] == trained.step
    ]
    if len(found) != 1:
        raise command.UserError(
            f'a reward has normalise=True, and {folder} holds {len(found)} results of '
            f'pairs, with rewards that differ, of step {trained.step}; it needs one, '
            f'by python -m gptjax.evals --workdir={trained.workdir}.'
        )
    return found[0]
