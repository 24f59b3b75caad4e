"""Does it mean something? Pairs of results on the same data, set side by side."""

from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any

Result = dict[str, Any]  # as `scores` writes it
Named = tuple[str, Result]  # the name of the run, and its result on one dataset


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
    for name, result in named:
        if 'stopped' in result:
            stopped, asked = result['stopped'], result['asked']
            lines.append(
                Comparison(
                    f'Do the answers of {name} end by themselves?',
                    f'greedy answers to held-out questions of {dataset}, at most '
                    f'{result["max_tokens"]} tokens; more is better',
                    '',
                    f'{name}\n{stopped} of {asked}',
                    f'{stopped / asked:.0%}',
                    None,
                )
            )
    return lines


def _pairs(named: Sequence[Named]) -> list[Comparison]:
    dataset, count = named[0][1]['dataset'], named[0][1]['pairs']
    measure = (
        f'share of {count:,} held-out pairs of {dataset} whose better answer is the '
        'more probable one; more is better'
    )
    lines = []
    for (before, old), (after, new) in itertools.pairwise(named):
        gain = new['ranked_right'] - old['ranked_right']
        lines.append(
            Comparison(
                f'Does {after} prefer the better answer more often than {before} did?',
                measure,
                f'{before}\n{old["ranked_right"]:.1%}',
                f'{after}\n{new["ranked_right"]:.1%}',
                f'{signed(100 * gain)} points',
                None if gain == 0 else gain > 0,
            )
        )
    return lines


def _lower(
    question: str, measure: str, before: tuple[str, float], after: tuple[str, float]
) -> Comparison:
    """A comparison of two numbers of which the lower one is better."""
    change = after[1] / before[1] - 1
    return Comparison(
        question,
        measure,
        f'{before[0]}\n{before[1]:.3f}',
        f'{after[0]}\n{after[1]:.3f}',
        f'{signed(100 * change)}%',
        None if change == 0 else change < 0,
    )


def signed(value: float | int) -> str:
    """+1.3, or the like with a true minus sign."""
    return f'{value:+.1f}'.replace('-', '\N{MINUS SIGN}')
