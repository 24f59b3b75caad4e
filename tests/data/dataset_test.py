"""Builds: the manifest is a true account, and what is wrong is refused by name."""

from collections import Counter
import copy
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from gptjax import command
from gptjax.data import build, dataset, documents, mixture, shards, table
from gptjax.text import table as text_table


def tree(folder):
    """Every file below a folder, with its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def read_back(made, split):
    """(id, source, licence, text) of every document, out of the files of a split."""
    tokenizer = made.tokenizer()
    for path in sorted((made.folder / split).glob('*.tokens')):
        tokens = np.fromfile(path, made.manifest['dtype'])
        offsets = np.fromfile(path.with_suffix('.offsets'), '<i8')
        ledger = pq.read_table(path.with_suffix('.parquet')).to_pylist()
        assert offsets[-1] == len(tokens)
        for row, begin, end in zip(ledger, offsets[:-1], offsets[1:], strict=True):
            assert tokens[begin] == tokenizer.control['<|endoftext|>']
            text = tokenizer.decode(tokens[begin + 1 : end].tolist())
            yield row['id'], row['source'], row['licence'], text


def test_the_shards_hold_every_document_once_and_whole(built, options):
    found = [*read_back(built, 'train'), *read_back(built, 'validation')]
    expected = [
        (d.id, d.source, d.licence, d.text) for d in table.collect(options['corpus'])
    ]
    assert sorted(found) == sorted(expected)
    assert len(expected) == 21


def test_the_manifest_agrees_with_a_recount(built):
    manifest = built.manifest
    sources = Counter()
    for split in ('train', 'validation'):
        found = list(read_back(built, split))
        shards = manifest['splits'][split]['segments'][0]['shards']
        sizes = [
            np.fromfile(built.folder / shard['file'], '<u2').size for shard in shards
        ]
        assert [shard['tokens'] for shard in shards] == sizes
        assert min(sizes[:-1], default=1000) >= 1000
        counts = {
            'documents': len(found),
            'tokens': sum(sizes),
            'bytes': sum(len(text.encode()) for *_, text in found),
        }
        assert {k: manifest['splits'][split][k] for k in counts} == counts
        assert built.bytes(split) == counts['bytes']
        for _, source, licence, text in found:
            size = len(text.encode())  # a byte tokenizer: a token a byte, and the first
            values = {'documents': 1, 'bytes': size, 'tokens': size + 1}
            for key, value in values.items():
                sources[source.split('/')[0], licence, key] += value
    assert {
        (row['source'], row['licence'], key): row[key]
        for row in manifest['sources']
        for key in ('documents', 'bytes', 'tokens')
    } == sources
    assert len(manifest['splits']['train']['segments'][0]['shards']) > 1


def test_the_tail_is_the_last_tenth_of_the_characters(tmp_path, options):
    options['held_out'] = dict(fraction=0.1, by='tail')
    made = build.build(tmp_path / 'tail', **options)
    whole = ''.join(d.text for d in table.collect(options['corpus']))
    border = int(len(whole) * 0.9)
    parts = [
        ''.join(text for *_, text in read_back(made, split))
        for split in ('train', 'validation')
    ]
    assert parts == [whole[:border], whole[border:]]
    assert [row['documents'] for row in made.manifest['sources']] == [1, 20]


def test_held_out_documents_do_not_depend_on_the_others(tmp_path, options, texts):
    first = build.build(tmp_path / 'first', **options)
    for number in range(6):
        (texts / f'{number:02}.txt').unlink()
    second = build.build(tmp_path / 'second', **options)
    held_out, fewer = (
        {row[0] for row in read_back(made, 'validation')} for made in (first, second)
    )
    assert fewer < held_out


@pytest.mark.parametrize('kind', ['chat', 'pairs'])
def test_chat_and_pairs_learn_the_answer_and_its_end(tmp_path, kind):
    path = tmp_path / 'lines.jsonl'
    with path.open('w') as file:
        for number in range(200):
            ask = {'role': 'user', 'content': f'What is {number}?'}
            answer = {'role': 'assistant', 'content': f'{number * "¹"}.'}
            other = '?' * (number + 1)
            pair = {'prompt': [ask], 'chosen': f'{number}!', 'rejected': other}
            line = pair if kind == 'pairs' else {'messages': [ask, answer]}
            file.write(json.dumps(line) + '\n')
    corpus = dict(name=kind, path=str(path), licence='MIT')
    made = build.build(
        tmp_path / 'dataset',
        corpus=corpus,
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.2, by='document'),
        shard_tokens=2**22,
    )
    tokenizer = made.tokenizer()
    documents = {d.id: d for d in table.collect(corpus)}
    ledger = pq.read_table(made.folder / 'validation/00000.parquet').to_pylist()
    rows = made.rows('validation', 1024)
    arrays = rows.read(np.arange(len(rows)))
    shape = (-1, 1024)
    learned = []
    for targets, segments, weights in zip(
        arrays['targets'].reshape(shape),
        arrays['segments'].reshape(shape),
        arrays['weights'].reshape(shape),
        strict=True,
    ):
        for segment in range(1, segments.max() + 1):
            chosen = targets[(segments == segment) & (weights > 0)].tolist()
            assert chosen[-1] == tokenizer.control['<|end|>']
            learned.append(tokenizer.decode(chosen))
    held_out = [documents[row['id']] for row in ledger]
    if kind == 'chat':
        expected = [d.messages[1]['content'] for d in held_out]
    else:
        expected = [d.pair[k] for d in held_out for k in ('chosen', 'rejected')]
        assert learned == expected
    assert sorted(learned) == sorted(expected)
    assert made.bytes('validation') == sum(len(text.encode()) for text in expected)


def test_weights_of_messages_are_kept_as_they_are(tmp_path):
    """As float32; with weights of 0 and 1 alone the files are what they were."""

    def built(name, *weights):
        path = tmp_path / 'chat.jsonl'
        with path.open('w') as file:
            for number in range(12):
                answer = {'role': 'assistant', 'content': f'{number}.'}
                talk = [{'role': 'user', 'content': 'a'}, answer] * 2
                for i, weight in zip((1, 3), weights, strict=False):
                    talk[i] = {**answer, 'weight': weight}
                file.write(json.dumps({'messages': talk}) + '\n')
        return build.build(
            tmp_path / name,
            corpus=dict(name='chat', path=str(path), licence='MIT'),
            tokenizer=dict(name='bytes'),
            held_out=dict(fraction=0.2, by='document'),
            shard_tokens=64,
        )

    plain, one, some = built('plain'), built('one', 1, 0), built('some', 1 / 3, 7)
    assert 'mask' not in plain.manifest
    assert built('ones', 1.0, 1).content == plain.content
    with (plain.folder / 'train/00000.mask').open('rb') as file:
        assert set(file.read()) == {0, 1}
    weights = {}
    for name, made in (('plain', plain), ('one', one), ('some', some)):
        rows = made.rows('train', 64)
        weights[name] = rows.read(np.arange(len(rows)))['weights']
    assert {*np.unique(weights['some'])} == {0, np.float32(1 / 3), 7}
    np.testing.assert_array_equal(weights['some'] > 0, weights['plain'] > 0)
    np.testing.assert_array_equal(
        weights['one'] > 0, weights['some'] == np.float32(1 / 3)
    )
    read = [encoded for _, encoded, _ in shards.read(some, 'train')]
    assert {m.dtype for encoded in read for m in encoded.masks} == {np.dtype('<f4')}


def test_a_conversation_that_a_template_refuses_is_named(tmp_path):
    talk = [{'role': 'assistant', 'content': 'a'}]
    (tmp_path / 'chat.jsonl').write_text(json.dumps({'messages': talk}))
    corpus = dict(name='chat', path=str(tmp_path / 'chat.jsonl'), licence='MIT')
    (document,) = table.collect(corpus)
    tokenizer = text_table.make(lambda: (), 'bytes')
    tokenizer.template = "{{ raise_exception('users begin') }}"
    message = r'chat\.jsonl:1: messages\[0\]: the chat template .*users begin'
    with pytest.raises(command.UserError, match=message):
        shards.encode(tokenizer, [document])


def test_answers_in_the_prompt_of_a_pair_are_not_learned(tmp_path):
    prompt = [
        {'role': 'user', 'content': 'First?'},
        {'role': 'assistant', 'content': 'First.'},
        {'role': 'user', 'content': 'Second?'},
    ]
    pair = {'prompt': prompt, 'chosen': 'Second.', 'rejected': 'Third.'}
    (tmp_path / 'pairs.jsonl').write_text(json.dumps(pair))
    made = build.build(
        tmp_path / 'out',
        corpus=dict(name='pairs', path=str(tmp_path / 'pairs.jsonl'), licence='MIT'),
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.0, by='document'),
        shard_tokens=1,
    )
    arrays = made.rows('train', 64).read(np.zeros(1, np.int64))
    end = made.tokenizer().control['<|end|>']
    for which, answer in enumerate((b'Second.', b'Third.')):
        learned = arrays['weights'][0, which] > 0
        assert arrays['targets'][0, which][learned].tolist() == [*answer, end]


def test_pairs_have_margins_where_any_of_them_has_one(tmp_path):
    """Through all shards, also those without, and beside a source that has none."""

    def made(name, margins):
        pair = {'prompt': 'Which?', 'chosen': 'This.', 'rejected': 'That.'}
        lines = [pair | ({} if m is None else {'margin': m}) for m in margins]
        path = tmp_path / f'{name}.jsonl'
        path.write_text('\n'.join(map(json.dumps, lines)))
        return build.build(
            tmp_path / name,
            corpus=dict(name='pairs', path=str(path), licence='MIT'),
            tokenizer=dict(name='bytes'),
            held_out=dict(fraction=0.0, by='document'),
            shard_tokens=20,
        )

    with_margins = made('a', [None, 0.5, 2, None])
    assert len(with_margins.shards('train')) == 4
    one, other = with_margins.rows('train', 32), made('b', [None]).rows('train', 32)
    found = one.read(np.arange(4))['margins']
    assert sorted(found.tolist()) == [0, 0, 0.5, 2]
    assert list(one.dtypes)[-1] == 'margins'
    assert 'margins' not in other.dtypes
    always = ((0, 1.0),)
    both = mixture.Mixture(
        [mixture.Source(other, 0, always), mixture.Source(one, 1, always)], 1
    )
    read = both.read(np.arange(5))
    np.testing.assert_array_equal(read['margins'], [0, *found])
    assert both.read(np.arange(1))['margins'].tolist() == [0]
    assert list(both.dtypes) == list(read)


def test_running_again_changes_nothing(built, options):
    before = {path: path.stat().st_mtime_ns for path in built.folder.rglob('*')}
    again = build.build(built.folder, **options)
    assert again.manifest == built.manifest
    for path, time in before.items():
        assert path.is_dir() or path.stat().st_mtime_ns == time


def test_rows_of_the_same_content_have_one_digest(built, options, tmp_path):
    """Whatever the bytes of the ledger: they are those of a version of pyarrow."""
    manifest = copy.deepcopy(built.manifest)
    digests = manifest['splits']['train']['segments'][0]['shards'][0]['sha256']
    digests['train/00000.parquet'] = digests['train/00000.parquet'][::-1]
    assert dataset.Dataset(built.folder, manifest).content == built.content
    digests['train/00000.tokens'] = digests['train/00000.tokens'][::-1]
    assert dataset.Dataset(built.folder, manifest).content != built.content


def test_another_path_to_the_same_text_is_the_same_build(
    built, options, texts, tmp_path
):
    shutil.copytree(texts, tmp_path / 'elsewhere' / 'texts')
    shutil.rmtree(texts)
    options['corpus']['path'] = str(tmp_path / 'elsewhere' / 'texts')
    assert build.build(built.folder, **options).manifest == built.manifest
    manifest = (built.folder / 'manifest.json').read_text()
    assert str(tmp_path) not in manifest


def test_another_config_is_refused_with_the_difference(built, options):
    before = tree(built.folder)
    options['held_out']['fraction'] = 0.2
    with pytest.raises(command.UserError, match=r'held_out.fraction=0.3.* 0.2;'):
        build.build(built.folder, **options)
    assert tree(built.folder) == before


def test_changed_documents_are_noticed(built, options, texts):
    (texts / '00.txt').write_text('something else')
    with pytest.raises(command.UserError, match='are not those that'):
        build.build(built.folder, **options)


def test_documents_that_change_under_the_build_are_noticed(
    tmp_path, options, texts, monkeypatch
):
    def change(*args):
        (texts / '00.txt').write_text('something else')
        return original(*args)

    original = build._write
    monkeypatch.setattr(build, '_write', change)
    with pytest.raises(command.UserError, match='changed while'):
        build.build(tmp_path / 'out', **options)
    assert not (tmp_path / 'out' / 'manifest.json').exists()


def test_a_folder_of_something_else_is_refused(tmp_path, options):
    (tmp_path / 'thesis').mkdir()
    (tmp_path / 'thesis' / 'chapter.tex').write_text('precious')
    with pytest.raises(command.UserError, match=r'not empty \(chapter.tex\)'):
        build.build(tmp_path / 'thesis', **options)
    assert tree(tmp_path / 'thesis') == {'chapter.tex': b'precious'}


def test_an_output_that_is_a_file_is_refused(tmp_path, options):
    (tmp_path / 'out').write_text('precious')
    for output in (tmp_path / 'out', tmp_path / 'out' / 'below'):
        with pytest.raises(command.UserError, match='a file is in the way'):
            build.build(output, **options)


def test_invalid_utf8_is_skipped_named_and_counted(tmp_path, options, texts, capsys):
    (texts / '03.txt').write_bytes(b'good until \xff here')
    with (texts / 'z.jsonl').open('ab') as file:
        file.write(b'{"text": "\xff"}\n{"text": "\\ud800"}\n{"text": " "}\n')
    made = build.build(tmp_path / 'out', **options)
    assert made.manifest['skipped'] == {'invalid UTF-8': 3, 'empty': 1}
    errors = capsys.readouterr().err
    assert 'skipped texts/03.txt: invalid UTF-8' in errors
    assert 'skipped texts/z.jsonl:10: invalid UTF-8' in errors
    assert 'skipped texts/z.jsonl:11: invalid UTF-8' in errors
    assert sum(made.manifest['splits'][s]['documents'] for s in ('train', 'validation'))
    assert 'skipped: invalid UTF-8' in made.summary()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'corpus': dict(name='txt')}, "did you mean 'text'"),
        ({'corpus': dict(path='x')}, 'corpus lacks a name'),
        ({'corpus': dict(name='text', path='', licence='x')}, 'does not exist'),
        ({'corpus': dict(name='text', path='x')}, 'corpus lacks licence'),
        ({'corpus': dict(name='python_qa', kind='qa')}, '"chat" or "pairs"'),
        ({'held_out': dict(fraction=1.0, by='tail')}, 'less than 1'),
        ({'held_out': dict(fraction=0.1, by='end')}, '"document" or "tail"'),
        ({'held_out': dict(fraction=0.1)}, 'held_out lacks by'),
        ({'held_out': dict(fraction=1e-9, by='document')}, 'validation split empty'),
        ({'tokenizer': dict()}, 'tokenizer lacks a name'),
        ({'shard_tokens': 0}, 'shard_tokens is 0'),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, change, message):
    with pytest.raises(command.UserError, match=message):
        build.build(tmp_path / 'out', **{**options, **change})


def test_the_tail_of_conversations_is_refused(tmp_path, options):
    line = {'messages': [{'role': 'assistant', 'content': 'Well.'}]}
    (tmp_path / 'x.jsonl').write_text(json.dumps(line))
    options['corpus'] = dict(name='chat', path=str(tmp_path / 'x.jsonl'), licence='MIT')
    options['held_out']['by'] = 'tail'
    with pytest.raises(command.UserError, match='cuts text'):
        build.build(tmp_path / 'out', **options)


@pytest.mark.parametrize('content', [b'', b' \n', b'\xff\xfe'])
def test_a_corpus_without_a_document_is_refused(tmp_path, options, content):
    (tmp_path / 'one.txt').write_bytes(content)
    options['corpus']['path'] = str(tmp_path / 'one.txt')
    with pytest.raises(command.UserError, match='has no documents'):
        build.build(tmp_path / 'out', **options)


def test_a_damaged_file_is_named(built):
    whole = tree(built.folder)
    for name, content in whole.items():
        if name in ('card.md', 'croissant.json'):  # which people may add to
            continue
        path = built.folder / name
        changed = bytearray(content)
        changed[len(content) // 2] ^= 1
        for damage in (bytes(changed), content[: len(content) // 2], None):
            path.unlink() if damage is None else path.write_bytes(damage)
            with pytest.raises(command.UserError, match=path.name):
                dataset.open(built.folder).tokenizer()
            path.write_bytes(content)
    assert dataset.open(built.folder).manifest == built.manifest


@pytest.mark.parametrize('content', ['[]', '["digest"]', 'null', '"digest"', '{}'])
def test_a_manifest_of_something_else_is_damaged(tmp_path, content):
    (tmp_path / 'manifest.json').write_text(content)
    with pytest.raises(command.UserError, match=r'manifest\.json is damaged'):
        dataset.open(tmp_path)


def test_a_file_is_not_a_dataset(texts):
    with pytest.raises(command.UserError, match=r'00\.txt holds no dataset'):
        dataset.open(texts / '00.txt')


def test_an_interrupted_build_is_not_a_dataset(built):
    (built.folder / 'manifest.json').unlink()
    with pytest.raises(command.UserError, match='running it again'):
        dataset.open(built.folder)


def test_an_unknown_or_empty_split_is_refused(tmp_path, options):
    options['held_out']['fraction'] = 0.0
    made = build.build(tmp_path / 'out', **options)
    with pytest.raises(command.UserError, match=r'validation split of .* is empty'):
        made.rows('validation', 8)
    with pytest.raises(command.UserError, match='unknown split'):
        made.rows('valid', 8)


def test_raw_text_is_built_once_into_the_workdir(tmp_path, options, texts, built):
    spec = {**options, 'corpus': dict(name='text', licence='CC0-1.0')}
    data = tmp_path / 'workdir' / 'data'
    made = build.ensure(str(texts), data, spec)
    assert tree(data).items() - tree(built.folder).items() == {
        (build.RAW, (data / build.RAW).read_bytes())
    }
    time = (data / 'manifest.json').stat().st_mtime_ns
    assert build.ensure(str(texts), data, spec).manifest == made.manifest
    assert (data / 'manifest.json').stat().st_mtime_ns == time
    assert build.ensure(str(built.folder), tmp_path / 'no', spec).folder == built.folder
    assert not (tmp_path / 'no').exists()
    with pytest.raises(command.UserError, match=r'data.path is .*which does not exist'):
        build.ensure(str(tmp_path / 'nothing'), data, spec)
    with pytest.raises(command.UserError, match=r'unknown option data\.build\.shards'):
        build.ensure(str(texts), tmp_path / 'new', {**spec, 'shards': 1})
    with pytest.raises(command.UserError, match=r'data\.build lacks corpus'):
        build.ensure(str(texts), tmp_path / 'new', {'shard_tokens': 1})


@pytest.fixture
def raw(tmp_path, options, texts):
    """`ensure` of the folder of text in a workdir, where it is built already."""

    def ensure(path=texts, **changes):
        spec = {**options, 'corpus': dict(name='text', licence='CC0-1.0'), **changes}
        return build.ensure(str(path), tmp_path / 'workdir' / 'data', spec)

    ensure()
    return ensure


def test_raw_text_is_not_read_again_and_may_go(raw, texts, monkeypatch):
    manifest = raw().manifest
    with monkeypatch.context() as patch:
        patch.setattr(table, 'collect', None)
        assert raw().manifest == manifest
    shutil.rmtree(texts)
    assert raw().manifest == manifest
    with pytest.raises(command.UserError, match='which does not exist'):
        raw(texts.with_name('textes'))
    with pytest.raises(command.UserError, match=r'shard_tokens=1000.* 999;'):
        raw(shard_tokens=999)


def test_other_raw_text_is_noticed(raw, texts, tmp_path):
    manifest = raw().manifest
    other = shutil.copytree(texts, tmp_path / 'other' / 'texts')
    assert raw(other).manifest == manifest  # the same text elsewhere
    (tmp_path / 'workdir' / 'data' / build.RAW).write_text('{"path"')
    assert raw(other).manifest == manifest
    for change in (
        lambda: (other / '00.txt').write_text('something else'),
        lambda: other.rename(tmp_path / 'other' / 'renamed'),
    ):
        change()
        with pytest.raises(command.UserError, match='are not those that'):
            raw(next((tmp_path / 'other').iterdir()))


def test_a_long_text_is_tokenized_in_pieces_without_loss(
    tmp_path, options, monkeypatch
):
    whole = build.build(tmp_path / 'whole', **options)
    monkeypatch.setattr(shards, '_PIECE', 7)
    pieces = build.build(tmp_path / 'pieces', **options)
    assert tree(whole.folder) == tree(pieces.folder)


def test_a_change_of_texts_leaves_the_margin_of_a_pair():
    ask = [{'role': 'user', 'content': 'a'}]
    pair = {'prompt': ask, 'chosen': 'b', 'rejected': 'c', 'margin': 2.0}
    made = documents.Document('id', 'here', 'MIT', pair=pair).changed(str.upper)
    assert made.pair == {
        'prompt': [{'role': 'user', 'content': 'A'}],
        'chosen': 'B',
        'rejected': 'C',
        'margin': 2.0,
    }
