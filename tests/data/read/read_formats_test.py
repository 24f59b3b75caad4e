"""Every format gives its documents, with where they come from, wherever they lie."""

import gzip
import io
import json
import shutil
import time

import mwparserfromhell
import pyarrow as pa
import pyarrow.parquet as pq
import pypdf
import pytest
import raw_files

from gptjax import command
from gptjax.data import documents
from gptjax.data.read import files, item, lines, plain, record, wiki
from gptjax.data.refine import files as refine_files

MESSAGES = [
    {'role': 'user', 'content': 'Who are you?'},
    {'role': 'assistant', 'content': 'A test.'},
]
PREFERRED = ('chosen', 'rejected')


@pytest.mark.parametrize('name', sorted(raw_files.every_format()))
def test_every_format_gives_documents(tmp_path, read, name):
    folder = tmp_path / 'raw'
    folder.mkdir()
    (folder / name).write_bytes(raw_files.every_format()[name])
    made, skipped = read(folder)
    assert made
    assert not skipped
    assert len({one.id for one in made}) == len(made)
    assert all(one.whole.strip() and one.licence for one in made)
    assert {one.group for one in made} == {'raw'}
    moved = tmp_path / 'elsewhere' / 'raw'
    shutil.move(folder, moved)
    assert read(moved) == (made, [])


def test_what_is_read_and_what_not(tmp_path, read):
    for name in ('b.txt', 'a.txt', 'z.bin', 'LICENSE.md', 'c/d.md', 'no_suffix'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'Text of {name}.')
    (tmp_path / 'saved').write_bytes(b'<!DOCTYPE html><html>Page')
    (tmp_path / 'crawl').write_bytes(raw_files.response())
    reader = files.files(str(tmp_path), **raw_files_options())
    assert reader.units() == ['a.txt', 'b.txt', 'c/d.md', 'crawl', 'saved']
    made, _ = read(tmp_path / 'a.txt')
    assert [one.id for one in made] == ['a.txt']


def raw_files_options(**changed):
    known = dict(licence='MIT', kind='text', books='whole', verify=True)
    return {**known, **changed}


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'kind': 'prose'}, "unknown read.kind 'prose'"),
        ({'books': 'page'}, "unknown read.books 'page'"),
        ({'path': '/nowhere'}, "config.path is '/nowhere', which does not exist"),
        ({}, "holds nothing of kind 'text'; readable are"),
    ],
)
def test_wrong_options_are_refused(tmp_path, changed, message):
    options = {'path': str(tmp_path), **raw_files_options(), **changed}
    with pytest.raises(command.UserError, match=message):
        files.files(**options).units()


@pytest.mark.parametrize(
    ('text', 'encoding'),
    [
        ('naïve 河', 'utf-8'),
        ('naïve 河', 'utf-8-sig'),
        ('naïve 河', 'utf-16'),
        ('naïve 河', 'utf-32'),
        ('Съешь же ещё этих мягких французских булок, да выпей чаю. ' * 9, 'cp1251'),
        ('色は匂へど散りぬるを我が世誰ぞ常ならむ' * 9, 'euc_jp'),
        ('色は匂へど散りぬるを我が世誰ぞ常ならむ' * 9, 'shift_jis'),
    ],
)
def test_encodings_are_found(text, encoding):
    assert plain.decode(text.encode(encoding)) == text


def test_what_has_no_encoding_is_none():
    assert plain.decode(bytes(range(256)) * 4) is None
    assert plain.decode(b'\xff\xfe\x00') is None
    assert plain.decode(b'text\0text') is None


def test_the_charset_of_a_page():
    """UTF-8 that is valid goes before what a header says; codecs of Python do not."""
    page = '<meta charset="gb2312"><p>江河</p>'
    assert plain.decode(page.encode(), 'iso-8859-1', html=True) == page
    assert plain.decode(page.encode('gbk'), html=True) == page
    assert plain.decode('é'.encode('cp1252') * 9, 'ISO-8859-1') == 'é' * 9
    assert plain.decode(page.encode(), 'utf-16', html=True) == page
    assert plain.decode(page.encode('utf-16-le'), 'utf-16', html=True) == page
    assert plain.decode('江'.encode('iso2022_jp'), 'iso-2022-jp') == '江'
    assert plain.decode(rb'\u0041\x41', 'unicode_escape') == r'\u0041\x41'
    broken = '<p>Straße</p>'.encode() * 100 + b'\xff'
    assert plain.decode(broken, 'utf-8', html=True).count('\ufffd') == 1
    assert plain.decode(broken[:-20] + b'\xff' * 90, 'utf-8') is None


