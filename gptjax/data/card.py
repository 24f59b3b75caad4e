"""The data card: what a dataset is made of, in Markdown, from its manifest alone."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
import functools
import json
from pathlib import Path
import pprint
from typing import Any

from gptjax import command
from gptjax.data import croissant, dataset, diversity, documents, shards, storage
from gptjax.data.dedup import table as dedup
from gptjax.data.privacy import table as privacy

FILE = 'card.md'
_COUNTS = ('documents', 'bytes', 'tokens')
_KINDS = {
    'text': 'documents',
    'chat': 'conversations',
    'pairs': 'preference pairs',
    'feedback': 'answers, good and bad',
    'labelled': 'labelled texts',
    'translation': 'translations',
}
_MOST = 50  # rows of a table


def write(built: dataset.Dataset) -> None:
    """Writes card.md and croissant.json into a dataset's folder."""
    storage.write(built.folder / FILE, text(built.manifest).encode())
    inside = (built.folder / croissant.REFINED / 'manifest.json').exists()
    described = croissant.describe(built.manifest, inside)
    storage.write_json(built.folder / croissant.FILE, described)


def diversity_of(built: dataset.Dataset) -> dict[str, Any]:
    """How diverse the documents are, out of their tokens; see `diversity`."""
    measured, tokenizer = diversity.Diversity(), built.tokenizer()
    for split in built.manifest['splits']:
        for entry, encoded, _ in shards.read(built, split):
            stored = _Stored(
                entry.id,
                entry.source,
                entry.licence,
                text='',
                language=entry.language,
                url=entry.url,
                decode=functools.partial(shards.decode, tokenizer, encoded),
            )
            measured.add(stored, entry.tokens)
    return measured.result()


@dataclass(frozen=True)
class _Stored(documents.Document):
    """A document of a shard, whose text is decoded where it is asked for."""

    decode: Callable[[], str] = str

    @property
    def whole(self) -> str:
        return self.decode()


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
        ('Privacy', _privacy(manifest)),
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
    for mark in '\\|<':
        cell = cell.replace(mark, f'\\{mark}')
    return ' '.join(cell.split())


def _size(count: int) -> str:
    """Bytes in words: '1.5 MB'."""
    for unit, least in (('TB', 1e12), ('GB', 1e9), ('MB', 1e6), ('kB', 1e3)):
        if count >= least:
            return f'{count / least:.3g} {unit}'
    return f'{count} bytes'


