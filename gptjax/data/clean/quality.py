"""A classifier of quality, trained on the user's own labels.

Logistic regression over hashed words and pairs of words (Weinberger et al., 2009), with
the probability calibrated by Platt's two numbers (1999). Every figure is of labels that
the model which judges them has not seen.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np

from gptjax import command
from gptjax.data import documents, steps, storage
from gptjax.data.corpora import files
from gptjax.data.dedup import hashes

_LEAST = 20  # labels of each class
_GAIN = 1e-6  # training ends where a step lowers the loss by less, of itself


def train(
    path: str, output: str, *, bits: int, l2: float, iterations: int, folds: int
) -> dict[str, Any]:
    """Trains on `path`, writes OUTPUT.npz and OUTPUT.json, and returns the latter.

    path: .jsonl, or a folder of them, with lines {"text": ..., "label": 0 or 1}; `id`
        says which fold a line belongs to, and is the text where there is none.
    bits: there are 2**bits weights. l2: half of it times the squared weights is added
        to the mean loss. iterations: of L-BFGS, at most.
    folds: each label is judged by a model of the other folds, calibrated on them.
    Deterministic. Raises UserError for lines without text or label, and for fewer than
    20 labels of a class.
    """
    if not output.endswith('.npz'):
        raise command.UserError(f'output is {output!r}; it needs to end in .npz.')
    if not 8 <= bits <= 24 or folds < 2 or iterations < 1 or l2 <= 0:
        raise command.UserError(
            f'bits={bits}, folds={folds}, iterations={iterations}, l2={l2}: bits needs '
            'to be in 8..24, folds >= 2, iterations >= 1 and l2 > 0.'
        )
    texts, labels, keys = _labels(path)
    fold = np.array([int.from_bytes(key[:8]) % folds for key in keys])
    rows = [features(text, bits) for text in texts]
    fit = _fitter(rows, labels, bits, l2, iterations)
    raw, judged = np.zeros(len(rows)), np.zeros(len(rows))
    for one in range(folds):
        weights = fit(fold != one)
        for i in np.flatnonzero(fold == one):
            raw[i] = _score(weights, rows[i])
    for one in range(folds):
        slope, offset = _platt(raw[fold != one], labels[fold != one])
        judged[fold == one] = _sigmoid(slope * raw[fold == one] + offset)
    weights = fit(np.ones(len(rows), bool))
    slope, offset = _platt(raw, labels)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, weights=weights, platt=np.array([slope, offset]))
    told = {
        'options': dict(bits=bits, l2=l2, iterations=iterations, folds=folds),
        'labels': {'all': len(labels), 'good': int(labels.sum())},
        'held_out': figures(labels, judged),
        'sha256': storage.write(Path(output), buffer.getvalue()),
    }
    storage.write_json(Path(output).with_suffix('.json'), told)
    return told


def _labels(path: str) -> tuple[list[str], np.ndarray, list[bytes]]:
    texts, labels, keys = [], [], []
    for name, file in files.find(path, ('.jsonl',)):
        for line in files.json_lines(name, file):
            if isinstance(line, documents.Skipped):
                raise command.UserError(f'{line.source}: {line.reason}.')
            place, record = line
            text, label = files.string(record, 'text', place), record.get('label')
            if isinstance(label, bool) or label not in (0, 1):
                raise command.UserError(
                    f'{place} has label={label!r}; each line needs 1 (good) or 0.'
                )
            texts.append(text)
            labels.append(label)
            keys.append(documents.key(str(record.get('id', text))))
    found = np.array(labels, np.float64)
    fewer = min(int(found.sum()), len(labels) - int(found.sum()))
    if fewer < _LEAST:
        raise command.UserError(
            f'{path} has {fewer} labels of a class; it needs {_LEAST} of each.'
        )
    return texts, found, keys


def features(text: str, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(buckets, values) of a text: log counts of words and pairs, of length 1."""
    words = hashes.of_words(text)
    both = hashes.mixed(np.concatenate([words, hashes.grams(words, 2)]))
    buckets, counts = np.unique(both >> np.uint64(64 - bits), return_counts=True)
    values = np.log1p(counts)
    norm = np.sqrt((values**2).sum()) if len(values) else 1.0
    return buckets.astype(np.int64), values / norm


Row = tuple[np.ndarray, np.ndarray]