def test_lines_keep_what_they_say_of_themselves(tmp_path, read):
    rows = [
        {'text': 'One.', 'id': 'own', 'url': 'http://a.test', 'license': 'MIT'},
        {'text': 'Two.', 'source': '/b/c', 'date': '2024-05-06T07:08:09+01:00'},
        {'content': 'Three.', 'language': 'EN', 'timestamp': '2019-04-25T12:57:54Z'},
        {'text': 'Four.', 'language': 'eng_Latn', 'date': 'yesterday', 'id': 4},
    ]
    text = '\n\n'.join(map(json.dumps, rows))
    (tmp_path / 'x.jsonl').write_text(text)
    made, _ = read(tmp_path / 'x.jsonl')
    assert [one.id for one in made] == ['own', 'x.jsonl:3', 'x.jsonl:5', 'x.jsonl:7']
    assert [one.licence for one in made] == ['MIT', 'CC0-1.0', 'CC0-1.0', 'CC0-1.0']
    assert made[0].evidence == 'field licence: MIT'
    assert [one.source for one in made] == ['x.jsonl', 'b/c', 'x.jsonl', 'x.jsonl']
    times = [None, '2024-05-06T06:08:09Z', '2019-04-25T12:57:54Z', None]
    assert [one.retrieved for one in made] == times
    assert [one.language for one in made] == [None, None, 'en', None]
    assert made[0].url == 'http://a.test'


def test_broken_lines_are_skipped_with_their_places(tmp_path, read, monkeypatch):
    monkeypatch.setattr(lines, 'LINE', 1000)
    parts = [
        (b'{"text": "good"}', None),
        (b'{"text": "cut', 'not JSON'),
        (b'{"text": "\xff"}', 'invalid UTF-8'),
        (rb'{"text": "\ud800"}', 'invalid UTF-8'),
        (b'{"text": "' + b'x' * 200_000 + b'"}', 'line too long'),
        (b'[' * 900, 'not JSON'),
        (b'[1]', 'no record'),
        (b'{"text": 1}', 'no text'),
        (b'{"text": " "}', 'empty'),
        (b'{"text": "' + b'y' * 987 + b'"}', None),
    ]
    (tmp_path / 'x.jsonl').write_bytes(b'\n'.join(line for line, _ in parts))
    made, skipped = read(tmp_path / 'x.jsonl')
    assert [one.id for one in made] == ['x.jsonl:1', 'x.jsonl:10']
    offset, expected = 0, []
    for line, reason in parts:
        if reason is not None:
            expected.append((offset, reason))
        offset += len(line) + 1
    assert [(one.offset, one.reason) for one in skipped] == expected


@pytest.mark.parametrize(
    ('kind', 'row', 'field', 'value'),
    [
        ('chat', {'messages': MESSAGES}, 'messages', MESSAGES),
        ('chat', {'messages': json.dumps(MESSAGES)}, 'messages', MESSAGES),
        (
            'chat',
            {'prompt': 'Who are you?', 'response': 'A test.'},
            'messages',
            MESSAGES,
        ),
        (
            'chat',
            {
                'instruction': 'Who',
                'instances': [{'input': 'are you?', 'output': 'A test.'}],
            },
            'messages',
            [{'role': 'user', 'content': 'Who\n\nare you?'}, MESSAGES[1]],
        ),
        (
            'pairs',
            {'prompt': 'Why?', 'chosen': 'So.', 'rejected': 'No.'},
            'pair',
            {
                'prompt': [{'role': 'user', 'content': 'Why?'}],
                'chosen': 'So.',
                'rejected': 'No.',
            },
        ),
        (
            'pairs',
            {
                'chosen': '\n\nHuman: Why?\n\nAssistant: So.\n\nIt is.',
                'rejected': '\n\nHuman: Why?\n\nAssistant: No.',
            },
            'pair',
            {
                'prompt': [{'role': 'user', 'content': 'Why?'}],
                'chosen': 'So.\n\nIt is.',
                'rejected': 'No.',
            },
        ),
        ('labelled', {'text': 'Good.', 'label': 1}, 'label', '1'),
        (
            'translation',
            {'source': 'a', 'target': 'b'},
            'translation',
            {'source': 'a', 'target': 'b'},
        ),
    ],
)
def test_kinds_of_records(tmp_path, read, kind, row, field, value):
    (tmp_path / 'x.jsonl').write_text(json.dumps(row) + '\n{"other": 1}\n')
    made, skipped = read(tmp_path, kind=kind)
    assert [getattr(one, field) for one in made] == [value]
    assert [one.reason for one in skipped] == [f'no {kind}']


