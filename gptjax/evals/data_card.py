"""What a dataset is made of, for the report: the manifest in a table."""

from gptjax.data import dataset
from gptjax.evals import page

_KINDS = {  # in words, with what the counted bytes are
    'text': ('documents', 'texts'),
    'chat': ('conversations', 'answers'),
    'pairs': ('questions with a better and a worse answer', 'answers'),
}


def card(built: dataset.Dataset) -> list[page.Html]:
    """Sources by licence, the split, the tokenizer, and what was skipped."""
    manifest = built.manifest
    counts = ('documents', 'bytes', 'tokens')
    sources: dict[tuple[str, str], list[int]] = {}
    for row in manifest['sources']:
        key = row['source'].split('/', 1)[0], row['licence']
        sums = sources.setdefault(key, [0, 0, 0])
        sources[key] = [a + row[c] for a, c in zip(sums, counts, strict=True)]
    rows = [
        (source, licence, *(f'{n:,}' for n in sums))
        for (source, licence), sums in sorted(sources.items())
    ]
    for split, held in sorted(manifest['splits'].items()):
        name = {'train': 'of these to learn from', 'validation': 'of these held out'}
        shown = page.element('span', name[split], class_='soft')
        rows.append((shown, '', *(f'{held[c]:,}' for c in counts)))
    skipped = ', '.join(
        f'{n:,} {why}' for why, n in sorted(manifest['skipped'].items())
    )
    tokenizer = manifest['tokenizer']
    kind, learned = _KINDS[built.kind]
    return [
        page.element('h3', f'{built.folder.resolve().name}: {kind}'),
        page.table(('source', 'licence', *(f'{c}#' for c in counts)), rows),
        page.element(
            'p',
            f'Tokenizer: {tokenizer["name"]}, {tokenizer["vocab_size"]:,} tokens, '
            f'digest {tokenizer["digest"][:12]}. Skipped: {skipped or "nothing"}. '
            f'Bytes are those of the {learned}.',
            class_='soft small',
        ),
    ]
