"""The data card: what a dataset is made of, in Markdown, from its manifest alone."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
import json
from pathlib import Path
from typing import Any

from gptjax.data import croissant, dataset, storage

FILE = 'card.md'
_COUNTS = ('documents', 'bytes', 'tokens')
_KINDS = {
    'text': 'documents',
    'chat': 'conversations',
    'pairs': 'preference pairs',
    'labelled': 'labelled texts',
    'translation': 'translations',
}
_MOST = 50  # rows of a table


def write(built: dataset.Dataset) -> None:
    """Writes card.md and croissant.json into a dataset's folder."""
    storage.write(built.folder / FILE, text(built.manifest).encode())
    described = croissant.describe(built.manifest)
    storage.write_json(built.folder / croissant.FILE, described)


def rewrite(data: Path | str) -> str:
    """Writes the cards of a dataset anew; returns the Markdown. UserError as `open`."""
    built = dataset.open(data)
    write(built)
    return text(built.manifest)


def text(manifest: Mapping[str, Any]) -> str:
    """The card of a dataset with this manifest."""
    parts = [
        ('Sources', _by(manifest['sources'], ('source', 'licence'))),
        ('Licences', _licences(manifest)),
        ('Languages', _languages(manifest)),
        ('Collection', _collection(manifest)),
        ('Cleaning', '\n\n'.join(_cleaning(manifest))),
        ('Diversity', _diversity(manifest)),
        ('Removed', _removed(manifest)),
        ('Held out', _held_out(manifest)),
        ('Built again', _rebuilt(manifest)),
    ]
    body = ''.join(f'\n## {title}\n\n{said}\n' for title, said in parts if said)
    return f'# Data card\n\n{_summary(manifest)}\n{body}'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table of Markdown in even columns, the first `left` of them of words.

    Cells cannot break out of it.
    """
    lines = [list(head)]
    lines += [[_cell(cell) for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    rule = ['-' * w if i < left else '-' * (w - 1) + ':' for i, w in enumerate(widths)]
    return '\n'.join(f'| {" | ".join(row)} |' for row in [shown[0], rule, *shown[1:]])


def _cell(cell: str) -> str:
    return ' '.join(cell.replace('\\', '\\\\').replace('|', '\\|').split())


def totals(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Documents, bytes and tokens of a whole dataset."""
    return {k: sum(row[k] for row in manifest['sources']) for k in _COUNTS}


def size(count: int) -> str:
    """Bytes in words: '1.5 MB'."""
    for unit, least in (('TB', 1e12), ('GB', 1e9), ('MB', 1e6), ('kB', 1e3)):
        if count >= least:
            return f'{count / least:.3g} {unit}'
    return f'{count} bytes'


def _summary(manifest: Mapping[str, Any]) -> str:
    total, sources = totals(manifest), manifest['sources']
    tokenizer = manifest['tokenizer']
    licences = sorted({row['licence'] for row in sources})
    groups = {row['source'] for row in sources}
    return (
        f'**{total["documents"]:,} {_KINDS[manifest["kind"]]}**: '
        f'{size(total["bytes"])} of text, {total["tokens"]:,} tokens '
        f'(`{tokenizer["name"]}`, a vocabulary of {tokenizer["vocab_size"]:,}), from '
        f'{_plural(len(groups), "source")} under '
        f'{_plural(len(licences), "licence")}: {", ".join(licences[:9])}'
        f'{", ..." if len(licences) > 9 else ""}.\n\n'
        'Which document is where, its address, licence and evidence stand in the '
        'ledger: `train/*.parquet` and `validation/*.parquet`. '
        f'The digest of this dataset is `{manifest["digest"][:16]}`.'
    )


def _plural(count: int, noun: str) -> str:
    return f'{count:,} {noun}{"s" if count != 1 else ""}'