def test_labels_and_sides_are_texts_with_something_in_them(tmp_path, read):
    rows = [
        {'text': 'Good.', 'label': 'a', 'text_pair': 5},
        {'text': 'Good.', 'label': None},
        {'text': 'Good.', 'label': {'a': 1}},
        {'text': 'Good.', 'label': 'b'},
    ]
    (tmp_path / 'x.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    made, skipped = read(tmp_path, kind='labelled')
    assert [one.label for one in made] == ['b']
    assert [one.reason for one in skipped] == ['no labelled'] * 3
    rows = [{'source': 'a', 'target': ' '}, {'source': 'a', 'target': 'b'}]
    (tmp_path / 'x.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    made, skipped = read(tmp_path, kind='translation')
    assert [one.source for one in made] == [f'{tmp_path.name}/x.jsonl']
    assert [one.reason for one in skipped] == ['empty']


def test_odd_fields_of_a_record_do_no_harm(tmp_path, read):
    rows = [
        {'text': 'a', 'signals': {'x': 10**400, 'y': float('inf'), 'z': 1}},
        {'text': 'b', 'source': '/'},
        {'text': 'c', 'signals': {'\ud800': 1}},
        {'text': 'd', 'steps': ['\ud800']},
        {'text': 'e', 'id': '\ud800'},
    ]
    (tmp_path / 'x.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    made, skipped = read(tmp_path / 'x.jsonl')
    assert [(one.source, one.signals) for one in made] == [
        ('x.jsonl', {'z': 1.0}),
        ('x.jsonl', {}),
    ]
    assert [one.reason for one in skipped] == ['invalid UTF-8'] * 3


def test_a_long_dialogue_takes_time_in_proportion_to_its_length(tmp_path, read):
    answer = 'a\n\n' * 150_000
    both = {k: f'\n\nHuman: b\n\nAssistant: {answer}{k}' for k in PREFERRED}
    (tmp_path / 'x.jsonl').write_text(json.dumps(both))
    start = time.process_time()
    ((pair,), _) = read(tmp_path, kind='pairs')
    assert pair.pair['chosen'] == f'{answer}chosen'
    assert time.process_time() - start < 2


def test_real_conversations_and_pairs(real_data, read):
    made, skipped = read(real_data('sft/seed_tasks.jsonl'), kind='chat')
    assert (len(made), len(skipped)) == (175, 0)
    assert made[0].id == 'seed_task_0'
    made, skipped = read(real_data('hh_rlhf/harmless_base.jsonl'), kind='pairs')
    # In five, the two texts differ before the last answer; in three, one is empty.
    assert (len(made), len(skipped)) == (1726, 8)


def test_refined_documents_are_read_again(tmp_path, read):
    origin = dict(
        licence='Apache-2.0 AND MIT', language='en', url='http://a.test', unit='u',
        retrieved='2026-01-02T03:04:05Z', evidence='a footer', opt_out='none',
        steps=('normalise:-1',), media='text/plain',
    )  # fmt: skip
    pair = {'prompt': MESSAGES[:1], 'chosen': 'So.', 'rejected': 'No.'}
    contents = {
        'text': {'text': 'Text.'},
        'labelled': {'text': 'Text.', 'label': 'a', 'text_pair': 'b'},
        'chat': {'messages': MESSAGES},
        'pairs': {'pair': pair},
        'translation': {'translation': {'source': 'a', 'target': 'b'}},
    }
    for kind, content in contents.items():
        refined = [
            documents.Document(
                f'id {n}', 'web/a.test', **content, **origin, signals={f'{n}': 1.0}
            )
            for n in range(2)
        ]
        folder = tmp_path / kind
        (folder / 'rejected').mkdir(parents=True)
        (folder / 'rejected' / '0.parquet').write_bytes(b'')
        (folder / 'bad.jsonl').write_text('{}\n')
        refine_files.documents_file(folder / 'p', folder, '0.parquet', refined)
        assert read(folder, kind=kind) == (refined, [])


def test_a_json_of_one_record_and_of_many(tmp_path, read):
    (tmp_path / 'a.json').write_text('{"text": "Alone."}')
    (tmp_path / 'b.json').write_text('[{"text": "One."}, 3, {"text": "Two."}]')
    made, skipped = read(tmp_path)
    assert [one.text for one in made] == ['Alone.', 'One.', 'Two.']
    assert [one.reason for one in skipped] == ['no record']
    assert made[2].id == f'{tmp_path.name}/b.json#2'


def test_books_are_read_in_the_order_of_their_spine(tmp_path, read):
    (tmp_path / 'a.epub').write_bytes(raw_files.zipped(raw_files.book()))
    book = raw_files.book('The text says nothing of itself.')
    book['LICENSE.md'] = b'SPDX-License-Identifier: CC-BY-4.0\n'
    (tmp_path / 'b.tar.gz').write_bytes(raw_files.tarred(book, 'w:gz'))
    made, _ = read(tmp_path, licence='unknown')
    assert len(made) == 2
    for one in made:
        words = one.text.split()
        assert ' '.join(words) == 'First It began & ended. Second It began & ended.'
        assert one.language == 'en'
    assert [one.licence for one in made] == ['CC0-1.0', 'CC-BY-4.0']
    assert made[0].evidence.startswith('dc:rights')
    assert made[1].evidence.startswith('LICENSE.md')
    chapters, _ = read(tmp_path / 'a.epub', books='chapter')
    assert [one.id for one in chapters] == [
        f'a.epub/src/epub/text/{name}.xhtml' for name in 'ba'
    ]


def test_several_books_in_an_archive_are_all_read(tmp_path, read):
    books = {f'{n}/{k}': v for n in 'ab' for k, v in raw_files.book().items()}
    (tmp_path / 'a.zip').write_bytes(raw_files.zipped({**books, 'c.txt': b'Text.'}))
    made, skipped = read(tmp_path)
    assert (len(made), skipped) == (5, [])


def test_a_chapter_that_is_named_again_and_again_is_read_once(tmp_path, read):
    book = raw_files.book()
    name, ref = 'src/epub/content.opf', b'<itemref idref="b"/>'
    book[name] = book[name].replace(ref, ref * 10_000)
    (tmp_path / 'a.epub').write_bytes(raw_files.zipped(book))
    ((found,), _) = read(tmp_path)
    assert len(found.text) < 100


def test_chapters_take_time_in_proportion_to_their_length(tmp_path, read):
    book = raw_files.book()
    book['src/epub/text/a.xhtml'] = b'<p>Text</p><' + b'a' * 200_000
    (tmp_path / 'a.epub').write_bytes(raw_files.zipped(book))
    start = time.process_time()
    assert len(read(tmp_path)[0]) == 1
    assert time.process_time() - start < 5


def test_a_row_that_is_no_text_costs_itself(tmp_path, read):
    binary = pa.array([b'One.', b'\xff', b'Two.'], pa.binary())
    text = pa.StringArray.from_buffers(3, *binary.buffers()[1:])
    pq.write_table(pa.table({'text': text}), tmp_path / 'a.parquet')
    made, skipped = read(tmp_path)
    assert [one.text for one in made] == ['One.', 'Two.']
    assert [one.reason for one in skipped] == ['invalid UTF-8']


def test_a_real_book(real_data, read):
    name = 'standardebooks/h-g-wells_the-time-machine.tar.gz'
    ((book,), skipped) = read(real_data(name), licence='unknown')
    assert not skipped
    assert 'CC0-1.0' in book.licence
    first = book.text.index('The Time Traveller (for so it will be convenient')
    last = book.text.index('gratitude and a mutual tenderness still lived on')
    assert 0 < first < last
    assert '<' not in book.text


def test_source_trees_name_their_licences(tmp_path, read):
    line = 'x = 1\n'
    for name, text in {
        'LICENSE': 'SPDX-License-Identifier: MIT\n',
        'a.py': line,
        'own.py': f'# SPDX-License-Identifier: Apache-2.0\n{line}',
        'sub/COPYING': 'SPDX-License-Identifier: GPL-3.0-only\n',
        'sub/deep/b.c': line,
        'strange/LICENSE': 'You may look at it.',
        'strange/c.go': line,
        'node_modules/c.js': line,
        'd.min.js': line,
        'wide.js': 'x' * 2000,
        'made.py': f'# @generated\n{line}',
        'license.go': line,
        'e.png': line,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / 'binary.c').write_bytes(b'\0\1\2')
    archive = raw_files.zipped(
        {'r/LICENSE': (tmp_path / 'LICENSE').read_bytes(), 'r/f.py': b'y'}
    )
    (tmp_path / 'z.zip').write_bytes(archive)
    made, skipped = read(tmp_path, kind='code', licence='unknown')
    found = {one.id.partition('/')[2]: one.licence for one in made}
    assert found == {
        'a.py': 'MIT',
        'license.go': 'MIT',
        'own.py': 'Apache-2.0',
        'sub/deep/b.c': 'GPL-3.0-only',
        'strange/c.go': 'unknown',
        'z.zip/r/f.py': 'MIT',
    }
    assert made[0].evidence.startswith('LICENSE: ')
    reasons = {one.source.rpartition('/')[2]: one.reason for one in skipped}
    expected = {'wide.js': 'minified', 'made.py': 'generated'}
    assert reasons == {**expected, 'binary.c': 'invalid UTF-8'}


def test_a_pdf_is_read_and_an_encrypted_one_is_not(tmp_path, read):
    (tmp_path / 'a.pdf').write_bytes(raw_files.pdf('Hello river'))
    ((document,), _) = read(tmp_path)
    assert document.text.split() == ['Hello', 'river']
    writer = pypdf.PdfWriter(io.BytesIO(raw_files.pdf()))
    writer.encrypt('secret', algorithm='RC4-40')
    with (tmp_path / 'a.pdf').open('wb') as file:
        writer.write(file)
    made, skipped = read(tmp_path)
    assert not made
    assert [one.reason for one in skipped] == ['encrypted']


WIKITEXT = """{{Infobox|a={{nested|[[x]]}}|b}}'''The river''' is a [[a|stream]] in
[[Utopia]].&lt;ref name="a"&gt;{{cite|x}}&lt;/ref&gt; It runs.&lt;ref name="a" /&gt;
[[Datei:a.jpg|thumb|A [[bridge]]]] [[File:b.jpg]]
== History ==
{| class="wikitable"
! a
|}
* One [https://a.test/x label] &lt;!-- hidden [[ --&gt;and &amp;amp; more
[[Category:Rivers]]"""


def test_articles_lose_their_markup(tmp_path, read):
    (tmp_path / 'w.xml').write_text(raw_files.WIKI.format(text=WIKITEXT))
    ((article,), skipped) = read(tmp_path)
    assert not skipped
    assert article.text.split('\n') == [
        'The river', '', 'The river is a stream in', 'Utopia. It runs.', '',
        'History', '', 'One label and & more',
    ]  # fmt: skip
    assert article.id == 'xwiki/7'
    assert article.url == 'https://x.wiki.test/wiki/The_river'
    assert article.retrieved is None


def test_plain_wikitext_is_what_mwparserfromhell_makes():
    text = (
        "'''Bold''' and ''italic'' [[link]]s, [[a (b)|labels]], <b>tags</b>, "
        '[http://a.test ours], {{t|x}}&nbsp;entities and <!-- no --> comments.'
    )
    expected = mwparserfromhell.parse(text).strip_code()
    assert wiki.plain(text, set()).split() == expected.split()


HOSTILE = [
    '{{a|',
    '[[a|',
    '<ref>',
    '[http://a ',
    '[//' + 'a' * 100_000,
    '\n ',
    '<ref ',
    '{|\n|',
    "'''''",
    '<',
]


@pytest.mark.parametrize('piece', HOSTILE, ids=lambda piece: piece[:9])
def test_wikitext_takes_time_in_proportion_to_its_length(piece):
    """mwparserfromhell needs minutes for some of these; a square would, too."""
    start = time.process_time()
    wiki.plain(piece * max(1, 100_000 // len(piece)), set())
    assert time.process_time() - start < 5


def test_a_dump_with_entities_is_refused(tmp_path, read):
    bomb = '<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    (tmp_path / 'w.xml').write_text(bomb + raw_files.WIKI.format(text='&b;'))
    (tmp_path / 'x.xml').write_text('<other/>')
    made, skipped = read(tmp_path)
    assert not made
    assert [one.reason for one in skipped] == [
        'a document type, which dumps do not have',
        'no dump of MediaWiki',
    ]


def test_times_are_utc_or_nothing():
    assert record.utc('2020-08-08T17:27:41Z') == '2020-08-08T17:27:41Z'
    assert record.utc('2020-08-08') == '2020-08-08T00:00:00Z'
    assert record.utc('0001-01-01T00:00:00+23:00') is None
    assert record.utc('0987-01-01') == '0987-01-01T00:00:00Z'
    assert record.utc(1_600_000_000) is None


def test_a_document_has_a_largest_size(tmp_path, read, monkeypatch):
    monkeypatch.setattr(item, 'LIMIT', 1000)
    (tmp_path / 'a.txt').write_text('x' * 1001)
    (tmp_path / 'b.jsonl.gz').write_bytes(
        gzip.compress(b'{"text": "%s"}\n{"text": "ok"}' % (b'x' * 1001))
    )
    made, skipped = read(tmp_path)
    assert [one.text for one in made] == ['ok']
    assert [one.reason for one in skipped] == ['too large', 'too large']
