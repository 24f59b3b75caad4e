"""The built-in engine against the definition, and what it does with bad input."""

import errno
import hashlib
import json
import os
from pathlib import Path
import random

import pytest
import toy_pipeline

from gptjax import command
from gptjax.data import build, documents, steps, storage
from gptjax.data.corpora import refined
from gptjax.data.origin import policy
from gptjax.data.refine import files, runner, spill

WORDS = ['Rain', 'straße', 'over', '河 the', 'Naïve', 'bench', 'of', '😀 x']


def lines(count, seed=0):
    rng = random.Random(seed)
    made = []
    for number in range(count):
        text = ' '.join(rng.choices(WORDS, k=rng.randint(2, 9)))
        text += ' explode' * (rng.random() < 0.02)
        if made and rng.random() < 0.1:
            text = rng.choice(made)['text'].upper()
        if number == 7:
            text = 'Zebras are like nothing else here'
        made.append(
            dict(
                id=f'n{number}' if rng.random() > 0.05 else f'dup{number % 3}',
                source=f'src{number % 2}/a{number}',
                licence=rng.choice(['CC0-1.0', 'MIT', 'unknown']),
                text=text,
            )
        )
    return made


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """To sync matters when the power fails."""
    monkeypatch.setattr(os, 'fsync', lambda descriptor: None)


def write(folder, shards):
    folder.mkdir(parents=True)
    for number, records in enumerate(shards):
        content = ''.join(json.dumps(one) + '\n' for one in records)
        (folder / f'{number}.jsonl').write_text(content)
    return folder


@pytest.fixture
def raw(tmp_path):
    """300 documents in three files, with lines that cannot be read."""
    made = lines(300)
    folder = write(tmp_path / 'raw', [made[:100], made[100:230], made[230:]])
    with (folder / '1.jsonl').open('a') as file:
        file.write('bad\nbad\n')
    with (folder / '0.jsonl').open('a') as file:
        file.write('raise\nbad\n')  # nothing is read after what raises
    return folder


def allowed():
    known = policy.known(toy_pipeline.LICENCES)
    return lambda document: policy.check(document, known)


def expected(made):
    """(kept, rejected) of a pipeline in the plainest way."""
    found = [documents.Document(**one) for one in made]
    rejected = []

    def note(document, step, reject):
        value = reject.value
        text = value if value is None or isinstance(value, str) else repr(value)
        row = (
            document.id,
            document.source,
            None,
            document.licence,
            step,
            reject.reason,
        )
        rejected.append((*row, text))

    def each(name, factory, given, **made_with):
        step, kept = factory(**made_with), []
        for one in given:
            try:
                after = steps.changed(name, one, step(one))
            except KeyError as error:
                after = documents.Reject('error', repr(error))
            if isinstance(after, documents.Reject):
                note(one, name, after)
            else:
                kept.append(after)
        return kept

    def grouped(name, group, given):
        kept = []
        for one, after in steps.in_memory(group, given):
            if isinstance(after, documents.Reject):
                note(one, name, after)
            else:
                kept.append(after)
        return kept

    found = each('toy.lower', toy_pipeline.lower, found)
    found = each('toy.least', toy_pipeline.least, found, characters=20)
    found = each('licences', allowed, found)
    unique = {}
    for one in sorted(found, key=lambda d: hashlib.sha256(d.content()).digest()):
        if one.id in unique:
            note(one, 'ids', documents.Reject('duplicate id'))
        unique.setdefault(one.id, one)
    found = grouped('toy.exact', toy_pipeline.Exact(), unique.values())
    found = each('toy.words', toy_pipeline.words, found)
    found = grouped('toy.neighbours', toy_pipeline.Neighbours(), found)
    found = each('toy.least-2', toy_pipeline.least, found, characters=25)
    return found, rejected


def read_back(output):
    manifest = json.loads((output / 'manifest.json').read_text())
    rejected = [
        tuple(row.values())
        for entry in manifest['files']
        if entry['file'].startswith('rejected/')
        for row in files.rows(output / entry['file'])
    ]
    return manifest, list(refined.collect(str(output))), rejected


def contents(folder, without=('raw.json',)):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file() and path.name not in without
    }


