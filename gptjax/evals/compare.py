"""Does it mean something? Pairs of results on the same data, set side by side."""

from collections.abc import Callable, Collection, Sequence
import dataclasses
import itertools
from typing import Any

Result = dict[str, Any]  # as `scores` writes it
Named = tuple[str, Result]  # the name of the run, and its result on one dataset
Value = tuple[str, float]  # the name of the run or step, and a number of it


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One line of the summary: a question, two numbers, and which way they point."""

    question: str
    measure: str
    before: str  # '' where there is nothing to compare with
    after: str
    change: str
    better: bool | None  # None: as before, or nothing to compare with


def summary(runs: Sequence[tuple[str, Sequence[Result]]]) -> list[Comparison]:
    """All comparisons that the results allow; `runs` are in the order of training.

    A text model is compared with the trigram model of its data. On the same dataset,
    each run is compared with the run before it.
    """
    by_dataset: dict[tuple[str, str], list[Named]] = {}
    for name, results in runs:
        for result in results:
            key = result['dataset'], result['dataset_digest']
            by_dataset.setdefault(key, []).append((name, result))
    kinds = {'text': _text, 'chat': _chat, 'pairs': _pairs}
    return [
        line
        for kind, compare in kinds.items()
        for named in by_dataset.values()
        if named[0][1]['kind'] == kind
        for line in compare(named)
    ]


def matrix(runs: Sequence[Sequence[Result]]) -> list[list[str]]:
    """A line for each figure of the results of runs: what it is, then a value a run.

    A value is '' where a run was not evaluated on that dataset.
    """
    lines: dict[tuple[str, str, str], list[str]] = {}
    for column, results in enumerate(runs):
        for result in results:
            for name, (label, show) in _FIGURES.items():
                if name in result and not (name == 'loss' and 'bytes' in result):
                    key = label, result['dataset'], result['dataset_digest']
                    values = lines.setdefault(key, [''] * len(runs))
                    values[column] = show(result)
    return [[f'{label}, {data}', *values] for (label, data, _), values in lines.items()]


_FIGURES: dict[str, tuple[str, Callable[[Result], str]]] = {
    'bits_per_byte': ('bits per byte', lambda r: f'{r["bits_per_byte"]:.3f}'),
    'loss': ('loss', lambda r: f'{r["loss"]:.3f}'),
    'reward': ('reward of answers', lambda r: f'{r["reward"]:.3f}'),
    'stopped': (
        'answers that stop by themselves',
        lambda r: f'{r["stopped"] / r["asked"]:.0%}',
    ),
    'ranked_right': ('pairs ranked right', lambda r: f'{r["ranked_right"]:.1%}'),
    'accuracy': ('accuracy', lambda r: f'{r["accuracy"]:.1%}'),
}


def logged(
    runs: Sequence[tuple[str, Sequence[Result]]], evaluated: Collection[str] = ()
) -> list[Comparison]:
    """What the evaluations of a run say of its start and of its end.

    `runs` have the records of metrics.jsonl: rewards of rollouts, and what other data
    that are held out say of forgetting, but of those of which `summary` tells already.
    """
    lines = []
    for name, records in runs:
        for before, after in _ends(records, 'eval_reward'):
            question = f'Do the answers of {name} earn more than at its start?'
            measure = 'mean reward of its answers to held-out prompts; more is better'
            change = signed(after[1] - before[1], 3)
            lines.append(_pair(question, measure, before, after, '.3f', change))
        prefix = 'eval_loss_'
        known = {key for record in records for key in record if key.startswith(prefix)}
        for key in sorted(known - {f'{prefix}{dataset}' for dataset in evaluated}):
            other = key.removeprefix(prefix)
            measure = f'loss on held-out rows of {other}, nats a token; lower is better'
            for pair in _ends(records, key):
                lines.append(
                    _lower(f'Did {name} learn or forget {other}?', measure, *pair)
                )
    return lines


def _ends(records: Sequence[Result], key: str) -> list[list[Value]]:
    """[[('step n', value) of the first record with one, and of the last]], or []."""
    found = [(f'step {r["step"]:,}', r[key]) for r in records if r.get(key) is not None]
    return [[found[0], found[-1]]] if len(found) > 1 else []


def _text(named: Sequence[Named]) -> list[Comparison]:
    measure = (
        f'bits per byte, held-out text of {named[0][1]["dataset"]}; lower is better'
    )
    lines = []
    for name, result in named:
        if 'trigram_bits_per_byte' in result:
            counted, found = result['trigram_bits_per_byte'], result['bits_per_byte']
            lines.append(
                _lower(
                    f'Does {name} predict unseen text better than counting '
                    'three-token phrases?',
                    measure,
                    ('trigram', counted),
                    (name, found),
                )
            )
    for (before, old), (after, new) in itertools.pairwise(named):
        pair = (before, old['bits_per_byte']), (after, new['bits_per_byte'])
        lines.append(_lower(f'Does {after} still predict that text?', measure, *pair))
    return lines


def _chat(named: Sequence[Named]) -> list[Comparison]:
    dataset = named[0][1]['dataset']
    lines = [
        _lower(
            f'Does {after} expect the right answers more than {before} did?',
            f'loss on held-out answers of {dataset}, nats a token; lower is better',
            (before, old['loss']),
            (after, new['loss']),
        )
        for (before, old), (after, new) in itertools.pairwise(named)
    ]
    answered = [(name, result) for name, result in named if 'stopped' in result]
    lines += [_stopped(None, only) for only in answered if len(answered) == 1]
    return lines + [_stopped(*pair) for pair in itertools.pairwise(answered)]


def _stopped(before: Named | None, after: Named) -> Comparison:
    """How many of the answers end by themselves."""
    name, result = after
    question = f'Do the answers of {name} end by themselves?'
    measure = (
        f'share of {result["asked"]:,} greedy answers to held-out questions of '
        f'{result["dataset"]}, at most {result["max_tokens"]} tokens; more is better'
    )
    if before is None:
        share = f'{_share(result):.1%}'
        return Comparison(question, measure, '', f'{name}\n{share}', share, None)
    old = before[0], _share(before[1])
    return _higher(question, measure, old, (name, _share(result)))


def _share(result: Result) -> float:
    return float(result['stopped'] / result['asked'])


def _pairs(named: Sequence[Named]) -> list[Comparison]:
    dataset, count = named[0][1]['dataset'], named[0][1]['pairs']
    measure = (
        f'share of {count:,} held-out pairs of {dataset} whose better answer is the '
        'more probable one; more is better'
    )
    return [
        _higher(
            f'Does {after} prefer the better answer more often than {before} did?',
            measure,
            (before, old['ranked_right']),
            (after, new['ranked_right']),
        )
        for (before, old), (after, new) in itertools.pairwise(named)
    ]


def _higher(question: str, measure: str, before: Value, after: Value) -> Comparison:
    """A comparison of two shares of which the higher one is better."""
    change = f'{signed(100 * (after[1] - before[1]))} points'
    return _pair(question, measure, before, after, '.1%', change)


def _lower(question: str, measure: str, before: Value, after: Value) -> Comparison:
    """A comparison of two numbers of which the lower one is better."""
    change = f'{signed(100 * (after[1] / before[1] - 1))}%'
    return _pair(question, measure, before, after, '.3f', change, lower=True)


def _pair(
    question: str,
    measure: str,
    before: Value,
    after: Value,
    form: str,
    change: str,
    lower: bool = False,
) -> Comparison:
    (name, old), (later, new) = before, after
    return Comparison(
        question,
        measure,
        f'{name}\n{old:{form}}',
        f'{later}\n{new:{form}}',
        change,
        None if new == old else (new < old) == lower,
    )


def signed(value: float | int, places: int = 1) -> str:
    """+1.3, or the like with a true minus sign."""
    return f'{value:+.{places}f}'.replace('-', '\N{MINUS SIGN}')
