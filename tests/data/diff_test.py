"""Two versions of a dataset: what differs, and why it went."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gptjax.data import build, croissant, diff, ledger, remove, storage


@pytest.fixture
def two(tmp_path, options, texts, built):
    """Another build: one file gone, one changed, one new, one of another licence."""
    (texts / '00.txt').unlink()
    (texts / '01.txt').write_text('other words')
    (texts / 'new.txt').write_text('brand new')
    lines = [json.loads(x) for x in (texts / 'z.jsonl').read_text().splitlines() if x]
    lines[3]['licence'] = 'Apache-2.0'
    (texts / 'z.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines))
    return built, build.build(tmp_path / 'second', **options)


def test_what_came_went_and_changed(two):
    old, new = two
    found = diff.diff(old.folder, new.folder)
    assert found['documents'] == [
        ['named', 'changed', 'licence', None],
        ['texts/00.txt', 'went', diff.NOT_READ, None],
        ['texts/01.txt', 'changed', 'text', None],
        ['texts/new.txt', 'came', '', None],
    ]
    assert found['same'] == 18
    (row,) = found['came']
    size = len('brand new') + 1
    counts = {'documents': 1, 'tokens': size}
    assert row == {'source': 'texts', 'licence': 'CC0-1.0', **counts}
    assert {r['licence'] for r in found['changed']} == {'CC0-1.0', 'Apache-2.0'}
    assert found['why'] == {diff.NOT_READ: 1}
    assert json.loads(json.dumps(found)) == found
    shown = diff.text(found)
    assert 'documents 1 came, 1 went, 2 changed, and 18 are the same.' in shown
    assert f'went     texts/00.txt  {diff.NOT_READ}' in shown
    back = diff.diff(new.folder, old.folder)
    assert (back['came'], back['went']) == (found['went'], found['came'])


def test_a_dataset_does_not_differ_from_itself(built):
    found = diff.diff(built.folder, built.folder)
    assert (found['same'], found['documents']) == (21, [])
    assert diff.text(found).endswith('21 are the same.')


def test_what_was_removed_is_said_to_be(built, tmp_path):
    wanted = ledger.Wanted(documents=['texts/03.txt'], licences=['MIT'])
    remove.remove(built.folder, wanted, tmp_path / 'less', [])
    wanted = ledger.Wanted(sources=['texts/more'])
    remove.remove(tmp_path / 'less', wanted, tmp_path / 'least', [])
    found = diff.diff(built.folder, tmp_path / 'least')
    assert {(i, w, why) for i, w, why, _ in found['documents']} == {
        ('texts/03.txt', 'went', 'removed'),
        ('named', 'went', 'removed'),
        ('texts/more/notes.md', 'went', 'removed'),
    }


def test_the_reason_of_the_pipeline_is_found(two):
    old, new = two
    folder = new.folder / croissant.REFINED / 'rejected'
    folder.mkdir(parents=True)
    row = {'id': 'texts/00.txt', 'step': 'minhash', 'reason': 'duplicate'}
    rows = [row | {'value': 'texts/01.txt'}, row | {'id': 'other', 'value': None}]
    pq.write_table(pa.Table.from_pylist(rows), folder / '00000.parquet')
    found = diff.diff(old.folder, new.folder)
    assert found['documents'][1] == [
        'texts/00.txt', 'went', 'minhash: duplicate', 'texts/01.txt',
    ]  # fmt: skip
    assert found['why'] == {'minhash: duplicate': 1}
    assert 'minhash: duplicate texts/01.txt' in diff.text(found)


def test_without_its_rejected_documents_the_reason_is_not_known(two):
    old, new = two
    for one, why in ((new, diff.UNKNOWN), (old, diff.NOT_READ)):
        manifest = {k: v for k, v in one.manifest.items() if k != 'digest'}
        if one is new:
            manifest |= {'refined': {}}
        manifest['digest'] = storage.json_digest(manifest)
        storage.write_json(one.folder / 'manifest.json', manifest)
        other = old if one is new else new
        assert diff.diff(other.folder, one.folder)['why'] == {why: 1}


def test_a_cut_document_is_one(tmp_path, options):
    options['held_out'] = dict(fraction=0.1, by='tail')
    first = build.build(tmp_path / 'first', **options)
    options['held_out']['fraction'] = 0.2
    second = build.build(tmp_path / 'second', **options)
    found = diff.diff(first.folder, second.folder)
    assert found['same'] + len(found['documents']) == 21
    assert {way for _, way, *_ in found['documents']} == {'changed'}


def test_many_documents_are_counted(built, tmp_path, options, texts):
    for number in range(40):
        (texts / f'more-{number}.txt').write_text('x')
    made = build.build(tmp_path / 'more', **options)
    shown = diff.text(diff.diff(built.folder, made.folder))
    assert shown.endswith('and 20 more; --output=FILE.json names all')