@pytest.mark.parametrize('memory', [spill.MEMORY, 20_000])
def test_a_run_is_what_its_parts_say(raw, tmp_path, monkeypatch, memory):
    monkeypatch.setattr(spill, 'MEMORY', memory)
    output = tmp_path / 'out'
    runner.refine(output, **toy_pipeline.options(raw))
    manifest, kept, rejected = read_back(output)
    kept_there, rejected_there = expected(lines(300))
    assert len(kept) > 50
    assert [d.id for d in kept] == sorted((d.id for d in kept_there), key=documents.key)
    assert {d.content() for d in kept} == {d.content() for d in kept_there}
    assert sorted(map(str, rejected)) == sorted(map(str, rejected_there))
    keys = [documents.key(row[0]) for row in rejected]
    assert keys == sorted(keys)
    assert {row[4] for row in rejected} == {
        'toy.least', 'ids', 'toy.exact', 'toy.neighbours', 'toy.least-2', 'licences',
    }  # fmt: skip
    assert {row[5] for row in rejected} >= {'error', 'duplicate id', 'short'}
    for step, reason, count in manifest['rejected']:
        assert count == sum(row[4:6] == (step, reason) for row in rejected_there)
    bad = [json.loads(line) for line in (output / 'bad.jsonl').read_text().splitlines()]
    assert bad == [
        {'source': '0.jsonl', 'reason': 'error: ZeroDivisionError', 'offset': None},
        {'source': '1.jsonl', 'reason': 'bad line', 'offset': 130},
        {'source': '1.jsonl', 'reason': 'bad line', 'offset': 131},
    ]
    assert manifest['skipped'] == [['bad line', 2], ['error: ZeroDivisionError', 1]]
    assert manifest['documents'] == len(kept)
    assert manifest['characters'] == sum(len(d.text) for d in kept)
    share = manifest['signals']['share']
    assert share['sum'] == pytest.approx(sum(d.signals['share'] for d in kept))
    assert share['least'] == min(d.signals['share'] for d in kept)
    assert share['documents'] == len(kept)
    assert manifest['licences']['MIT']['documents'] == sum(
        d.licence == 'MIT' for d in kept
    )
    assert not (output / '.progress').exists()


def test_each_step_takes_what_the_one_before_left(raw, tmp_path):
    manifest = runner.refine(tmp_path / 'out', **toy_pipeline.options(raw))
    before = 300
    for step in manifest['steps']:
        gone = sum(n for name, _, n in manifest['rejected'] if name == step['name'])
        assert step['documents_in'] == before
        assert step['documents_out'] == before - gone
        before = step['documents_out']
    assert before == manifest['documents']
    assert manifest['steps'][-1]['characters_out'] == manifest['characters']


def test_the_bytes_do_not_depend_on_how_the_input_is_cut(tmp_path):
    made = lines(200)
    shuffled = random.Random(1).sample(made, len(made))
    whole = write(tmp_path / 'a' / 'raw', [made])
    parts = write(tmp_path / 'b' / 'raw', [shuffled[n::7] for n in range(7)])
    runner.refine(tmp_path / 'one', **toy_pipeline.options(whole))
    runner.refine(tmp_path / 'seven', **toy_pipeline.options(parts))
    assert contents(tmp_path / 'one') == contents(tmp_path / 'seven')
    run = dict(workers=1, shards=3, most_bad=0.5)
    runner.refine(tmp_path / 'three', **toy_pipeline.options(whole, run=run))
    there = [d.content() for d in refined.collect(str(tmp_path / 'three'))]
    assert there == [d.content() for d in refined.collect(str(tmp_path / 'one'))]


def test_every_kind_of_document_comes_back(tmp_path):
    turns = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'B é'}]
    pair = {'prompt': turns[:1], 'chosen': 'good', 'rejected': 'bad'}
    said = dict(
        url='https://a.example/', language='en', retrieved='2026-11-21T15:04:12Z',
        evidence='a page', opt_out='none', media='text/html', unit='u',
    )  # fmt: skip
    given = [
        dict(text='a text', signals={'x.y': 3.0, 'z': 0.1}, steps=('s:+1',), **said),
        dict(text='t', label='1', text_pair='second'),
        dict(messages=turns),
        dict(pair=pair),
        dict(translation={'source': 'Haus', 'target': 'house'}),
    ]
    given = [
        dict(id=str(n), source='s', licence='MIT', **g) for n, g in enumerate(given)
    ]
    raw = write(tmp_path / 'raw', [given])
    manifest = runner.refine(tmp_path / 'out', **toy_pipeline.options(raw, steps=()))
    found = {d.id: d for d in refined.collect(str(tmp_path / 'out'))}
    for one in given:
        one['steps'] = tuple(one.get('steps', ()))
        assert found[one['id']] == documents.Document(**one)
    kinds = {'chat', 'labelled', 'pairs', 'text', 'translation'}
    assert set(manifest['kinds']) == kinds


