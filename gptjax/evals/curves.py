"""What a run logged, as charts: its reward or loss large, all else small, in groups."""

from collections.abc import Sequence
from typing import Any

from gptjax.evals import charts, page

_TRAINING = 'Training'
# The group of a chart; a name that ends in '_' is that of all which begin with it.
_GROUPS = {
    'Rewards': (
        'reward', 'reward_', 'zero_variance', 'unweighted', 'log_p_', 'margin',
        'accuracy',
    ),
    'How far it went from the reference': (
        'kl', 'kl_coefficient', 'kl_loss', 'approx_kl', 'clip_share', 'importance',
    ),
    'What it says': ('entropy', 'length', 'ended'),
    'The value of a state': ('value_',),
    'What it forgot': ('forgetting_', 'loss_'),
}  # fmt: skip
# name: (title, unit or meaning); what is not here is shown by its own name.
_TITLES = {
    'reward': ('Reward', 'of an answer, in the mean'),
    'reward_std': ('Spread of rewards', 'standard deviation'),
    'reward_invalid': ('Invalid rewards', 'share of answers'),
    'reward_accuracy': ('Pairs in order', 'share, by implicit reward'),
    'reward_margin': ('Margin', 'of implicit rewards'),
    'reward_chosen': ('Chosen answers', 'implicit reward'),
    'reward_rejected': ('Rejected answers', 'implicit reward'),
    'log_p_chosen': ('Chosen answers', 'log-probability, nats'),
    'log_p_rejected': ('Rejected answers', 'log-probability, nats'),
    'accuracy': ('Right', 'share'),
    'zero_variance': ('Groups of equal rewards', 'share: nothing to learn from'),
    'unweighted': ('Left out', 'share of answers'),
    'kl': ('KL to the reference', 'nats an answer'),
    'kl_coefficient': ('Coefficient of the KL', ''),
    'kl_loss': ('KL in the loss', ''),
    'approx_kl': ('KL of the updates', 'nats a token, to the sampler'),
    'clip_share': ('Clipped', 'share of tokens'),
    'importance': ('Trainer to sampler', 'ratio of probabilities; 1 is equal'),
    'entropy': ('Entropy', 'nats a token'),
    'length': ('Length', 'tokens an answer'),
    'ended': ('Ended by themselves', 'share of answers'),
    'value_loss': ('Loss of the values', ''),
    'mfu': ('MFU', 'share of peak'),
}
_PREFIXES = {
    'reward_': ('Reward: {}', ''),
    'forgetting_': ('Forgetting of {}', 'nats a token above the start'),
    'loss_': ('Loss on {}', 'nats a token'),
}


def figures(records: Sequence[dict[str, Any]], loss_unit: str) -> list[page.Html]:
    """All charts of metrics.jsonl.

    A number of training and that of held-out data, `eval_NAME`, share a chart.
    loss_unit: of what the loss is, such as ', nats a token'.
    """
    names = {name.removeprefix('eval_') for record in records for name in record}
    names -= {'step', 'seconds'}
    main = 'reward' if 'reward' in names else 'loss'
    title = 'Reward of an answer, in the mean' if main == 'reward' else 'Loss'
    shown = [_figure(records, main, title + (loss_unit if main == 'loss' else ''))]
    groups: dict[str, list[str]] = {group: [] for group in (*_GROUPS, _TRAINING)}
    if main == 'reward':  # of which the held-out loss is the negative
        records = [{k: v for k, v in r.items() if k != 'eval_loss'} for r in records]
    for name in names - {main}:
        groups[_place(name)[0]].append(name)
    for group, members in groups.items():
        small = [_small(records, name) for name in sorted(members, key=_place)]
        if any(small):
            shown += [
                page.element('h3', group),
                page.element('div', *small, class_='small-multiples'),
            ]
    return shown


def _place(name: str) -> tuple[str, int, str]:
    """The group of a number, and where in it."""
    for group, members in _GROUPS.items():
        for i, member in enumerate(members):
            if name == member or (member.endswith('_') and name.startswith(member)):
                return group, i, name
    return _TRAINING, 0, name


def titled(name: str) -> tuple[str, str]:
    """The title of a number that was logged, and its unit or meaning."""
    if name in _TITLES:
        return _TITLES[name]
    for prefix, (title, unit) in _PREFIXES.items():
        if name.startswith(prefix):
            return title.format(name.removeprefix(prefix).replace('_', ' ')), unit
    return name.replace('_', ' ').capitalize(), ''


def _small(records: Sequence[dict[str, Any]], name: str) -> page.Html:
    title, unit = titled(name)
    return _figure(records, name, title, unit, width=290, height=150, from_zero=True)


def _figure(
    records: Sequence[dict[str, Any]],
    name: str,
    title: str,
    unit: str = '',
    width: int = 940,
    height: int = 290,
    from_zero: bool = False,
) -> page.Html:
    held_out = _points(records, f'eval_{name}')
    training = _points(records, name)
    both = bool(held_out and training)
    series = [
        charts.Series('training' if both else '', training, 'one' if both else 'two'),
        charts.Series('held-out', held_out, 'two', dots=True),
    ]
    return charts.figure(title, series, width, height, from_zero, unit)


def _points(records: Sequence[dict[str, Any]], name: str) -> list[charts.Point]:
    """(step, value) of the records that have one."""
    return [
        (record['step'], record[name])
        for record in records
        if record.get(name) is not None
    ]
