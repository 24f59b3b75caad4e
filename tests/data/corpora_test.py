"""Every corpus loads its fixture with licences; each reads what it says it reads."""

from collections import defaultdict
import functools
import hashlib
import inspect
import json
import os
import subprocess
import sys
import textwrap

import pytest

from gptjax import command
from gptjax.data import documents, split, storage, table
from gptjax.data.corpora import docstrings, python_qa
from gptjax.data.refine import files as refine_files

MESSAGES = [
    {'role': 'user', 'content': 'Who are you?'},
    {'role': 'assistant', 'content': 'A test.'},
]
LINES = {
    'text': {'text': 'A line.'},
    'chat': {'messages': MESSAGES},
    'pairs': {'prompt': 'Why?', 'chosen': 'Because.', 'rejected': 'Be'},
    'feedback': {'prompt': 'Why?', 'completion': 'Because.', 'label': True},
    'labelled': {'text': 'A line.', 'text_pair': 'Another.', 'label': 'good'},
    'translation': {'source': 'A line.', 'target': 'Eine Zeile.'},
}


@pytest.fixture
def fixtures(tmp_path):
    """The options with which each corpus of the table loads a small fixture."""
    made = {'python_docs': {}, 'python_qa': {'kind': 'pairs'}}
    for name, line in LINES.items():
        path = tmp_path / f'{name}.jsonl'
        path.write_text(json.dumps(line) + '\n')
        made[name] = {'path': str(path), 'licence': 'MIT'}
    folder = tmp_path / 'refined'
    folder.mkdir()
    found = [documents.Document('one', 'web/a.test', 'MIT', text='A page.')]
    told = refine_files.documents_file(folder / 'part', folder, '0.parquet', found)
    entries = [{'file': '0.parquet', **told}]
    storage.write_json(
        folder / 'manifest.json', {'format': refine_files.FORMAT, 'files': entries}
    )
    made['refined'] = {'path': str(folder)}
    return made


@functools.cache
def collected(name, **options):
    """The documents of a corpus, found once: those of Python take seconds."""
    return tuple(table.collect({'name': name, **options}))


@pytest.mark.parametrize('name', sorted(set(table.CORPORA) - {'tfds'}))
def test_every_corpus_has_licences_and_loads(fixtures, name):
    assert_sound(collected(name, **fixtures[name]))


def assert_sound(found):
    """What holds for the documents of any corpus; tfds_test.py uses it too."""
    assert found
    assert all(isinstance(document, documents.Document) for document in found)
    assert len({document.id for document in found}) == len(found)
    assert len({document.kind for document in found}) == 1
    for document in found:
        assert document.licence
        assert document.group
        assert not document.source.startswith('/')
        assert all(document.texts())
        assert document.size > 0


DIGEST = """
import hashlib
from gptjax.data.corpora import python_docs, python_qa
digest = hashlib.sha256()
for corpus in python_docs.collect(), python_qa.collect('pairs'):
    for document in corpus:
        digest.update(document.content())
print(digest.hexdigest())
"""