def test_no_unicode_that_cannot_be_written(tmp_path):
    half = '\ud83d'
    raw = write(
        tmp_path / 'raw',
        [[
            dict(id='a', source=half, licence='MIT', text='good'),
            dict(id=half, source='s', licence='MIT', text='good'),
            dict(id='b', source='s', licence='MIT', text=half),
            dict(id='c', source='s', licence='MIT', text='good'),
        ]],
    )  # fmt: skip
    output = tmp_path / 'out'
    run = dict(workers=1, shards=2, most_bad=1.0)
    runner.refine(output, **toy_pipeline.options(raw, steps=(), run=run))
    manifest, kept, rejected = read_back(output)
    assert [d.id for d in kept] == ['c']
    assert manifest['skipped'] == [['invalid Unicode', 1]]
    assert {(row[0], row[5]) for row in rejected} == {
        ('a', 'invalid Unicode'), ('b', 'invalid Unicode')
    }  # fmt: skip


def test_another_run_opens_what_is_finished(raw, tmp_path, monkeypatch):
    output = tmp_path / 'out'
    first = runner.refine(output, **toy_pipeline.options(raw))
    monkeypatch.setattr(runner, '_phases', None)
    run = dict(workers=1, shards=4, most_bad=0.4)
    assert runner.refine(output, **toy_pipeline.options(raw, run=run)) == first
    for path in raw.iterdir():
        path.unlink()
    raw.rmdir()  # the raw files may go once the run is finished
    assert runner.refine(output, **toy_pipeline.options(raw)) == first


def test_other_settings_or_input_are_refused(raw, tmp_path):
    output = tmp_path / 'out'
    runner.refine(output, **toy_pipeline.options(raw))
    steps_given = (*toy_pipeline.PIPELINE[:-1], dict(name='toy.least', characters=26))
    with pytest.raises(
        command.UserError, match=r'with steps.5.characters=25, and this run has 26'
    ):
        runner.refine(output, **toy_pipeline.options(raw, steps=steps_given))
    run = dict(workers=1, shards=5, most_bad=0.4)
    with pytest.raises(command.UserError, match='shards=4, and this run has 5'):
        runner.refine(output, **toy_pipeline.options(raw, run=run))
    os.utime(raw / '0.jsonl', (1, 1))
    with pytest.raises(command.UserError, match='raw files are not those'):
        runner.refine(output, **toy_pipeline.options(raw))


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        (dict(path=''), 'path is .*, which does not exist'),
        (dict(read=dict(name='toy.line')), "unknown reader 'toy.line'; did you mean"),
        (dict(read={}), 'has an entry without a name'),
        (dict(steps=(dict(name='toy.lest'),)), "unknown step 'toy.lest'"),
        (dict(steps=(dict(name='toy.least'),)), 'steps.toy.least lacks characters'),
        (
            dict(steps=(dict(name='toy.least', characters='5'),)),
            'steps.toy.least.characters is .5.',
        ),
        (dict(run=dict(workers=0, shards=1, most_bad=0.5)), 'run.workers is 0'),
        (dict(run=dict(workers=1, shards=0, most_bad=0.5)), 'run.shards is 0'),
        (dict(run=dict(workers=1, shards=1, most_bad=5.0)), 'run.most_bad is 5'),
        (dict(run=dict(shards=1, most_bad=0.5)), 'run lacks workers'),
    ],
)
def test_mistakes_are_told(raw, tmp_path, changed, message):
    with pytest.raises(command.UserError, match=message):
        runner.refine(tmp_path / 'out', **toy_pipeline.options(raw, **changed))


def test_too_much_that_is_bad_fails_the_run_at_its_end(raw, tmp_path, monkeypatch):
    run = dict(workers=1, shards=4, most_bad=0.01)
    wrong = toy_pipeline.options(raw, run=run)
    message = r'(\d+) of 303 pieces are bad, more than run.most_bad=0.01'
    for _ in range(2):  # a finished folder does not hide it
        with pytest.raises(command.UserError, match=message):
            runner.refine(tmp_path / 'out', **wrong)
    assert (tmp_path / 'out' / 'manifest.json').exists()
    monkeypatch.setattr(runner, '_refine', None)  # to allow more is not to do it again
    run = dict(workers=1, shards=4, most_bad=0.5)
    runner.refine(tmp_path / 'out', **toy_pipeline.options(raw, run=run))