def _summary(manifest: Mapping[str, Any]) -> str:
    total, sources = croissant.totals(manifest), manifest['sources']
    tokenizer = manifest['tokenizer']
    licences = [_cell(name) for name in croissant.licences(manifest)]
    groups = {row['source'] for row in sources}
    return (
        f'**{total["documents"]:,} {_KINDS[manifest["kind"]]}**: '
        f'{_size(total["bytes"])} of text, {total["tokens"]:,} tokens '
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
    times, documents = manifest['retrieved'], croissant.totals(manifest)['documents']
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
    if 'refined' in manifest:
        yield from _steps(manifest['refined'])
    else:
        yield 'The documents are as they were read: no step changed or rejected any.'
    skipped = Counter(manifest['skipped'])
    skipped.update(dict(manifest.get('refined', {}).get('skipped', ())))
    if skipped:
        rows = [(why, f'{n:,}') for why, n in sorted(skipped.items())]
        yield 'Pieces that could not be read:\n\n' + table(('reason', 'pieces'), rows)


def _steps(refined: Mapping[str, Any]) -> Iterator[str]:
    """What the pipeline did, step by step."""
    settings, steps = refined['settings'], refined['steps']
    given = [dict(step) for step in settings['steps']]
    labels = command.numbered([step.pop('name') for step in given])
    options = dict(zip(labels, given, strict=True))
    why: dict[str, list[str]] = {}
    for step, reason, count in refined['rejected']:
        why.setdefault(step, []).append(f'{reason} {count:,}')
    read = dict(settings['read'])
    before, after = steps[0]['documents_out'], refined['documents']
    yield (
        f'Of {before:,} documents that were read (`{read.pop("name")}`'
        f'{": " if read else ""}{_options(read)}), {after:,} are left'
        f'{f" ({after / before:.1%})" if before else ""}. Allowed licences: '
        f'{", ".join(settings["licences"])}. The steps in order:'
    )
    rows = [
        (
            step['name'],
            _options(options.get(step['name'], {})),
            ', '.join(why.get(step['name'], ())),
            f'{step["documents_in"]:,}',
            f'{step["changed"]:,}',
            f'{step["documents_in"] - step["documents_out"]:,}',
        )
        for step in steps[1:]
    ]
    head = ('step', 'settings', 'why rejected', 'documents', 'changed', 'rejected')
    yield table(head, rows, left=3)
    counts = {
        step['name']: step['documents_in'] - step['documents_out']
        for step in steps
        if step['name'] in labels and step['name'].partition('-')[0] in dedup.STEPS
    }
    if counts:
        told = ', '.join(f'{step} {n:,}' for step, n in sorted(counts.items()))
        yield f'Duplicates: {sum(counts.values()):,} documents were left out ({told}).'
    if 'decontaminate' not in labels:
        yield 'Texts of evaluation sets were not looked for.'


def _options(options: Mapping[str, Any]) -> str:
    shown = []
    for name, value in options.items():
        said = value if isinstance(value, str) else json.dumps(value)
        shown.append(f'{name}={said if len(said) <= 60 else f"{said[:57]}..."}')
    return ', '.join(shown)


def _privacy(manifest: Mapping[str, Any]) -> str:
    """What of personal data was found, where it was looked for."""
    refined = manifest.get('refined', {'settings': {'steps': ()}})
    if not any(step['name'] in privacy.STEPS for step in refined['settings']['steps']):
        return 'Personal data were not looked for.'
    rows = [
        (name.removeprefix('privacy.'), f'{told["sum"]:,.0f}', f'{told["documents"]:,}')
        for name, told in sorted(refined['signals'].items())
        if name.startswith('privacy.')
    ]
    if not rows:
        return 'No personal data were found.'
    said = 'Personal data that were found in the documents that are left'
    return f'{said}:\n\n{table(("kind", "found", "in documents"), rows)}'


def _diversity(manifest: Mapping[str, Any]) -> str:
    told = manifest['diversity']
    domains = told['domains']
    ranked = sorted(domains['top'].items(), key=lambda item: (-item[1], item[0]))
    most = ', '.join(f'{_cell(name)} {share:.1%}' for name, share in ranked[:10])
    rows = [
        (f'{n} word{"" if n == "1" else "s"}', f'{one["entropy"]:.2f}',
         f'{one["distinct"]:.1%}')
        for n, one in sorted(told['ngrams'].items())
    ]  # fmt: skip
    said = (
        f'A sample of {told["sample_documents"]:,} documents '
        f'({_size(told["sample_bytes"])}) is {told["compression"]:.2f} times smaller '
        'after zlib; repetitive text is above 3. Its n-grams:\n\n'
        f'{table(("n-gram", "entropy, bits", "distinct"), rows)}'
    )
    if domains['count'] == 1:
        return said
    sample = croissant.totals(manifest)['documents'] > diversity.LOOKED
    where = f'In {diversity.LOOKED:,} documents, ' if sample else ''
    return (
        f'{said}\n\n{where}{domains["count"]:,} domains, or sources where no address '
        f'is known, of an entropy of {domains["entropy"]:.2f} bits by tokens. The '
        f'largest: {most}.'
    )


def _removed(manifest: Mapping[str, Any]) -> str:
    lines = [
        f'- {_plural(one["documents"], "document")} of {one["tokens"]:,} tokens: '
        f'{", ".join(f"{k} {_cell(v)}" for k, v in one["wanted"])}, from the dataset '
        f'`{one["from"][:16]}`'
        for one in manifest.get('removed', ())
    ]
    if not lines:
        return ''
    return (
        'Taken out after the dataset was built; counts of cleaning and of personal '
        'data above are from before, and the tokenizer may have learned from them:\n\n'
        + '\n'.join(lines)
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
    settings = dict(manifest['plan']['settings'])
    removed = settings.pop('removed', None)
    if 'refined' in manifest:
        settings |= manifest['refined']['settings']
        run = {'shards': settings.pop('shards'), 'workers': 1, 'most_bad': 1.0}
        settings['run'] = run
        del settings['corpus']
    lines = [
        f'config.{name} = {pprint.pformat(value, width=72, compact=True)}'
        for name, value in sorted(settings.items())
    ]
    path = 'config.path' if 'refined' in manifest else 'config.corpus.path'
    then = ', and then what was removed, by `python -m gptjax.data remove`'
    return (
        f'By `python -m gptjax.data --config=FILE.py --{path}=FOLDER`, from the same '
        f'raw files and these settings{then if removed else ""}, to the same '
        'tokens, and with the same pyarrow to the same digest; `sha256:` stands for a '
        'file or folder of that content, and any number of workers will do:\n\n'
        '```python\n' + '\n'.join(lines) + '\n```'
    )
