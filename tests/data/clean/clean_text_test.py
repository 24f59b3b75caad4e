"""Characters, white space and boilerplate."""

import random
import time

import ftfy
import pytest

from gptjax import command
from gptjax.data import documents
from gptjax.data.clean import text as clean

DEFAULT = {'ftfy': True, 'form': 'NFC', 'spaces': True}


def document(text):
    return documents.Document(id='a', source='web/a', licence='CC0-1.0', text=text)


def normalised(text, **options):
    return clean.normalise(**{**DEFAULT, **options})(document(text)).text


@pytest.mark.parametrize(
    ('given', 'wanted'),
    [
        ('one\r\ntwo\rthree\x0bfour\u2028five', 'one\ntwo\nthree\nfour\nfive'),
        ('soft\xadware zero\u200bwidth \ufeffbom', 'software zerowidth bom'),
        ('\x1b[31mred\x1b[0m bell\x07', 'red bell'),
        ('a\xa0b\u3000c \t d  ', 'a b c d'),
        ('  kept  indent', '  kept indent'),
        ('e\u0301', 'é'),
        ('\ufb01ne “quotes” &amp; \uff46', '\ufb01ne “quotes” &amp; \uff46'),
        ('من\u200cش 👩\u200d👧', 'من\u200cش 👩\u200d👧'),
        ('half \ud83d pair', 'half \ufffd pair'),
        ('a pair \ud83d\ude00', 'a pair 😀'),
        ('a\n\n\n\n\nb \n', 'a\n\nb'),
        ('âœ” No problems, humanitÃ©', '✔ No problems, humanité'),
    ],
)  # fmt: skip
def test_what_is_repaired_and_what_is_kept(given, wanted):
    assert normalised(given) == wanted


def test_options():
    assert normalised('x  =  1', spaces=False) == 'x  =  1'
    assert normalised('\ufb01\uff46', form='NFKC') == 'fif'
    assert normalised('e\u0301', form=None) == 'e\u0301'
    assert normalised('lâ€™eau', ftfy=False) == 'lâ€™eau'
    # A million marks out of order: minutes, if they were all sorted.
    marks = '\u0301\u0323' * 500_000
    assert normalised(f'a{marks}') == '\u1ea1' + '\u0323' * 14 + '\u0301' * 15
    with pytest.raises(command.UserError, match='NFD'):
        clean.normalise(**{**DEFAULT, 'form': 'NFD'})


def test_encodings_are_repaired_as_ftfy_does_line_by_line():
    """Lines that it leaves are skipped for speed: the result must be its own."""
    rng = random.Random(0)
    words = [
        'naïve',
        'Ä',
        '—',
        '\u2019',
        'été',
        'plain',
        '漢字',
        '“so”',
        'ñ',
        '…',
        '☃',
        'œ',
    ]
    lines = []
    for _ in range(300):
        line = ' '.join(rng.choices(words, k=5))
        for encoding in rng.choices(['', 'latin-1', 'cp1252', 'cp437'], k=2):
            if encoding:
                line = line.encode().decode(encoding, 'replace')
        lines.append(line)
    text = '\n'.join(lines)
    config = ftfy.TextFixerConfig(
        unescape_html=False, remove_terminal_escapes=False, fix_latin_ligatures=False,
        fix_character_width=False, uncurl_quotes=False, fix_line_breaks=False,
        fix_surrogates=False, remove_control_chars=False, normalization=None,
    )  # fmt: skip
    assert clean._decoder()(text) == ftfy.fix_text(text, config)
    assert clean._decoder()(text) != text


def test_normalising_twice_is_normalising_once():
    rng = random.Random(1)
    letters = 'ab \t\n\r\x0b\x85\xa0\xad\u200b\u0301\u2003\ufeff\ufb01é\u3000\x07.'
    for form in ('NFC', 'NFKC'):
        step = clean.normalise(ftfy=True, form=form, spaces=True)
        for _ in range(200):
            once = step(document('x' + ''.join(rng.choices(letters, k=40))))
            assert step(document(once.text)).text == once.text


def test_time_is_linear_in_the_text():
    """A long run of spaces inside a line: sixteen times takes no 256 times as long."""
    step = clean.normalise(ftfy=True, form='NFC', spaces=False)

    def seconds(size):
        text = 'a' + ' ' * size + 'b'
        start = time.process_time()
        assert step(document(text)).text == text
        return time.process_time() - start

    assert seconds(64_000) < 100 * min(seconds(4_000) for _ in range(3)) + 0.05


def test_what_is_empty_then_is_rejected():
    step = clean.normalise(**DEFAULT)
    assert step(document(' \u200b\n')) == documents.Reject('empty', 0.0)


@pytest.mark.parametrize('name', ['1342.txt', 'pandp10.txt'])
def test_books_of_project_gutenberg_begin_and_end_with_the_book(real_data, name):
    text = real_data(f'gutenberg_editions/{name}').read_text('utf-8-sig')
    step = clean.boilerplate(gutenberg=True, edges=0, repeated=None)
    book = step(document(text)).text
    assert book.lower().startswith('pride and prejudice\n\nby jane austen\n')
    assert ' '.join(book.split()).endswith('been the means of uniting them.')
    assert 'gutenberg' not in book.lower()
    assert 0.97 < len(book) / len(text) < 0.99


PAGE = """Home | About us | Contact
Skip to content
The bridge was built in 1873 of iron.
Reply
We use cookies in the kitchen, she said, and nobody minded.
Reply
It is still in use.
Reply
We use cookies to give you the best experience.
© 2019 The Example Company. All rights reserved."""


def test_menus_and_notices_go_from_the_edges_only():
    step = clean.boilerplate(gutenberg=False, edges=2, repeated=None)
    assert step(document(PAGE)).text == '\n'.join(PAGE.split('\n')[2:8])
    whole = clean.boilerplate(gutenberg=True, edges=0, repeated=None)
    given = document(PAGE)
    assert whole(given) is given


def test_repeated_labels_go():
    step = clean.boilerplate(gutenberg=False, edges=0, repeated=3)
    assert 'Reply' not in step(document(PAGE)).text
    four = clean.boilerplate(gutenberg=False, edges=0, repeated=4)
    assert four(document(PAGE)).text == PAGE
    refrain = document('Yes.\nNo\nYes.\nYes.\n}\n}\n}')
    assert step(refrain) is refrain


def test_length():
    step = clean.length(least=3, most=5)
    assert step(document('ab')) == documents.Reject('short', 2.0)
    assert step(document('abcdef')) == documents.Reject('long', 6.0)
    assert step(document('abcde')).text == 'abcde'
    assert clean.length(least=0, most=None)(document('a' * 99)).text
    with pytest.raises(command.UserError, match='no document is left'):
        clean.length(least=5, most=3)


def test_wrong_options_of_boilerplate():
    for edges, repeated in ((-1, None), (0, 1)):
        with pytest.raises(command.UserError, match=f'edges={edges}'):
            clean.boilerplate(gutenberg=False, edges=edges, repeated=repeated)