def test_a_full_disk_is_told_and_the_run_goes_on(raw, tmp_path, monkeypatch):
    options, real, left = toy_pipeline.options(raw), storage.rename, [20]

    def rename(*paths):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, 'No space left on device')
        real(*paths)

    runner.refine(tmp_path / 'whole', **options)
    monkeypatch.setattr(storage, 'rename', rename)
    with pytest.raises(command.UserError, match=r'disk of .*out is full; what is fini'):
        runner.refine(tmp_path / 'out', **options)
    runner.refine(tmp_path / 'out', **options)
    assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')


def test_what_steps_load_is_a_setting_and_where_it_lies_is_not(raw, tmp_path):
    (tmp_path / 'words').write_text('nowhere')
    (tmp_path / 'sets').mkdir()
    (tmp_path / 'sets' / 'a.txt').write_text('one two three four')
    lists = dict.fromkeys(('hosts', 'urls', 'hard', 'soft', 'strict'))

    def refine():
        block = dict(words=str(tmp_path / 'words'), soft_least=1, **lists)
        fields = dict(query='text', answer=None, right=None)
        sets = [dict(path=str(tmp_path / 'sets'), **fields)]
        steps = (
            dict(name='block_list', **block),
            dict(name='decontaminate', path=sets, find=('query',), ngram=3, shortest=3),
        )
        return runner.refine(tmp_path / 'out', **toy_pipeline.options(raw, steps=steps))

    first = refine()
    digest = hashlib.sha256(b'nowhere').hexdigest()
    assert first['settings']['steps'][0]['words'] == f'words sha256:{digest}'
    assert str(tmp_path) not in json.dumps(first['settings'])
    assert refine() == first
    (tmp_path / 'sets' / 'a.txt').write_text('one two three five')
    with pytest.raises(command.UserError, match=r'steps.1.path.0.path=.sets sha256:'):
        refine()


def test_nothing_and_no_files(tmp_path):
    raw = tmp_path / 'raw'
    raw.mkdir()
    (raw / 'empty.jsonl').touch()
    for _ in range(2):
        with pytest.raises(command.UserError, match='holds nothing that can be read'):
            runner.refine(tmp_path / 'out', **toy_pipeline.options(raw))
    os.mkfifo(raw / 'pipe.txt')
    os.symlink('/dev/zero', raw / 'zero.txt')
    (raw / 'good.txt').write_text('A good text.')
    read = dict(name='files', licence='MIT', kind='text', books='whole', verify=True)
    given = toy_pipeline.options(raw, read=read, steps=())
    manifest = runner.refine(
        tmp_path / 'more', **{**given, 'run': dict(workers=1, shards=1, most_bad=0.9)}
    )
    assert manifest['documents'] == 1
    assert dict(manifest['skipped']) == {
        'no regular file': 1, 'link out of the folder': 1
    }  # fmt: skip


def test_a_folder_with_something_else_is_left_alone(raw, tmp_path):
    (tmp_path / 'mine').mkdir()
    with pytest.raises(command.UserError, match=r'not empty .mine.'):
        runner.refine(tmp_path, **toy_pipeline.options(raw / '0.jsonl'))
    with pytest.raises(command.UserError, match='lies among the raw files'):
        runner.refine(raw / 'out', **toy_pipeline.options(raw))


def test_refined_documents_are_built(raw, tmp_path):
    output = tmp_path / 'out'
    runner.refine(output, **toy_pipeline.options(raw))
    built = dict(
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.2, by='document'),
        shard_tokens=1000,
    )
    made = build.build(
        tmp_path / 'dataset', corpus=dict(name='refined', path=str(output)), **built
    )
    kept = list(refined.collect(str(output)))
    assert made.manifest['plan']['documents'] == len(kept)
    file = next(output.glob('*.parquet'))
    file.write_bytes(file.read_bytes()[:-1] + b'x')
    with pytest.raises(command.UserError, match='is missing or damaged'):
        list(refined.collect(str(output)))
    with pytest.raises(command.UserError, match='holds no refined documents'):
        list(refined.collect(str(Path(tmp_path) / 'nothing')))
