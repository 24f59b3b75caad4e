"""What a dataset is made of, for the report: the manifest in a table."""

from gptjax.data import dataset
from gptjax.evals import page

_KINDS = {  # in words, with what the counted bytes are
    'text': ('documents', 'texts'),
    'chat': ('conversations', 'answers'),
    'pairs': ('questions with a better and a worse answer', 'answers'),
    'feedback': ('answers, each good or bad', 'answers'),
    'labelled': ('texts with a class each', 'texts'),
    'translation': ('texts with what they become', 'targets'),
}


def card(built: dataset.Dataset) -> list[page.Html]:
    """Sources by licence, the split, the tokenizer, and what was skipped."""
    manifest = built.manifest
    counts = ('documents', 'bytes', 'tokens')
    rows: list[tuple[page.Html | str, ...]] = [
        (row['source'], row['licence'], *(f'{row[c]:,}' for c in counts))
        for row in manifest['sources']
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
