"""What a model said, side by side: early and late in a run, and run by run."""

from collections.abc import Sequence
import re
from typing import Any

from gptjax.evals import answers, page, runs

_PROMPTS = 6
_LONGEST = 500  # characters of a text that is shown

Record = dict[str, Any]  # a line of samples.jsonl


def of_run(records: Sequence[Record]) -> list[page.Html]:
    """Answers early in a run beside those late in it, where it wrote transcripts.

    Those to held-out prompts, if there are any; else those that it learned from.
    """
    if not records:
        return []
    held_out = [record for record in records if record['held_out']]
    by_prompt: dict[str, list[Record]] = {}
    for record in held_out or records:
        by_prompt.setdefault(record['prompt'], []).append(record)
    again = [said for said in by_prompt.values() if said[0]['step'] < said[-1]['step']]
    if again:
        chosen = [_early_late(said) for said in answers.spread(again, _PROMPTS)]
    else:
        alone = [said[:1] for said in by_prompt.values()]
        chosen = [*alone[: _PROMPTS // 2], *alone[_PROMPTS // 2 :][-_PROMPTS // 2 :]]
    names = list(dict.fromkeys(name for r in records for name in r['rewards']))
    what = 'to held-out prompts' if held_out else 'in training'
    return [
        page.element('h3', f'What it said {what}, early and late'),
        page.grouped(
            ('', 'answer', *(f'{name}#' for name in names), 'reward#'),
            [
                (
                    _prompt(said[0]['prompt'], said[0]['reference']),
                    [_line(record, names) for record in said],
                )
                for said in chosen
            ],
        ),
    ]


def _early_late(said: Sequence[Record]) -> list[Record]:
    """The first, and the first of the last step: groups answer a prompt repeatedly."""
    last = next(record for record in said if record['step'] == said[-1]['step'])
    return [said[0], last]


def _prompt(prompt: str, reference: str) -> page.Html:
    true = page.element('small', f'True answer: {_cut(reference)}') if reference else ''
    return page.join([page.element('b', _cut(prompt)), true])


def _line(record: Record, names: Sequence[str]) -> tuple[object, ...]:
    return (
        f'step {record["step"]:,}',
        _cut(record['completion']) or '(nothing)',
        *(_number(record['rewards'].get(name)) for name in names),
        _number(record['reward']),
    )


def _number(value: float | None) -> str:
    return 'none' if value is None else f'{value:.2f}'


def _cut(text: str) -> str:
    """Not too much of a text, and no empty lines in it."""
    text = re.sub(r'\n\s*\n', '\n', text)
    return (
        text if len(text) <= _LONGEST else f'{text[:_LONGEST]}\N{HORIZONTAL ELLIPSIS}'
    )


def of_runs(reported: Sequence[runs.Run]) -> dict[str, page.Html]:
    """The answers of several runs to the same held-out questions, in one table.

    By the digest of the dataset, where at least two runs answered questions of it.
    """
    return {digest: _together(named) for digest, named in _answered(reported).items()}


def plain(reported: Sequence[runs.Run]) -> str:
    """Two of those questions for a terminal, with the answers of all runs."""
    lines = []
    for named in _answered(reported).values():
        width = max(len(name) for name, _ in named)
        for first in answers.spread(named[0][1]['samples'], 2):
            said = [
                (name, sample['answer'])
                for name, result in named
                for sample in result['samples']
                if sample['question'] == first['question']
            ]
            lines += ['', _cut(first['question'])]
            for who, text in [*said, ('true', first['reference'])]:
                lines.append(f'  {who:<{width}}  {" ".join(_cut(text).split())}')
    return '\n'.join(lines)


def _answered(
    reported: Sequence[runs.Run],
) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """(run, its result with answers), by dataset, where at least two runs have some."""
    answered: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for run in reported:
        for result in run.results:
            if 'samples' in result:
                named = answered.setdefault(result['dataset_digest'], [])
                named.append((run.name, result))
    return {digest: named for digest, named in answered.items() if len(named) > 1}


def _together(named: Sequence[tuple[str, dict[str, Any]]]) -> page.Html:
    groups: dict[tuple[str, str], list[tuple[object, ...]]] = {}
    for name, result in named:
        for sample in result['samples']:
            key = sample['question'], sample['reference']
            groups.setdefault(key, []).append((name, *_answer(sample)))
    table = page.grouped(
        ('', 'answer', 'reward#'),
        [(_prompt(*key), lines) for key, lines in groups.items()],
    )
    title = f'Answers to held-out questions of {named[0][1]["dataset"]}'
    return page.join([page.element('h3', title), table])


def _answer(sample: dict[str, Any]) -> tuple[object, object]:
    cut = '' if sample['stopped'] else page.element('small', 'did not stop')
    reward = _number(sample['reward']) if 'reward' in sample else ''
    return page.join([_cut(sample['answer']) or '(nothing)', cut]), reward