def _by(rows: Sequence[Mapping[str, Any]], head: Sequence[str]) -> str:
    """A table of counts by the columns `head`, the most tokens first."""
    counts: dict[tuple[str, ...], Counter[str]] = {}
    for row in rows:
        key = tuple(row[name] for name in head)
        counts.setdefault(key, Counter()).update({k: row[k] for k in _COUNTS})
    whole = sum(count['tokens'] for count in counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1]['tokens'], item[0]))
    lines = [
        (
            *key,
            *(f'{count[name]:,}' for name in _COUNTS),
            f'{count["tokens"] / whole:.1%}' if whole else '',
        )
        for key, count in ordered
    ]
    more = f'\n\nAnd {len(lines) - _MOST:,} more.' if len(lines) > _MOST else ''
    named = (*head, *_COUNTS, 'of tokens')
    return table(named, lines[:_MOST], left=len(head)) + more


def _licences(manifest: Mapping[str, Any]) -> str:
    """A table of its own, where that of the sources does not say it at a glance."""
    sources = manifest['sources']
    several = 1 < len({row['licence'] for row in sources}) < len(sources)
    return _by(sources, ('licence',)) if several else ''


def _languages(manifest: Mapping[str, Any]) -> str:
    if [row['language'] for row in manifest['languages']] == ['unknown']:
        return 'Not identified.'
    return _by(manifest['languages'], ('language',))


def _collection(manifest: Mapping[str, Any]) -> str:
    times, documents = manifest['retrieved'], totals(manifest)['documents']
    said = 'No document has a record of when it was fetched.'
    if times['documents']:
        first, last = times['between']
        said = (
            f'{times["documents"]:,} of {documents:,} documents were fetched between '
            f'{first} and {last}.'
        )
    if [row['opt_out'] for row in manifest['opt_out']] == ['unknown']:
        return f'{said} Whether their owners ask to be left out was not looked up.'
    return (
        f'{said} What their owners ask for (`none`: nothing speaks against training):'
        f'\n\n{_by(manifest["opt_out"], ("opt_out",))}'
    )


def _cleaning(manifest: Mapping[str, Any]) -> Iterator[str]:
    refined = manifest.get('refined')
    if refined is None:
        yield 'The documents are as they were read: no step changed or rejected any.'
    if skipped := manifest['skipped']:
        rows = [(why, f'{n:,}') for why, n in sorted(skipped.items())]
        yield 'Pieces that could not be read:\n\n' + table(('reason', 'pieces'), rows)


def _diversity(manifest: Mapping[str, Any]) -> str:
    measured = manifest.get('diversity')
    if not measured:
        return ''
    return table(('measure', 'value'), [(k, f'{v:.4g}') for k, v in measured.items()])


def _removed(manifest: Mapping[str, Any]) -> str:
    lines = [
        f'- {_plural(one["documents"], "document")} of {one["tokens"]:,} tokens: '
        f'{", ".join(f"{k} {v}" for k, v in one["wanted"])}, from the dataset '
        f'`{one["from"][:16]}`'
        for one in manifest.get('removed', ())
    ]
    if not lines:
        return ''
    return (
        'Taken out after the dataset was built; counts of cleaning above are from '
        'before, and the tokenizer may have learned from them:\n\n' + '\n'.join(lines)
    )


def _held_out(manifest: Mapping[str, Any]) -> str:
    options = manifest['plan']['settings']['held_out']
    if not options['fraction']:
        return 'Nothing.'
    rule = 'whole documents, by a hash of their ids (or of the unit they belong to)'
    if options['by'] == 'tail':
        rule = 'the last characters of the corpus'
    rows = [
        (name, *(f'{split[k]:,}' for k in _COUNTS))
        for name, split in sorted(manifest['splits'].items())
    ]
    share = f'{options["fraction"]:.3%}'.rstrip('0%').rstrip('.')
    return f'About {share} %: {rule}.\n\n{table(("split", *_COUNTS), rows)}'


def _rebuilt(manifest: Mapping[str, Any]) -> str:
    plan = manifest['plan']
    return (
        'The same raw files and settings give the same bytes, digest included:\n\n'
        f'```json\n{json.dumps(plan["settings"], indent=1, sort_keys=True)}\n```'
    )
