"""What filters look at in a text: words, sentences, lines, each found once.

The splitters are patterns, so that nothing is downloaded. Where they differ from NLTK
and spaCy: "don't" is three words (don, ', t) and there two (do, n't), "well-known" is
three and in NLTK one, "U.S." is four; a run of marks ("?!", "...") is one word. A
language that is written without spaces needs another splitter: here a run of its
letters is one word, and filters by the length of words reject it.
"""

from collections.abc import Callable
import functools
import re
import string
import sys

import numpy as np

from gptjax.data.filters import grams

_WORD = re.compile(r'\w+|[^\w\s]+')
_WORDLY, _MARKLY, _LETTER, _PLAIN = 1, 2, 4, 8  # what a character is
# End marks, quotes and brackets that close, and white space, which only marks of
# Chinese and Japanese do without. Possessive, and only where a run of marks begins: the
# time is linear in any text.
_MARK = r'[.?!\u2026\u3002\uff01\uff1f]'
_END = re.compile(
    rf'{_MARK}(?<!{_MARK}.){_MARK}*+["\'\u201d\u2019\u00bb)\]\u300d\u300f\uff09]*+'
    r'(?:\s++|(?<=[\u3002\uff01\uff1f\u300d\u300f\uff09]))'
)
_ABBREVIATIONS = frozenset(
    (
        'mr', 'mrs', 'ms', 'dr', 'prof', 'rev', 'gen', 'sen', 'rep', 'gov', 'capt',
        'lt', 'sgt', 'hon', 'st', 'jr', 'messrs', 'mt', 'vs', 'fig', 'vol', 'pp',
        'approx', 'dept', 'inc', 'ltd', 'co', 'corp', 'e.g', 'i.e', 'u.s', 'u.k', 'jan',
        'feb', 'mar', 'apr', 'aug', 'sep', 'sept', 'oct', 'nov', 'dec',
    )
)  # fmt: skip
# Unicode's Sentence_Terminal, version 15: code points in hexadecimal.
_TERMINAL = """
21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368
166e 1735-1736 17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f
1b7d-1b7e 1c3b-1c3c 1c7e-1c7f 203c-203d 2047-2049 2e2e 2e3c 2e53-2e54 3002 a4ff
a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52
fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048
110be-110c1 11141-11143 111c5-111c6 111cd 111de-111df 11238-11239 1123b-1123c 112a9
1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946 11a42-11a43
11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44
16e98 1bc9f 1da88
"""
# Control characters, and marks of web pages in several scripts (CCNet's list).
_MARKS = """
0-8 b-1f 7f-9f ab b4 bb 2013-2014 2019 201c-201e 2026 2236 2501 25ba 3001 3008-300d
3010-3011 ff05 ff08-ff09 ff0c ff11 ff1a-ff1b ff5e
"""


def _points(ranges: str) -> str:
    pairs = (part.partition('-') for part in ranges.split())
    return ''.join(
        chr(code)
        for first, _, last in pairs
        for code in range(int(first, 16), int(last or first, 16) + 1)
    )


TERMINAL = frozenset(_points(_TERMINAL))
PUNCTUATION = TERMINAL | frozenset(string.punctuation + _points(_MARKS))


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, and runs of other visible marks."""
    return _WORD.findall(text)


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence; all characters belong to one.

    One ends with end marks, closing quotes and brackets, and white space, unless a
    small letter follows or the word before is an initial or a known abbreviation; after
    the full stops of Chinese and Japanese no space is needed. NLTK's punkt has learnt
    its abbreviations from text; here they are few and English.
    """
    ends = [m.end() for m in _END.finditer(text) if _divides(text, m)]
    ends = [*ends, len(text)]
    return list(zip([0, *ends[:-1]], ends, strict=True)) if text else []


def _divides(text: str, mark: re.Match[str]) -> bool:
    start, end = mark.span()
    if end == len(text) or text[end].islower():
        return False
    before = text[max(0, start - 12) : start].split()
    if text[start] != '.' or not before or text[start - 1].isspace():
        return True
    word = before[-1].lstrip('("\'\u201c\u2018[')
    initial = len(word) == 1 and word.isupper() and word != 'I'
    return not (initial or word.lower() in _ABBREVIATIONS)


class Page:
    """A text, and what the filters share of it."""

    def __init__(self, text: str):
        self.text = text

    @functools.cached_property
    def tokens(self) -> list[str]:
        """What stands between white space."""
        return self.text.split()

    @functools.cached_property
    def filled(self) -> list[str]:
        """The lines that are not blank, divided at line feeds."""
        parts = self.text.split('\n')
        return [line for line in parts if line and not line.isspace()]

    @functools.cached_property
    def words(self) -> list[str]:
        """Those of the function `words`."""
        return words(self.text)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Of the words, in characters; found without making them."""
        return self._words[0]

    @functools.cached_property
    def lettered(self) -> int:
        """Number of the words with a letter."""
        return int(np.count_nonzero(self._words[1] & _LETTER))

    @functools.cached_property
    def plain(self) -> np.ndarray:
        """Lengths of the words that are not punctuation alone."""
        return self.lengths[(self._words[1] & _PLAIN).astype(bool)]

    @functools.cached_property
    def word_grams(self) -> grams.Grams:
        """n-grams of the words."""
        return grams.Grams(self._words[2], self.lengths)

    @functools.cached_property
    def _words(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lengths of the words, what there is in each, and all their characters."""
        data = self.text.encode('utf-32-le', 'surrogatepass')
        codes = np.frombuffer(data, np.uint32)
        seen = _characters().take(codes)
        kinds = np.zeros(len(seen) + 2, np.uint8)
        np.bitwise_and(seen, _WORDLY | _MARKLY, out=kinds[1:-1])
        edges = (kinds[1:] != kinds[:-1]).nonzero()[0]
        inside = kinds[edges[:-1] + 1].nonzero()[0]
        starts = edges[inside]
        found = np.bitwise_or.reduceat(seen, starts) if len(starts) else seen[:0]
        return edges[inside + 1] - starts, found, codes.compress(kinds[1:-1] > 0)


@functools.cache
def _characters() -> np.ndarray:
    """What each character of Unicode is, as the patterns and methods of str say."""

    def those(kind: Callable[[str], bool]) -> np.ndarray:
        return np.fromiter(map(kind, every), bool, len(every))

    codes = np.arange(sys.maxunicode + 1, dtype='<u4')
    every = codes.tobytes().decode('utf-32-le', 'surrogatepass')
    word, space = those(str.isalnum), those(str.isspace)
    word[ord('_')] = True
    plain = np.logical_not(space)
    plain[[ord(mark) for mark in PUNCTUATION]] = False
    flags = word * _WORDLY | ~(word | space) * _MARKLY
    return (flags | those(str.isalpha) * _LETTER | plain * _PLAIN).astype(np.uint8)


@functools.lru_cache(maxsize=1)
def page(text: str) -> Page:
    """The page of `text`: filters that follow one another share it."""
    return Page(text)
