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
    cut = text[:_LONGEST]
    return cut if cut == text else f'{cut}\N{HORIZONTAL ELLIPSIS}'


def of_runs(reported: Sequence[runs.Run]) -> list[page.Html]:
    """The answers of runs to the same held-out questions, a table for each dataset."""
    asked: dict[tuple[str, str], dict[tuple[str, str], list[tuple[object, ...]]]] = {}
    for run in reported:
        for result in run.results:
            for sample in result.get('samples', ()):
                dataset = result['dataset'], result['dataset_digest']
                question = sample['question'], sample['reference']
                lines = asked.setdefault(dataset, {}).setdefault(question, [])
                lines.append((run.name, *_answer(sample)))
    parts = []
    for (name, _), groups in asked.items():
        judged = any(reward for lines in groups.values() for *_, reward in lines)
        parts += [
            page.element('h3', f'Answers to held-out questions of {name}'),
            page.grouped(
                ('', 'answer', 'reward#' if judged else '#'),
                [(_prompt(*question), lines) for question, lines in groups.items()],
            ),
        ]
    return parts


def _answer(sample: dict[str, Any]) -> tuple[object, object]:
    cut = '' if sample['stopped'] else page.element('small', 'did not stop')
    reward = _number(sample['reward']) if 'reward' in sample else ''
    return page.join([_cut(sample['answer']) or '(nothing)', cut]), reward
