"""BERT's tokenizer as its paper's code describes it, character by character.

An independent reference: Devlin et al. (2019), "uncased". Clean the text, set Chinese
characters apart, lower case, take accents away, cut at white space and punctuation, and
of each word take the longest known piece, again and again, or `[UNK]` for the whole. As
in the tokenizers library, each character is lowered by itself (at the end of a word,
Python writes a sigma in another way) and private characters are taken away.
"""

from collections.abc import Iterator, Mapping
import unicodedata

CHINESE = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
LONGEST = 100


def encode(text: str, vocab: Mapping[str, int]) -> list[int]:
    """The ids of a text, without [CLS] and [SEP]."""
    return [token for word in _words(text) for token in _pieces(word, vocab)]


def _words(text: str) -> Iterator[str]:
    cleaned = ''.join(_clean(character) for character in text)
    lowered = unicodedata.normalize('NFD', cleaned)
    bare = (c.lower() for c in lowered if unicodedata.category(c) != 'Mn')
    for word in ''.join(bare).split():
        start = 0
        for place, character in enumerate(word):
            if _punctuation(character):
                if start < place:
                    yield word[start:place]
                yield character
                start = place + 1
        if start < len(word):
            yield word[start:]


def _clean(character: str) -> str:
    code = ord(character)
    if character in ' \t\n\r' or unicodedata.category(character) == 'Zs':
        return ' '
    if code in (0, 0xFFFD) or unicodedata.category(character) in ('Cc', 'Cf', 'Co'):
        return ''
    if any(first <= code <= last for first, last in CHINESE):
        return f' {character} '
    return character


def _punctuation(character: str) -> bool:
    ascii_marks = character.isascii() and not character.isalnum()
    return ascii_marks or unicodedata.category(character).startswith('P')


def _pieces(word: str, vocab: Mapping[str, int]) -> list[int]:
    found: list[int] = []
    start = 0
    while start < len(word) <= LONGEST:
        mark = '##' if start else ''
        ends = range(len(word), start, -1)
        end = next((e for e in ends if mark + word[start:e] in vocab), None)
        if end is None:
            break
        found.append(vocab[mark + word[start:end]])
        start = end
    return found if start == len(word) else [vocab['[UNK]']]
