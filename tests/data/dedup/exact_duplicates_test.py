"""Copies of documents, paragraphs and lines, and what C4 was built with."""

import random

import pytest

from gptjax import command
from gptjax.data import documents, steps
from gptjax.data.dedup import exact


def document(identity, text, **also):
    return documents.Document(identity, 'test', 'CC0-1.0', text=text, **also)


def run(found, **options):
    """What becomes of each document, by id."""
    group = exact.Exact(**{'normalise': 'none', 'keep': 'id', **options})
    return {one.id: after for one, after in steps.in_memory(group, found)}


# Inputs of tensorflow/datasets, text/c4_utils_test.py (Apache-2.0).
C4 = {
    'url/1-0': 'This is a duplicated line.\nThis is a unique line.\n'
    'This one comes first and so it stays.\n'
    'This is duplicate within the page so the others are removed.\n'
    'Here is a sentence between the duplicates.\n'
    'This is duplicate within the page so the others are removed.\n'
    'this is Duplicate WITHIN the page so the others are removed. ',
    'url/2-1': 'This is 2nd unique line.\nThis one comes second so it is '
    'removed even though the capitalizaiton is different.\n'
    'this is a Duplicated line. ',
    'url/3-4': 'This is a 3rd unique line.\nThis is a duplicated line.\n'
    'This one comes third and so it is removed. But the page stays '
    'because there are still 3 sentences remaining.',
    'url/4-4': 'This is a 4th unique line.\nThis is a duplicated line.\n'
    'This one comes third and so it is removed, and the page is too '
    "since there aren't enough sentences left.",
}


def test_the_published_case_of_c4():
    found = [document(url, text, url=url) for url, text in C4.items()]
    result = run(found, unit='line', normalise='case', keep='url', sentences_least=3)
    first, third = C4['url/1-0'].split('\n'), C4['url/3-4'].split('\n')
    assert result['url/1-0'].text == '\n'.join(first[:5])
    assert result['url/3-4'].text == '\n'.join([third[0], third[2]])
    assert result['url/2-1'] == documents.Reject('sentences', 2.0)
    assert result['url/4-4'] == documents.Reject('sentences', 2.0)


def test_one_of_equal_documents_stays_whatever_the_order():
    found = [document(str(n), f'text {n % 3}') for n in range(30)]
    expected = run(found, unit='document')
    kept = {name for name, after in expected.items() if not rejected(after)}
    for rest in range(3):
        same = [str(n) for n in range(30) if n % 3 == rest]
        (one,) = kept & {*same}
        assert one == min(same, key=documents.key)
        others = {*same} - {one}
        assert {expected[n] for n in others} == {documents.Reject('duplicate', one)}
    random.Random(0).shuffle(found)
    assert run(found, unit='document') == expected


def rejected(after):
    return isinstance(after, documents.Reject)


@pytest.mark.parametrize(
    ('normalise', 'equal'),
    [('none', set()), ('case', {' a B.\n'}), ('words', {' a B.\n', 'a, b'})],
)
def test_what_counts_as_equal(normalise, equal):
    for text in ('ab', ' a B.\n', 'a, b', 'b a'):
        found = [document('0', 'A b.'), document('1', text)]
        left = run(found, unit='document', normalise=normalise).values()
        assert any(map(rejected, left)) == (text in equal)


def test_empty_documents_and_blank_lines_are_no_duplicates():
    found = [document('0', ''), document('1', ' '), document('2', '')]
    assert not any(map(rejected, run(found, unit='document').values()))
    text = '\n\nx\n\n \n\ny'
    assert run([document('0', text)], unit='line')['0'].text == text


def test_a_line_stays_once_in_all_documents():
    found = [document(str(n), f'same\n{n}\nsame\n\nmore {n}') for n in range(20)]
    result = run(found, unit='line')
    first = min(map(str, range(20)), key=documents.key)
    assert result[first].text == f'same\n{first}\n\nmore {first}'
    for name, after in result.items():
        assert name == first or after.text == f'{name}\n\nmore {name}'


def test_paragraphs_are_cut_with_the_blank_lines_before_them():
    found = [
        document('0', 'a\nb\n\nc\n \nd'),
        document('1', 'new\n\na\nb\n\n\nc\n\nb'),
    ]
    first = min('01', key=documents.key)
    result = run(found, unit='paragraph')
    if first == '0':
        assert result['1'].text == 'new\n\nb'
    else:
        assert result['0'].text == 'd'
    assert result[first] is found[int(first)]


def test_what_is_left_of_a_text():
    found = [document(str(n), 'same\n' + 'x' * n) for n in range(6)]
    result = run(found, unit='line', characters_least=3)
    first = min(map(str, range(6)), key=documents.key)
    for n in range(6):
        if str(n) == first:
            continue
        after = result[str(n)]
        if n == 0:
            assert after == documents.Reject('nothing left')
        elif n < 3:
            assert after == documents.Reject('characters', float(n))
        else:
            assert after.text == 'x' * n


@pytest.mark.parametrize(
    ('text', 'sentences'),
    [
        ('No end', 1),
        ('One. Two', 2),
        ('3.14 and v1.2!', 1),
        ('"What?" he... asked.) "Yes." ', 4),
        pytest.param('!' * 200_000 + 'x', 1, id='marks'),
        ('\u4e2d\u3002\u6587\uff1f', 2),
    ],
)
def test_sentences(text, sentences):
    kept, cut = sorted('ab', key=documents.key)
    found = [document(kept, 'same'), document(cut, f'same\n{text}')]
    for least in (sentences, sentences + 1):
        after = run(found, unit='line', sentences_least=least)[cut]
        if least > sentences:
            assert after == documents.Reject('sentences', float(sentences))
        else:
            assert after.text == text


def test_conversations_are_whole_or_not_at_all():
    messages = [{'role': 'user', 'content': 'Hi'}]
    found = [
        documents.Document(name, 'test', 'CC0-1.0', messages=messages) for name in 'jd'
    ]
    texts = [document(name, 'Hi\n' + name) for name in 'fcbe']
    result = run([*found, *texts], unit='line')
    assert sum(after.messages is not None for after in result.values()) == 2
    first = min('fcbe', key=documents.key)
    assert first != min('jdfcbe', key=documents.key)
    assert result[first].text == f'Hi\n{first}'
    assert sum(map(rejected, run(found, unit='document').values())) == 1


@pytest.mark.parametrize('option', ['unit', 'normalise', 'keep'])
def test_unknown_options(option):
    with pytest.raises(command.UserError, match='of exact'):
        run([], **{'unit': 'line', option: 'x'})