def _fitter(
    rows: Sequence[Row], labels: np.ndarray, bits: int, l2: float, iterations: int
) -> Callable[[np.ndarray], np.ndarray]:
    """A function of which rows to learn from: the weights, and the bias behind them.

    One program for all of them (JAX), where the others have no weight in the loss.
    """
    import jax
    import jax.numpy as jnp
    import optax

    used = np.unique(np.concatenate([buckets for buckets, _ in rows]))
    place = np.concatenate([np.searchsorted(used, buckets) for buckets, _ in rows])
    value = np.concatenate([values for _, values in rows]).astype(np.float32)
    owner = np.repeat(np.arange(len(rows)), [len(buckets) for buckets, _ in rows])
    sign = jnp.asarray(2 * labels - 1, jnp.float32)

    search = optax.scale_by_backtracking_linesearch(20, store_grad=True)
    solver = optax.lbfgs(linesearch=search)

    @jax.jit
    def minimise(
        share: jax.Array, place: jax.Array, value: jax.Array, owner: jax.Array
    ) -> jax.Array:
        def loss(weights: jax.Array) -> jax.Array:
            score = jax.ops.segment_sum(weights[place] * value, owner, len(rows))
            margin = sign * (score + weights[-1])
            penalty = l2 / 2 * (weights[:-1] ** 2).sum()
            return (share * jax.nn.softplus(-margin)).sum() + penalty

        def step(carry: Any) -> Any:
            weights, state, before, _, count = carry
            value, gradient = optax.value_and_grad_from_state(loss)(
                weights, state=state
            )
            updates, state = solver.update(
                gradient, state, weights, value=value, grad=gradient, value_fn=loss
            )
            weights = optax.apply_updates(weights, updates)
            return weights, state, value, before - value, count + 1

        def going(carry: Any) -> jax.Array:
            return (carry[3] > _GAIN * carry[2]) & (carry[4] < iterations)

        zero = jnp.zeros(len(used) + 1)
        start = (zero, solver.init(zero), jnp.float32(1e9), jnp.float32(1e9), 0)
        return jax.lax.while_loop(going, step, start)[0]

    def fit(seen: np.ndarray) -> np.ndarray:
        found = np.asarray(minimise(seen / seen.sum(), place, value, owner))
        weights = np.zeros(2**bits + 1, np.float32)
        weights[used], weights[-1] = found[:-1], found[-1]
        return weights

    return fit


def _score(weights: np.ndarray, row: Row) -> float:
    return float(weights[row[0]] @ row[1] + weights[-1])


def _sigmoid(scores: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(scores, -500, 500)))


def _platt(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Slope and offset by Newton's method, towards Platt's smoothed targets."""
    good = labels.sum()
    bad = len(labels) - good
    target = np.where(labels == 1, (good + 1) / (good + 2), 1 / (bad + 2))
    inputs = np.stack([scores, np.ones_like(scores)], 1)
    found = np.zeros(2)
    for _ in range(50):
        p = _sigmoid(inputs @ found)
        hessian = (inputs * (p * (1 - p))[:, None]).T @ inputs + 1e-6 * np.eye(2)
        found = found - np.linalg.solve(hessian, inputs.T @ (p - target))
    return float(found[0]), float(found[1])


def figures(labels: np.ndarray, judged: np.ndarray) -> dict[str, float]:
    """AUC, and at a probability of one half accuracy, precision and recall.

    majority: the accuracy of always saying the commoner class. log_loss: in nats.
    """
    said, true = judged >= 0.5, labels == 1
    both = int((said & true).sum())
    likely = np.clip(np.where(true, judged, 1 - judged), 1e-12, None)
    values = {
        'auc': auc(labels, judged),
        'accuracy': float((said == true).mean()),
        'majority': float(max(true.mean(), 1 - true.mean())),
        'precision': both / max(int(said.sum()), 1),
        'recall': both / max(int(true.sum()), 1),
        'log_loss': float(-np.log(likely).mean()),
    }
    return {name: round(value, 4) for name, value in values.items()}


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """How often a good one scores above a bad one; ties count half (Mann-Whitney)."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    good = int(labels.sum())
    above = ranks[labels == 1].sum() - good * (good + 1) / 2
    return float(above / max(good * (len(labels) - good), 1))


def summary(told: Mapping[str, Any]) -> str:
    """The figures as lines of text, with the majority class beside the accuracy."""
    labels, held = told['labels'], told['held_out']
    rows = [f'  {name:10}{value:8.3f}' for name, value in held.items()]
    head = f'{labels["all"]:,} labels, {labels["good"]:,} of them good; held out:'
    return '\n'.join([head, *rows])


def quality(*, path: str, least: float | None) -> steps.Step:
    """Judges by a classifier that `train` wrote, without JAX.

    least: a probability below it is rejected as 'quality'; None only notes it.
    Signal: 'quality', the probability that the document is good.
    Raises UserError for a file that is missing or not as it was written.
    """
    file = Path(path)
    if not file.is_file():
        raise command.UserError(
            f'quality.path is {path!r}, which is no file; train one: python -m '
            'gptjax.data quality.'
        )
    told = storage.read_json(file.with_suffix('.json')) or {}
    if told.get('sha256') != storage.file_digest(file):
        raise command.UserError(
            f'{path} is not what {file.with_suffix(".json")} describes; train it again.'
        )
    with np.load(file) as arrays:
        weights, (slope, offset) = arrays['weights'], arrays['platt']
    bits = told['options']['bits']

    def step(document: documents.Document) -> steps.Result:
        score = _score(weights, features(document.whole, bits))
        good = round(float(_sigmoid(slope * score + offset)), 4)
        if least is not None and good < least:
            return documents.Reject('quality', good)
        return dataclasses.replace(
            document, signals={**document.signals, 'quality': good}
        )

    return step
