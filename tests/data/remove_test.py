"""A dataset without some documents: equal to a build that never had them."""

import json

import numpy as np
import pytest

from gptjax import command
from gptjax.data import build, dataset, documents, ledger, remove, storage, table


def shards(folder):
    """The bytes of every file of both splits."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for split in ('train', 'validation')
        for path in sorted((folder / split).iterdir())
    }


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def test_it_equals_a_build_from_raw_files_without_them(tmp_path, options, texts, built):
    gone = ['texts/03.txt', 'texts/07.txt', 'texts/more/notes.md', 'texts/z.jsonl:2']
    document = next(d for d in table.collect(options['corpus']) if d.id == gone[0])
    text = remove.remove(
        built.folder, ledger.Wanted(documents=gone), tmp_path / 'out', []
    )
    assert '4 documents removed' in text
    (texts / '03.txt').unlink()
    (texts / '07.txt').unlink()
    (texts / 'more' / 'notes.md').unlink()
    lines = (texts / 'z.jsonl').read_text().splitlines()
    lines[1] = ''
    (texts / 'z.jsonl').write_text('\n'.join(lines))
    again = build.build(tmp_path / 'again', **options)
    assert shards(tmp_path / 'out') == shards(again.folder)
    made = dataset.open(tmp_path / 'out')
    for key in ('sources', 'languages', 'opt_out', 'splits', 'tokenizer', 'retrieved'):
        assert made.manifest[key] == again.manifest[key]
    (told,) = made.manifest['removed']
    before = {
        e.id: e for s in ('train', 'validation') for e in ledger.entries(built, s)
    }
    assert told['from'] == built.manifest['digest']
    assert told['documents'] == 4
    assert told['tokens'] == sum(before[x].tokens for x in gone)
    assert told['wanted'] == [['document', documents.key(x).hex()] for x in gone]
    everything = b'\n'.join(tree(tmp_path / 'out').values())
    for identity in gone[:3]:
        assert identity.encode() not in everything
    assert document.text.encode() not in everything
    tokens = np.frombuffer(document.text.encode(), np.uint8).astype('<u2').tobytes()
    assert tokens not in everything
    assert tokens in b''.join(shards(built.folder).values())
    left = {e.id for s in ('train', 'validation') for e in ledger.entries(made, s)}
    assert left == before.keys() - set(gone)
    keys = ledger.Wanted([documents.key(x).hex() for x in gone])
    remove.remove(built.folder, keys, tmp_path / 'by-key', [])
    assert tree(tmp_path / 'by-key') == tree(tmp_path / 'out')


def test_a_document_that_is_cut_in_two_is_one(tmp_path, options):
    options['held_out'] = dict(fraction=0.1, by='tail')
    whole = build.build(tmp_path / 'whole', **options)
    ids = [{e.id for e in ledger.entries(whole, s)} for s in ('train', 'validation')]
    (cut,) = ids[0] & ids[1]
    wanted = ledger.Wanted(documents=[cut])
    assert ': 1 documents' in remove.remove(whole.folder, wanted, tmp_path / 'out', [])
    (told,) = dataset.open(tmp_path / 'out').manifest['removed']
    assert told['documents'] == 1


def test_a_source_or_a_licence_goes(tmp_path, built):
    remove.remove(built.folder, ledger.Wanted(licences=['MIT']), tmp_path / 'a', [])
    remove.remove(
        built.folder, ledger.Wanted(sources=['elsewhere']), tmp_path / 'b', []
    )
    for name in 'ab':
        made = dataset.open(tmp_path / name)
        assert [row['source'] for row in made.manifest['sources']] == ['texts']
        assert b'elsewhere/a' not in b''.join(shards(made.folder).values())
    assert shards(tmp_path / 'a') == shards(tmp_path / 'b')
    both = ledger.Wanted(sources=['elsewhere'], documents=['texts/03.txt'])
    twice = ledger.Wanted(documents=['texts/03.txt'])
    remove.remove(built.folder, both, tmp_path / 'c', [])
    remove.remove(tmp_path / 'b', twice, tmp_path / 'd', [])
    assert shards(tmp_path / 'c') == shards(tmp_path / 'd')
    assert len(dataset.open(tmp_path / 'd').manifest['removed']) == 2


@pytest.mark.parametrize('kind', ['chat', 'feedback', 'labelled', 'pairs'])
def test_masks_and_labels_stay_with_their_documents(tmp_path, kind):
    def lines(numbers):
        for number in numbers:
            text = f'{number} ' * (number % 7 + 1)
            yield json.dumps(
                {
                    'id': f'n{number}',
                    **{
                        'chat': {'messages': [
                            {'role': 'user', 'content': text},
                            {'role': 'assistant', 'content': text}]},
                        'feedback': {'prompt': text, 'completion': text,
                                     'label': number % 3 > 0},
                        'labelled': {'text': text, 'label': str(number % 3)},
                        'pairs': {'prompt': text, 'chosen': 'b', 'rejected': text,
                                  'margin': number},
                    }[kind],
                }
            )  # fmt: skip

    def made(name, numbers):
        path = tmp_path / f'{name}.jsonl'
        path.write_text('\n'.join(lines(numbers)))
        return build.build(
            tmp_path / name,
            corpus=dict(name=kind, path=str(path), licence='MIT'),
            tokenizer=dict(name='bytes'),
            held_out=dict(fraction=0.0, by='document'),
            shard_tokens=100,
        )

    def rows(built):
        """What a shard says of each document, whatever file it came from."""
        from gptjax.data import shards as shards_lib

        return [
            (
                entry.tokens,
                [x.tolist() for x in encoded.sequences],
                [x.tolist() for x in encoded.masks],
                encoded.margin,
                label,
            )
            for entry, encoded, label in shards_lib.read(built, 'train')
        ]

    whole = made('whole', range(30))
    first, last = (list(ledger.entries(whole, 'train'))[i].id for i in (0, 17))
    remove.remove(
        whole.folder, ledger.Wanted(documents=[first, last]), tmp_path / 'out', []
    )
    less = made('less', [n for n in range(30) if n not in (0, 17)])
    assert rows(dataset.open(tmp_path / 'out')) == rows(less)


def test_a_removal_that_was_killed_is_finished(tmp_path, built, monkeypatch):
    def run(output):
        wanted = ledger.Wanted(documents=['texts/03.txt'])
        remove.remove(built.folder, wanted, output, [])

    run(tmp_path / 'whole')
    expected = tree(tmp_path / 'whole')
    write, number = storage.write, 0
    while True:
        number += 4
        left = number

        def killed(path, content):
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return write(path, content)

        output = tmp_path / f'at-{number}'
        monkeypatch.setattr(storage, 'write', killed)
        try:
            run(output)
            break
        except KeyboardInterrupt:
            monkeypatch.setattr(storage, 'write', write)
            run(output)
            assert tree(output) == expected, number
    assert number > 12
    monkeypatch.undo()
    time = (output / 'manifest.json').stat().st_mtime_ns
    run(output)
    assert (output / 'manifest.json').stat().st_mtime_ns == time


def test_mistakes_are_named(tmp_path, built, options):
    for wanted, message in (
        (ledger.Wanted(), 'one of --source'),
        (ledger.Wanted(sources=['text']), 'no document of source text'),
        (ledger.Wanted(['texts/03.txt', 'a typo']), 'no document of document a typo'),
        (ledger.Wanted(licences=['CC0-1.0', 'MIT']), 'train split .* would be empty'),
    ):
        with pytest.raises(command.UserError, match=message):
            remove.remove(built.folder, wanted, tmp_path / 'out', [])
    wanted = ledger.Wanted(licences=['MIT'])
    with pytest.raises(command.UserError, match='holds a build with removed'):
        remove.remove(built.folder, wanted, built.folder, [])
    remove.remove(built.folder, wanted, tmp_path / 'out', [])
    other = ledger.Wanted(documents=['texts/03.txt'])
    with pytest.raises(command.UserError, match=r'holds a build with removed\.wanted'):
        remove.remove(built.folder, other, tmp_path / 'out', [])
    with pytest.raises(command.UserError, match=r'holds a build with removed\.from'):
        build.build(tmp_path / 'out', **options)


def test_runs_that_learned_from_it_are_named(tmp_path, built):
    from gptjax.data import lineage

    part = dict(step=0, row=0, batch_size=4, T=32, seed=0, packing=None, mixture=None)
    for name, datasets in (('saw', [built]), ('never', [])):
        (tmp_path / name).mkdir()
        lineage.record(tmp_path / name, None, datasets, part)
        (tmp_path / name / 'metrics.jsonl').write_text('{"step": 400}\n')
    text = remove.remove(
        built.folder,
        ledger.Wanted(sources=['texts/06.txt', 'texts/07.txt', 'texts/08.txt']),
        tmp_path / 'out',
        [tmp_path / 'saw', tmp_path / 'never'],
    )
    assert f'\naffected: {tmp_path / "saw"}: trained on it in' in text
    assert f'\nnot affected: {tmp_path / "never"}: never trained on it' in text
