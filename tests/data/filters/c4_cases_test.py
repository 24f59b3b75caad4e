"""C4's filters against the published cases of TFDS, with their counters."""

import json
from pathlib import Path

import pytest

from gptjax import command
from gptjax.data import documents, steps
from gptjax.data.dedup import table as dedup
from gptjax.data.filters import c4, page, table
from gptjax.data.read import table as read

CASES = json.loads(
    Path(__file__).parents[2].joinpath('golden/filters_c4.json').read_text()
)


@pytest.mark.parametrize('case', CASES['pages'], ids=lambda case: case['name'])
def test_the_published_pages(case):
    bad = c4.bad_words(case['bad_words'])
    found, counters = c4.clean_page(case['text'], c4.CODE, bad)
    assert counters == case['counters']
    assert (found if isinstance(found, str) else None) == case['clean']


def test_the_published_duplicate_lines():
    step = dedup.STEPS['exact'](
        unit='line', normalise='case', keep='url', sentences_least=3
    )
    pages = [
        documents.Document(f'{url}-id', 'web/page', 'MIT', text=text, url=url)
        for url, text, _ in CASES['lines']
    ]
    found = steps.in_memory(step, pages)
    texts = {page.url: getattr(result, 'text', None) for page, result in found}
    assert texts == {url: left for url, _, left in CASES['lines']}


def test_the_published_file_of_pages(tmp_path):
    """Two pages, and a record without an address that is none."""
    (tmp_path / 'cc_0.warc.wet').write_text(CASES['wet']['file'])
    reader = read.READERS['files'](
        str(tmp_path), licence='MIT', kind='text', books='whole', verify=False
    )
    found = [page for unit in reader.units() for page in reader.read(unit)]
    assert [[page.url, page.text] for page in found] == CASES['wet']['pages']


def test_the_step_counts_lines_and_gives_reasons(tmp_path):
    words = tmp_path / 'words.txt'
    words.write_text('Ass\n')
    step = command.splat(
        table.STEPS['c4_code'], 'c4_code', dict(bad_words_file=str(words))
    )

    def result(text):
        return step(documents.Document('id', 'web/page', 'MIT', text=text))

    reasons = {
        'lorem_ipsum': 1, 'curly_bracket': 4, 'bad_word': 4, 'sentences_least': 2,
    }  # fmt: skip
    seen = set()
    for case in CASES['pages']:
        found = result(case['text'])
        if case['clean'] is None:
            assert found.value == reasons[found.reason]
            seen.add(found.reason)
        elif 'badwords' not in case['name']:
            assert found.text == case['clean']
            lines = found.signals['c4_code.lines-valid']
            assert lines == case['counters']['lines-valid']
    assert seen == set(reasons)
    assert result('x' * 190_001) == documents.Reject('characters_most', 190_001.0)


@pytest.mark.parametrize(
    ('line', 'found'),
    [
        ('he took his ass.', True), ('ass is where it begins.', False),
        ('it ends with ass', False), ('an assistant, a cutlass.', False),
        ('a hot pocket.', True), ('a hotpocket.', False), ('a hot pockets.', False),
        ('see 2g1c now.', True), ('see 12g1c now.', True), ('see a2g1c now.', False),
        ('so 🖕 it is.', True), ('x🖕a but 🖕 b', True), ('🖕 a🖕', False),
        ('as[1]s.', False), ('a.ass.', True),
    ],
)  # fmt: skip
def test_bad_words_stand_between_what_is_no_letter(line, found):
    assert c4.bad_words(['ass', 'hot pocket', '2g1c', '🖕'])(line) is found


def test_many_bad_words_cost_no_time_per_word():
    """100,000 words against a line of a million letters: no product of the two."""
    found = c4.bad_words(f'w{"x" * (n % 50)}{n}' for n in range(100_000))
    assert not found('a ' * 500_000)


@pytest.mark.parametrize(
    ('text', 'parts'),
    [
        ('', []),
        ('One.', ['One.']),
        (
            'One. Two! Three? (Four.) "Five."',
            ['One.', 'Two!', 'Three?', '(Four.)', '"Five."'],
        ),
        ('Dr. Roberts met J. Smith, e.g. here. Then it was over.', 2),
        ('It is 3.14, or ... but no. and on it goes.', 1),
        ('U.S. is a name. Vitamin C. is not I. So?', 3),
        ('東京は大きい。人が多い\uff01「そう\uff1f」本当。', 4),
        ('No end', 1),
    ],
)
def test_sentences(text, parts):
    spans = page.sentences(text)
    found = [text[start:end].strip() for start, end in spans]
    assert found == parts if isinstance(parts, list) else len(found) == parts
    assert ''.join(text[start:end] for start, end in spans) == text
