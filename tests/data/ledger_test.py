"""The ledger: every token belongs to one row, and rows say what the documents said."""

import hashlib
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from gptjax import command
from gptjax.data import (
    build,
    croissant,
    dataset,
    documents,
    ledger,
    shards,
    storage,
    table,
)

KINDS = {
    'chat': {'messages': [{'role': 'user', 'content': 'a'}]},
    'pairs': {'prompt': 'a', 'chosen': 'b', 'rejected': 'c'},
    'feedback': {'prompt': 'a', 'completion': 'b', 'label': False},
    'labelled': {'text': 'a', 'label': 'x'},
    'translation': {'source': 'a', 'target': 'b'},
}


def lines_of(kind, count):
    for number in range(count):
        line = dict(KINDS[kind]) | {'id': f'{kind}-{number}'}
        if kind == 'chat':
            answer = {'role': 'assistant', 'content': 'yes ' * (1 + number % 9)}
            line['messages'] = [*line['messages'], answer]
        yield line


@pytest.fixture(scope='module', params=['text', *KINDS])
def some(request, original, tmp_path_factory):
    """A dataset of each kind, in several shards, and its corpus."""
    if request.param == 'text':
        corpus = dict(name='text', path=str(original / 'texts'), licence='CC0-1.0')
        return dataset.open(original / 'dataset'), corpus
    folder = tmp_path_factory.mktemp(request.param)
    lines = lines_of(request.param, 40)
    path = folder / 'lines.jsonl'
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    corpus = dict(name=request.param, path=str(path), licence='MIT')
    made = build.build(
        folder / 'out',
        corpus=corpus,
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.3, by='document'),
        shard_tokens=60,
    )
    return made, corpus


def test_every_token_belongs_to_exactly_one_row(some):
    made, corpus = some
    ids = []
    for split in ('train', 'validation'):
        counts = []
        for path in sorted((made.folder / split).glob('*.tokens')):
            tokens = np.fromfile(path, made.manifest['dtype'])
            owners = np.zeros(len(tokens), int)
            offsets = np.fromfile(path.with_suffix('.offsets'), '<i8')
            sequences = 0
            for row in pq.read_table(path.with_suffix('.parquet')).to_pylist():
                owners[row['start'] : row['end']] += 1
                assert row['start'] == offsets[sequences]
                sequences += row['sequences']
                assert row['end'] == offsets[sequences]
                ids.append(row['id'])
            assert (owners == 1).all()
            counts.append(len(tokens))
        places = [entry.place for entry in ledger.entries(made, split)]
        assert places == sorted(set(places))
        assert len(counts) > (split == 'train')
        bounds = np.cumsum([0, *counts])
        last = list(ledger.entries(made, split))[-1]
        assert last.place + last.tokens == bounds[-1]
    assert sorted(ids) == sorted(d.id for d in table.collect(corpus))


def test_a_row_says_what_the_document_said(tmp_path, options, monkeypatch):
    def told(corpus):
        for number in range(9):
            yield documents.Document(
                f'id-{number}',
                f'wiki/{number}',
                'CC-BY-4.0',
                text=f'text {number}',
                url=f'https://example.org/{number}',
                retrieved=f'2026-01-0{number + 1}T00:00:00Z',
                evidence='a footer',
                language='en',
                opt_out='none',
                steps=('normalise:+0', 'privacy:-3'),
                signals={'gopher.words': 2.0},
            )

    monkeypatch.setattr(table, 'collect', told)
    made = build.build(tmp_path / 'out', **options)
    found = {e.id: e for s in ('train', 'validation') for e in ledger.entries(made, s)}
    for document in told(None):
        entry = found.pop(document.id)
        assert entry.sha256 == hashlib.sha256(document.content()).hexdigest()
        assert (entry.bytes, entry.group) == (6, 'wiki')
        for name in (
            'source', 'licence', 'url', 'retrieved', 'evidence', 'language', 'opt_out',
            'steps',
        ):  # fmt: skip
            assert getattr(entry, name) == getattr(document, name)
    assert not found
    assert made.manifest['retrieved'] == {
        'documents': 9,
        'between': ['2026-01-01T00:00:00Z', '2026-01-09T00:00:00Z'],
    }
    made.check_licences(['MIT', 'CC-BY-4.0'])
    with pytest.raises(command.UserError, match=r'wiki \(CC-BY-4.0, 9 documents\)'):
        made.check_licences(['MIT'])


