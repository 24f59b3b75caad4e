"""What a run did, in numbers: the manifest, the list of bad pieces, and a table."""

from collections.abc import Iterable, Mapping, Sequence
import hashlib
import json
from pathlib import Path
from typing import Any

from gptjax import command
from gptjax.data import storage
from gptjax.data.refine import chain, files

BAD = 'bad.jsonl'
_WAYS = (
    'documents in', 'documents out', 'changed', 'characters in', 'characters out',
)  # fmt: skip


def bad_file(output: Path, lines: Iterable[bytes]) -> dict[str, Any]:
    """Writes bad.jsonl of ordered lines, and says what it is."""
    partial, digest, count = output / f'{BAD}.partial', hashlib.sha256(), 0
    with partial.open('wb') as file:
        for line in lines:
            file.write(line + b'\n')
            digest.update(line + b'\n')
            count += 1
    storage.rename(partial, output / BAD)
    return {'file': BAD, 'sha256': digest.hexdigest(), 'rows': count}


def manifest(
    settings: Mapping[str, Any], names: Sequence[str], tally: chain.Tally,
    written: Sequence[Mapping[str, Any]], bad: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The manifest of a run: settings, counts and digests, without a time in it.

    names: of what is counted, in order. written: of each bucket, what `files` says.
    """
    parts = [one['documents'] for one in written]
    rolled: dict[str, dict[str, dict[str, int]]] = {f: {} for f in files.ROLLED_UP}
    signals: dict[str, dict[str, float]] = {}
    for part in parts:
        for field, name, count, size in part['counts']:
            one = rolled[field].setdefault(name, {'documents': 0, 'characters': 0})
            one['documents'] += count
            one['characters'] += size
        for name, (count, total, least, most) in part['signals'].items():
            new = {'documents': count, 'sum': total, 'least': least, 'most': most}
            old = signals.setdefault(name, {**new, 'documents': 0, 'sum': 0.0})
            old['documents'] += count
            old['sum'] += total
            old['least'], old['most'] = min(old['least'], least), max(old['most'], most)
    made: dict[str, Any] = {
        'format': files.FORMAT,
        'settings': settings,
        'documents': sum(part['rows'] for part in parts),
        'characters': sum(part['characters'] for part in parts),
        'steps': [_step(name, tally) for name in names],
        'rejected': _reasons('rejected', tally),
        'skipped': _reasons('skipped', tally),
        'signals': signals,
        'kinds': rolled['kind'],
        'licences': rolled['licence'],
        'sources': rolled['group'],
        'languages': rolled['language'],
        'files': [
            {k: v for k, v in one.items() if k not in ('counts', 'signals')}
            for one in (*parts, *(one['rejected'] for one in written), bad)
        ],
    }
    made = json.loads(json.dumps(made))
    return {**made, 'digest': storage.json_digest(made)}


def _step(name: str, tally: chain.Tally) -> dict[str, Any]:
    counted = {way.replace(' ', '_'): tally[way, name] for way in _WAYS}
    return {'name': name, **counted}


def _reasons(what: str, tally: chain.Tally) -> list[list[Any]]:
    """[step, reason, how often], or [reason, how often]."""
    return [[*key[1:], n] for key, n in sorted(tally.items()) if key[0] == what]


def table(made: Mapping[str, Any]) -> str:
    """Documents and characters in and out of each step, and why the others went."""
    why: dict[str, list[str]] = {}
    for step, reason, count in made['rejected']:
        why.setdefault(step, []).append(f'{reason} {count:,}')
    head = ('step', *_WAYS)
    rows = [head] + [
        (step['name'], *(f'{step[way.replace(" ", "_")]:,}' for way in _WAYS))
        for step in made['steps']
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [n.rjust(width) for n, width in zip(row[1:], widths[1:], strict=True)]
        lines.append('  '.join([*cells, *why.get(row[0], ())]).rstrip())
    for reason, count in made['skipped']:
        lines.append(f'skipped: {count:,} of {reason}')
    return '\n'.join(lines)


def check_bad(output: Path | str, made: Mapping[str, Any], most: float) -> None:
    """Raises UserError where more than the share `most` of the input was bad."""
    skipped = sum(count for _, count in made['skipped'])
    errors = sum(n for _, reason, n in made['rejected'] if reason == chain.ERROR)
    pieces = made['steps'][0]['documents_in'] + skipped
    if pieces == 0:
        raise command.UserError(
            f'the input of {output} holds nothing that can be read.'
        )
    if skipped + errors > most * pieces:
        raise command.UserError(
            f'{skipped + errors:,} of {pieces:,} pieces are bad, more than '
            f'run.most_bad={most:g}. {output} holds all the others, and {BAD} names '
            'these; allow more, or mend them and delete the folder.'
        )
