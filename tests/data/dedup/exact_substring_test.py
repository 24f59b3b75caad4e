"""Repeats of tokens against a dictionary of all windows."""

import random

import pytest

from gptjax import command
from gptjax.data import documents, steps
from gptjax.data.dedup import hashes, substring
from gptjax.text import table

LONG = 50


def document(identity, text):
    return documents.Document(identity, 'test', 'CC0-1.0', text=text)


def run(found, tokens=LONG, tokenizer=None):
    group = substring.Substring(tokens=tokens, tokenizer=tokenizer)
    return {one.id: after for one, after in steps.in_memory(group, found)}


def brute(found, length):
    """The texts after the rule, by a dictionary of all windows of their tokens."""
    first, left = {}, {}
    for one in sorted(found, key=lambda one: one.key):
        raw, starts, ends = hashes.pieces(one.text)
        lost = set()
        for place in range(len(starts) - length + 1):
            window = raw[starts[place] : ends[place + length - 1]].tobytes()
            name, start = first.setdefault(window, (one.id, place))
            if (name, start) != (one.id, place):
                after = start + length if name == one.id else 0
                lost |= {*range(max(place, after), place + length)}
        edges = [*starts, len(raw)]
        kept = raw[: edges[0]].tobytes() if len(starts) else raw.tobytes()
        for number in range(len(starts)):
            if number not in lost:
                kept += raw[edges[number] : edges[number + 1]].tobytes()
        left[one.id] = kept.decode()
    return left


def check(found, tokens):
    expected = brute(found, tokens)
    result = run(found, tokens)
    for name, text in expected.items():
        after = result[name]
        if isinstance(after, documents.Reject):
            assert after == documents.Reject('nothing left')
            assert not text.strip()
        else:
            assert after.text == text
    return expected


def test_planted_repeats_are_cut_and_nothing_else():
    drawn = random.Random(0)
    words = [f'{w}{mark}' for w in range(3000) for mark in ('', 'é', '中', '.')]
    spaces = [' ', '\n', '  ', '\n\n']

    def some(count):
        tokens = drawn.choices(words, k=count)
        return ''.join(token + drawn.choice(spaces) for token in tokens)

    for _ in range(4):
        shared = [some(size) for size in (48, 60, 200)]
        found = []
        for number in range(12):
            parts = [some(drawn.randrange(80))]
            for part in drawn.sample(shared, 2):
                parts += [part, some(drawn.randrange(80))]
            found.append(document(str(number), ''.join(parts)))
        expected = check(found, LONG)
        assert sum(map(len, expected.values())) < 0.8 * sum(
            len(one.text) for one in found
        )


def test_small_alphabets_and_short_windows():
    drawn = random.Random(1)
    for tokens in (2, 3, 5, 8):
        for letters in (1, 2, 3):
            found = [
                document(str(n), ' '.join(drawn.choices('abc'[:letters], k=40)))
                for n in range(4)
            ]
            check(found, tokens)


@pytest.mark.parametrize('count', [LONG - 1, LONG, LONG + 1])
def test_the_least_repeat_that_is_cut(count):
    same = ' '.join(f's{n}' for n in range(count))
    first, second = sorted('ab', key=documents.key)
    found = [document(name, f'{name}1 {same} {name}2') for name in 'ab']
    result = run(found)
    assert result[first].text == f'{first}1 {same} {first}2'
    if count < LONG:
        assert result[second].text == f'{second}1 {same} {second}2'
    else:
        assert result[second].text == f'{second}1 {second}2'


def test_a_document_that_is_wholly_a_repeat_is_rejected():
    same = ' '.join(f's{n}' for n in range(80))
    result = run([document('a', same), document('b', f' {same}\n')])
    (reject,) = (x for x in result.values() if isinstance(x, documents.Reject))
    assert reject == documents.Reject('nothing left')


def test_what_repeats_itself_stays_once():
    (after,) = run([document('a', 'ha ' * 500)]).values()
    assert after.text == 'ha ' * LONG
    line = ' '.join(f's{n}' for n in range(60)) + '\n'
    (after,) = run([document('a', line * 3 + 'end')]).values()
    assert after.text == line + 'end'


def test_order_of_reading_changes_nothing():
    drawn = random.Random(3)
    shared = ' '.join(f's{n}' for n in range(90))
    found = [
        document(str(n), f'{n} {shared[drawn.randrange(60) :]} {n}') for n in range(9)
    ]
    expected = run(found)
    drawn.shuffle(found)
    assert run(found) == expected


def test_a_window_too_long_to_be_text_stays():
    blob = ' '.join('x' * 1000 + str(n) for n in range(60))
    result = run([document('a', blob), document('b', blob)])
    assert all(after.text == blob for after in result.values())


def test_tokens_of_a_tokenizer_never_split_a_character():
    """Bytes as tokens: what surrounds the repeat shares a byte with it on each side."""
    same = ''.join(map(chr, range(0x4E00, 0x4E28)))
    texts = {'a': f'1\u00e9{same}\u00fc', 'b': f'2\u0129{same}\u00f1'}
    assert texts['a'].encode()[2] == texts['b'].encode()[2]
    first, second = sorted('ab', key=documents.key)
    result = run(
        [document(name, text) for name, text in texts.items()],
        tokenizer={'name': 'bytes'},
    )
    assert result[first].text == texts[first]
    assert result[second].text == texts[second].replace(same, '')


def test_options_that_make_no_sense(tmp_path):
    with pytest.raises(command.UserError, match='tokens is 1; it needs'):
        substring.Substring(tokens=1, tokenizer=None)
    with pytest.raises(command.UserError, match='lacks name'):
        substring.Substring(tokens=50, tokenizer={})
    texts = ['the cat and the dog'] * 20
    made = table.make(lambda: texts, 'sentencepiece', model_type='bpe', vocab_size=300)
    made.save(tmp_path)
    folder = {'name': 'folder', 'path': str(tmp_path)}
    substring.Substring(tokens=50, tokenizer=folder)


def test_conversations_are_whole():
    messages = [{'role': 'user', 'content': 'ha ' * 200}]
    found = [
        documents.Document(name, 'test', 'CC0-1.0', messages=messages) for name in 'ab'
    ]
    result = run(found)
    assert all(result[one.id] is one for one in found)