def test_unknown_licences_are_never_allowed(tmp_path, options):
    options['corpus']['licence'] = 'unknown'
    made = build.build(tmp_path / 'out', **options)
    with pytest.raises(command.UserError, match=r'texts \(unknown, 20 documents\)'):
        made.check_licences(['MIT', 'unknown'])


def test_documents_come_back_as_they_were_written(some):
    made, corpus = some
    tokenizer = made.tokenizer()
    found = {e.id: (e, x, n) for s in ('train', 'validation')
             for e, x, n in shards.read(made, s)}  # fmt: skip
    for document in table.collect(corpus):
        entry, encoded, number = found.pop(document.id)
        (expected,) = shards.encode(tokenizer, [document])
        for name in ('sequences', 'masks'):
            both = zip(getattr(encoded, name), getattr(expected, name), strict=True)
            assert all(np.array_equal(a, b) for a, b in both)
        label = None if number is None else made.labels[number]
        assert label == document.label
        assert ledger.Wanted(sources=[document.group]).fits(entry)
    assert not found


def test_what_is_wanted():
    entry = ledger.Entry(
        'a/b', 'wiki/x/1', None, None, 'MIT', None, 'none', None, (), '', 0, 0, 1, 1
    )
    for fits in (
        dict(documents=['a/b']),
        dict(documents=[documents.key('a/b').hex()]),
        dict(sources=['wiki']),
        dict(sources=['wiki/x']),
        dict(sources=['wiki/x/1']),
        dict(licences=['CC0-1.0', 'MIT']),
    ):
        assert ledger.Wanted(**fits).fits(entry)
    for other in (
        dict(documents=['a']),
        dict(sources=['wik']),
        dict(sources=['x']),
        dict(licences=['mit']),
        {},
    ):
        assert not ledger.Wanted(**other).fits(entry)


def test_the_same_rows_are_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, '_BATCH', 50)
    document = documents.Document('a', 'b', 'MIT', text='c', steps=('x:+1',))
    row = ledger.row(document) | {'start': 0, 'end': 2, 'sequences': 1}
    first, second = ledger.Rows(), ledger.Rows()
    for number in range(102):
        first.add(row | {'id': str(number)})
        second.add(dict(reversed(row.items())) | {'id': str(number)})
    content = first.encode()
    assert content == second.encode()
    path = tmp_path / '00000.parquet'
    path.write_bytes(content)
    ids = [entry.id for entry in ledger.read(path)]
    assert ids == [str(number) for number in range(102)]


def test_a_dataset_of_an_earlier_format_says_so(built, tmp_path):
    shutil.copytree(built.folder, tmp_path / 'old')
    manifest = dict(built.manifest) | {'format': 1}
    manifest.pop('digest')
    manifest['digest'] = storage.json_digest(manifest)
    storage.write_json(tmp_path / 'old' / 'manifest.json', manifest)
    with pytest.raises(command.UserError, match=r'format 1, .*Delete .*old'):
        dataset.open(tmp_path / 'old')


def test_the_documents_that_it_was_built_of_may_lie_inside(tmp_path, options):
    (tmp_path / 'out' / croissant.REFINED).mkdir(parents=True)
    (tmp_path / 'out' / croissant.REFINED / '00000.parquet').write_bytes(b'x')
    made = build.build(tmp_path / 'out', **options)
    assert (made.folder / croissant.REFINED / '00000.parquet').read_bytes() == b'x'
