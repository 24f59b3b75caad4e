import random

import pytest

from gptjax import command
from gptjax.text import stream


def _pieces(tokenizer, ids, stop, rng):
    made = stream.TextStream(tokenizer, stop)
    pieces, start = [], 0
    while start < len(ids):
        size = rng.choice([1, 1, 2, 3, 7])
        pieces.append(made.push(ids[start : start + size]))
        start += size
    return [*pieces, made.finish()], made.stopped


def _cut(text, stop):
    """The text before the stop string that a reader of single letters sees first."""
    for n in range(len(text) + 1):
        ends = [s for s in stop if text.endswith(s, 0, n)]
        if ends:
            return text[: n - max(map(len, ends))], True
    return text, False


def test_pieces_join_to_the_whole(tokenizer, hard_texts):
    rng = random.Random(0)
    for text in (*hard_texts[:60], *hard_texts[60::3]):
        ids = tokenizer.encode(text)
        at = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        stop = [s for s in (text[slice(*at)], 'zz', text[-3:]) if s]
        stop = rng.sample(stop, rng.randrange(len(stop) + 1))
        pieces, stopped = _pieces(tokenizer, ids, stop, rng)
        assert (''.join(pieces), stopped) == _cut(text, stop)


def test_any_bytes_stream_as_they_decode(tokenizers):
    rng, made = random.Random(0), tokenizers['bytes']
    some = [*b'ab\xf0\x9f\x8c\x8d\xe2\x82\xac\xc3\xa9\xff\x80\xed\xa0', 256]
    for _ in range(500):
        ids = rng.choices(some, k=rng.randrange(30))
        stop = rng.sample(['a\ufffd', '\ufffd', 'bb', 'abab', 'é', '🌍a'], 2)
        pieces, stopped = _pieces(made, ids, stop, rng)
        assert (''.join(pieces), stopped) == _cut(made.decode(ids), stop)


def test_no_piece_waits_longer_than_it_must(tokenizers):
    made = stream.TextStream(tokenizers['bytes'], ['stop', '\n\n'])
    pushed = [
        (b'a', 'a'),
        (b's', ''),
        (b't', ''),
        (b'x', 'stx'),
        ('é'.encode()[:1], ''),
    ]
    pushed += [('é'.encode()[1:], 'é'), (b'ss', 's'), (b'to', ''), (b'p!', '')]
    for data, expected in pushed:
        assert not made.stopped
        assert made.push(list(data)) == expected
    assert made.stopped
    assert made.push(list(b'more')) == ''
    assert made.finish() == ''


def test_the_stop_string_that_is_complete_first_counts(tokenizers):
    for size in (1, 4):
        made = stream.TextStream(tokenizers['bytes'], ['abcd', 'bc'])
        text = ''.join(
            made.push(list(b'abcd'[i : i + size])) for i in range(0, 4, size)
        )
        assert text + made.finish() == 'a'


def test_the_end_of_the_text_is_not_lost(tokenizers):
    made = stream.TextStream(tokenizers['bytes'], ['stop'])
    assert made.push(list(b'do not sto\xf0\x9f')) == 'do not '
    assert made.finish() == 'sto\ufffd'
    assert not made.stopped
    assert made.finish() == ''


def test_an_empty_stop_string_is_refused(tokenizers):
    with pytest.raises(command.UserError, match='stop string is empty'):
        stream.TextStream(tokenizers['bytes'], ['x', ''])
