"""What a run logged, as charts: its reward or loss large, all else small, in groups."""

from collections.abc import Sequence
import re
from typing import Any

from gptjax.evals import charts, page

_TRAINING = 'Training'
# group: {what is logged: its unit or meaning}, in the order of the page; a name that
# ends in '_' stands for all that begin with it.
_GROUPS = {
    'Rewards': {
        'reward_accuracy': 'share of pairs ranked right',
        'reward_invalid': 'share of answers',
        'reward_': '',
        'zero_variance': 'share of groups: nothing to learn',
        'unweighted': 'share of answers: left out',
        'log_p_': 'nats an answer',
        'margin': '',
        'accuracy': 'share',
    },
    'How far it went from the reference': {
        'kl': 'nats an answer',
        'kl_': '',
        'approx_kl': 'nats a token, of the updates',
        'clip_share': 'share of tokens',
        'importance': 'p of training / p of sampling',
    },
    'What it says': {
        'entropy': 'nats a token',
        'length': 'tokens an answer',
        'ended': 'share of answers',
    },
    'The value of a state': {'value_': ''},
    'What it learned and forgot, by source': {
        'forgetting_': 'nats a token above the start',
        'loss_': 'nats a token',
    },
}


def figures(records: Sequence[dict[str, Any]], loss_unit: str) -> list[page.Html]:
    """All charts of metrics.jsonl.

    A number of training and that of held-out data, `eval_NAME`, share a chart.
    loss_unit: of what the loss is, such as 'nats a token'.
    """
    names = {name.removeprefix('eval_') for record in records for name in record}
    names -= {'step', 'seconds'}
    main, unit = 'loss', loss_unit
    if 'reward' in names:  # of which the held-out loss is the negative
        main, unit = 'reward', 'mean of the answers'
        records = [{k: v for k, v in r.items() if k != 'eval_loss'} for r in records]
    shown = [_figure(records, main, unit)]
    groups: dict[str, dict[str, str]] = {group: {} for group in (*_GROUPS, _TRAINING)}
    for (group, _, name), unit in sorted(map(_place, names - {main})):
        groups[group][name] = unit
    for group, members in groups.items():
        small = [
            _figure(records, name, unit, small=True) for name, unit in members.items()
        ]
        if any(small):
            shown += [
                page.element('h3', group),
                page.element('div', *small, class_='small-multiples'),
            ]
    return shown


def _place(name: str) -> tuple[tuple[str, int, str], str]:
    """The group of a number and where it stands in it, and its unit."""
    for group, members in _GROUPS.items():
        for i, (member, unit) in enumerate(members.items()):
            if name == member or (member.endswith('_') and name.startswith(member)):
                return (group, i, name), unit
    return (_TRAINING, 0, name), ''


def _title(name: str) -> str:
    """The name that metrics.jsonl has, as words."""
    words = name.replace('_', ' ')
    words = re.sub(r'\b(kl|mfu)\b', lambda found: found[0].upper(), words)
    return words[0].upper() + words[1:]


def _figure(
    records: Sequence[dict[str, Any]], name: str, unit: str, small: bool = False
) -> page.Html:
    held_out = _points(records, f'eval_{name}')
    training = _points(records, name)
    both = bool(held_out and training)
    series = [
        charts.Series('training' if both else '', training, 'one' if both else 'two'),
        charts.Series('held-out', held_out, 'two', dots=True),
    ]
    width, height = (290, 150) if small else (940, 290)
    from_zero = small and not name.startswith('loss_')
    return charts.figure(_title(name), series, width, height, from_zero, unit)


def _points(records: Sequence[dict[str, Any]], name: str) -> list[charts.Point]:
    """(step, value) of the records that have one."""
    return [
        (record['step'], record[name])
        for record in records
        if record.get(name) is not None
    ]