def test_python_docs_are_the_same_in_every_process():
    digest = hashlib.sha256()
    for document in (*collected('python_docs'), *collected('python_qa', kind='pairs')):
        digest.update(document.content())
    other = subprocess.run(
        [sys.executable, '-c', DIGEST],
        env={**os.environ, 'PYTHONHASHSEED': '7'},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == digest.hexdigest()


def test_python_docs_hold_the_language_and_the_library():
    found = {d.source: d for d in collected('python_docs')}
    assert 1.5e6 < sum(d.size for d in collected('python_docs')) < 8e6
    assert {d.licence for d in found.values()} == {'PSF-2.0'}
    release = docstrings.release()
    wrap = found[f'{release}/Lib/textwrap.py'].text

    assert wrap.startswith('textwrap\n\n')
    title = f'textwrap.dedent{inspect.signature(textwrap.dedent)}\n\n'
    assert title + inspect.getdoc(textwrap.dedent) in wrap
    assert 'str.upper(self, /)\n\n' + inspect.getdoc(str.upper) in (
        found[f'{release}/builtins'].text
    )
    topics = [d.text for d in collected('python_docs')]
    assert any('The "with" statement' in text for text in topics)
    assert not any('/test/' in s or 'site-packages' in s for s in found)


def held_out(corpus, **options):
    """The documents of a corpus: those to train on, and those of the validation."""
    sides = [], []
    for document in collected(corpus, **options):
        sides[split.is_held_out(document, 0.05)].append(document)
    return sides


def plain(text):
    return ' '.join(text.split())


def test_what_is_held_out_of_the_questions_is_held_out_of_the_docs():
    docs, docs_held_out = held_out('python_docs')
    trained_on = {document.source for document in docs}
    for kind in ('chat', 'pairs'):
        learned, asked = held_out('python_qa', kind=kind)
        assert len(asked) >= 100
        assert len(learned) > 10 * len(asked)
        assert not {document.source for document in asked} & trained_on
    assert any('/topics.py' in document.source for document in docs_held_out)
    assert any('/topics.py' in document.source for document in docs)


def test_a_held_out_answer_is_read_nowhere_in_training():
    chat, asked = held_out('python_qa', kind='chat')
    pairs, _ = held_out('python_qa', kind='pairs')
    docs, _ = held_out('python_docs')
    answers = {document.messages[1]['content'] for document in asked}
    assert not answers & {text for d in [*chat, *pairs] for text in d.texts()}
    pages = '\n'.join(plain(document.text) for document in docs)
    # Nothing keeps a release from quoting one in the middle of another docstring.
    assert sum(answer in pages for answer in answers) <= 1


def test_questions_and_pairs_are_about_the_same_objects():
    chat = collected('python_qa', kind='chat')
    pairs = collected('python_qa', kind='pairs')
    assert len(chat) > 2500
    assert [d.id for d in chat] == [d.id for d in pairs]
    answers = [d.messages[1]['content'] for d in chat]
    assert len(set(answers)) == len(answers)
    of_module = defaultdict(set)
    for document, answer in zip(chat, answers, strict=True):
        of_module[document.source].add(answer)
    broken_off = 0
    for one, pair in zip(chat, (d.pair for d in pairs), strict=True):
        question, answer = one.messages
        assert pair['prompt'] == [question]
        assert pair['chosen'] == answer['content']
        assert pair['rejected'] != pair['chosen']
        assert 20 <= len(pair['chosen']) <= 200
        assert pair['chosen'].endswith('.')
        if pair['chosen'].startswith(pair['rejected']):
            broken_off += 1
        else:
            assert pair['rejected'] in of_module[one.source]
    assert 0.45 < broken_off / len(pairs) < 0.55


@pytest.mark.parametrize(
    ('docstring', 'sentence'),
    [
        ('Return a copy of the list.\n\nMore.', 'Return a copy of the list.'),
        (
            'Join two paths, e.g. a folder\nand a file. Then more.',
            'Join two paths, e.g. a folder and a file.',
        ),
        ('Open version 3.11 of the file.', 'Open version 3.11 of the file.'),
        ('Return a copy of the list', None),
        ('Too short.', None),
        ('lower case at the beginning.', None),
        ('Unbalanced (as this one is.', None),
        ('Example: >>> print(1) shows one.', None),
        ('A' + ' very' * 60 + ' long one.', None),
        ('', None),
    ],
)
def test_the_first_sentence_is_a_clean_one(docstring, sentence):
    assert python_qa.first_sentence(docstring) == sentence


@pytest.mark.parametrize(
    ('name', 'line', 'message'),
    [
        ('text', '{"text": 1}', 'lines.jsonl:2 has text=1; each line needs a string'),
        ('text', '{"id": "a"}', 'lines.jsonl:2 has text=None'),
        ('text', '{"text": "a", "licence": 3}', 'lines.jsonl:2 has licence=3'),
        ('text', '["a"]', 'lines.jsonl:2 is not a JSON object'),
        ('text', '{"text": ', 'lines.jsonl:2 is not JSON'),
        pytest.param('text', '[' * 100_000, 'lines.jsonl:2 is not JSON', id='deep'),
        pytest.param('text', '1' * 5_000, 'lines.jsonl:2 is not JSON', id='long'),
        ('chat', '{}', 'lines.jsonl:2 has None for messages'),
        ('chat', '{"messages": [{"role": "cat", "content": ""}]}', 'lines.jsonl:2: '),
        (
            'chat',
            '{"messages": [{"role": "user", "content": "a"}]}',
            'lines.jsonl:2 has no assistant message',
        ),
        (
            'chat',
            '{"messages": [{"role": "user", "content": "a"}, {"role": "tool", '
            '"content": "b"}]}',
            r'lines.jsonl:2: messages\[1\] is what a tool answered, and no call',
        ),
        (
            'chat',
            '{"messages": [{"role": "assistant", "content": "a", "weight": 0}]}',
            'lines.jsonl:2 has no assistant message of a weight above 0',
        ),
        (
            'chat',
            '{"messages": [{"role": "user", "content": "a"}], "tools": [1]}',
            r'lines.jsonl:2: messages\[0\].tools is \[1\]; it is a list of objects',
        ),
        (
            'pairs',
            '{"prompt": "a", "chosen": "b", "rejected": "b"}',
            "lines.jsonl:2 has equal answers, chosen and rejected 'b'",
        ),
        ('pairs', '{"chosen": "a", "rejected": "b"}', 'lines.jsonl:2 has prompt=None'),
        ('pairs', '{"prompt": []}', r'lines.jsonl:2 has prompt=\[\]'),
        ('pairs', '{"prompt": "a", "chosen": "b"}', 'lines.jsonl:2 has rejected=None'),
        (
            'pairs',
            '{"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1}',
            'lines.jsonl:2 has margin=-1',
        ),
        (
            'pairs',
            '{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1e39}',
            'lines.jsonl:2 has margin=1e.39; it needs a number from 0 to',
        ),
        (
            'feedback',
            '{"prompt": "a", "completion": "b", "label": "good"}',
            "lines.jsonl:2 has label='good'; it needs true, of a good completion",
        ),
        ('feedback', '{"prompt": "a", "completion": "b", "label": 1}', 'has label=1'),
        ('feedback', '{"prompt": "a", "label": true}', 'has completion=None'),
        ('feedback', '{"completion": "a", "label": true}', 'has prompt=None'),
        ('labelled', '{"label": "good"}', 'lines.jsonl:2 has text=None'),
        ('labelled', '{"text": "a"}', 'lines.jsonl:2 has label=None'),
        ('labelled', '{"text": "a", "label": 0.5}', 'lines.jsonl:2 has label=0.5'),
        ('labelled', '{"text": "a", "label": true}', 'lines.jsonl:2 has label=True'),
        (
            'labelled',
            '{"text": "a", "text_pair": null, "label": 1}',
            'lines.jsonl:2 has text_pair=None',
        ),
        ('translation', '{"source": "a"}', 'lines.jsonl:2 has target=None'),
        ('translation', '{"source": ["a"], "target": "b"}', r"has source=\['a'\]"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, name, line, message):
    path = tmp_path / 'lines.jsonl'
    path.write_text(f'{json.dumps(LINES[name])}\n{line}\n')
    with pytest.raises(command.UserError, match=message):
        list(table.collect({'name': name, 'path': str(path), 'licence': 'MIT'}))


def test_a_folder_without_text_is_refused(tmp_path):
    (tmp_path / 'image.png').write_bytes(b'')
    with pytest.raises(command.UserError, match=r'holds no \.txt'):
        list(table.collect({'name': 'text', 'path': str(tmp_path), 'licence': 'MIT'}))


def test_a_text_keeps_its_line_ends_and_loses_its_byte_order_mark(tmp_path):
    (tmp_path / 'a.txt').write_bytes('\ufeffone\r\ntwo\n'.encode())
    options = {'name': 'text', 'path': str(tmp_path / 'a.txt'), 'licence': 'MIT'}
    (found,) = table.collect(options)
    assert found.text == 'one\r\ntwo\n'
    assert found.source == found.id == 'a.txt'


def test_a_prompt_may_be_a_conversation(tmp_path):
    prompt = [*MESSAGES, {'role': 'user', 'content': 'Really?'}]
    line = {'prompt': prompt, 'chosen': 'Yes.', 'rejected': 'No.'}
    (tmp_path / 'a.jsonl').write_text(json.dumps(line))
    options = {'name': 'pairs', 'path': str(tmp_path), 'licence': 'MIT'}
    (found,) = table.collect(options)
    assert found.pair == line
    assert found.size == len('Yes.No.')


@pytest.mark.parametrize('name', sorted(LINES))
def test_a_line_of_any_kind_names_its_origin_and_unit(tmp_path, name):
    line = {'source': 'made/here', 'evidence': 'its words', 'steps': ['eda:+3']}
    line |= {**LINES[name], 'licence': 'CC-BY-4.0', 'unit': 'a book'}
    (tmp_path / 'a.jsonl').write_text(json.dumps(line))
    options = {'name': name, 'path': str(tmp_path), 'licence': 'MIT'}
    (found,) = table.collect(options)
    assert (found.licence, found.unit) == ('CC-BY-4.0', 'a book')
    assert (found.evidence, found.steps) == ('its words', ('eda:+3',))
    own = name != 'translation'  # there it is a text
    assert (found.source == 'made/here') == own


@pytest.mark.parametrize('name', ['labelled', 'translation'])
def test_an_empty_text_and_an_invalid_line_are_skipped(tmp_path, name):
    line = json.dumps(LINES[name])
    blank = json.dumps(dict.fromkeys(LINES[name], ' '))
    content = f'{line}\n{blank}\n'.encode() + b'{"text": "\xff"}\n'
    (tmp_path / 'a.jsonl').write_bytes(content)
    options = {'name': name, 'path': str(tmp_path / 'a.jsonl'), 'licence': 'MIT'}
    kept, *skipped = table.collect(options)
    assert kept.kind == name
    assert [(one.source, one.reason) for one in skipped] == [
        ('a.jsonl:2', 'empty'),
        ('a.jsonl:3', 'invalid UTF-8'),
    ]


@pytest.mark.parametrize(
    'line',
    [
        {'prompt': 'a', 'chosen': 'b', 'rejected': ''},
        {'prompt': 'a', 'completion': ' ', 'label': True},
        {
            'messages': [
                {'role': 'user', 'content': 'a'},
                {'role': 'assistant', 'content': ''},
            ]
        },
    ],
)
def test_an_empty_answer_is_skipped_though_the_prompt_says_something(tmp_path, line):
    kind = {'chosen': 'pairs', 'label': 'feedback', 'messages': 'chat'}
    (name,) = (kind[key] for key in kind if key in line)
    (tmp_path / 'a.jsonl').write_text(json.dumps(line))
    options = {'name': name, 'path': str(tmp_path / 'a.jsonl'), 'licence': 'MIT'}
    (found,) = table.collect(options)
    assert (found.source, found.reason) == ('a.jsonl:1', 'empty')


def test_each_field_of_an_example_changes_the_digest_of_the_corpus():
    def document(**fields):
        return documents.Document('id', 'source', 'MIT', **fields).content()

    found = [
        document(text='a'),
        document(text='a', label='1'),
        document(text='a', label='2'),
        document(text='a', label='1', text_pair='b'),
        document(text='a', label='1', text_pair='c'),
        document(translation={'source': 'a', 'target': 'b'}),
        document(translation={'source': 'b', 'target': 'a'}),
    ]
    assert len(set(found)) == len(found)
