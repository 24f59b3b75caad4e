"""The filters of C4: as its code has them, and as its paper tells of them.

`c4_code` is TFDS's text/c4_utils.py, which built C4; `c4_paper` what datatrove 0.10
makes of Raffel et al. (2020), section 2.2. Lines are dropped first, then pages judged
by what is left. The names of the counters are TFDS's. Not here: the language (step
`language`), and equal lines of several pages (step `exact`); and sentences are divided
by `page.sentences`, not by NLTK's punkt.
"""

from collections import Counter
from collections.abc import Callable, Iterable
import dataclasses
from dataclasses import dataclass
import re

from gptjax import command
from gptjax.data import documents, steps
from gptjax.data.filters import block_list, page, rules

_CITATION = re.compile(r'\[(?:\d*|edit|citation needed)\]')
_POLICIES = (
    'terms of use', 'privacy policy', 'cookie policy', 'uses cookies',
    'use of cookies', 'use cookies',
)  # fmt: skip
_LETTERS = re.compile('[a-z]+')


@dataclass(frozen=True)
class Variant:
    """end_marks: a line ends in one of them, if there are any. words_least: of a line;
    with_citations: they count as words. sentences_least, characters_most: of a page.
    """

    end_marks: tuple[str, ...]
    words_least: int
    with_citations: bool
    sentences_least: int
    characters_most: int | None
    word_characters_most: int = 1000


CODE = Variant(('.', '?', '!', '"'), 5, False, 3, 190_000)
PAPER = Variant(('.', '?', '!', '"', "'"), 3, True, 5, None)
# FineWeb keeps lines whatever they end in.
FINEWEB = dataclasses.replace(PAPER, end_marks=())
_REASONS = {
    'filtered-page-loremipsum': 'lorem_ipsum',
    'filtered-page-squigglybracket': 'curly_bracket',
    'filtered-page-badword': 'bad_word',
    'filtered-page-toofewsentences': 'sentences_least',
}
Found = Callable[[str], bool]


def bad_words(words: Iterable[str]) -> Found:
    """Whether a line has one of `words` between two characters that are not a to z.

    As TFDS's pattern: neither where a line begins, nor where it ends. Each word is kept
    by its first run of letters, so that time does not grow with their number.
    """
    by_letters: dict[str, list[tuple[int, str]]] = {}
    others = set()
    for word in words:
        if run := _LETTERS.search(word):
            by_letters.setdefault(run[0], []).append((run.start(), word))
        else:
            others.add(re.escape(word))
    unlettered = re.compile(f'[^a-z](?:{"|".join(sorted(others))})[^a-z]')

    def between(line: str, word: str, start: int) -> bool:
        around = line[start - 1 : start] + line[start + len(word) :][:1]
        alone = len(around) == 2 and not _LETTERS.search(around)
        return start > 0 and alone and line.startswith(word, start)

    def found(line: str) -> bool:
        if others and unlettered.search(line):
            return True
        if by_letters.keys().isdisjoint(_LETTERS.findall(line)):
            return False
        return any(
            between(line, word, run.start() - offset)
            for run in _LETTERS.finditer(line)
            for offset, word in by_letters.get(run[0], ())
        )

    return found


def clean_page(
    text: str, variant: Variant, bad: Found | None
) -> tuple[str | documents.Reject, dict[str, int]]:
    """The lines of a page that stay, or why none does, and TFDS's counters.

    bad: whether a line, in small letters, has a bad word.
    """
    counters: Counter[str] = Counter()
    kept: list[str] = []
    sentences = 0
    for number, whole in enumerate(text.splitlines(), 1):
        line, verdict = _clean_line(whole.strip(), variant, bad)
        counters[verdict] += 1
        if verdict in _REASONS:
            return documents.Reject(_REASONS[verdict], float(number)), dict(counters)
        if verdict == 'lines-valid':
            sentences += max(len(page.sentences(line)), 1)
            kept.append(line)
    if sentences < variant.sentences_least:
        counters['filtered-page-toofewsentences'] += 1
        return documents.Reject('sentences_least', float(sentences)), dict(counters)
    counters['emitted-clean-pages'] += 1
    return '\n'.join(kept).strip(), dict(counters)


def _clean_line(line: str, variant: Variant, bad: Found | None) -> tuple[str, str]:
    """The line without citations, and the counter of what becomes of it."""
    longest = variant.word_characters_most
    if len(line) > longest and max(map(len, line.split())) > longest:
        return line, 'lines-with-too-long-word'
    counted = line
    if '[' in line:
        line = _CITATION.sub('', line)
    ended = not variant.end_marks or line.endswith(variant.end_marks)
    if not ended or (variant.end_marks and line.endswith('...')):
        return line, 'lines-no-endmark'
    least = variant.words_least
    if len((counted if variant.with_citations else line).split(None, least)) < least:
        return line, 'lines-too-short'
    lower = line.lower()
    if 'lorem ipsum' in lower:
        return line, 'filtered-page-loremipsum'
    if 'javascript' in lower:
        return line, 'lines-javascript'
    if '{' in line:
        return line, 'filtered-page-squigglybracket'
    hinted = 'use' in lower or 'policy' in lower
    if hinted and any(map(lower.__contains__, _POLICIES)):
        return line, 'lines-policy'
    if bad is not None and bad(lower):
        return line, 'filtered-page-badword'
    return line, 'lines-valid'


def _step(name: str, variant: Variant, bad: Found | None) -> steps.Step:
    def step(document: documents.Document) -> steps.Result:
        text = rules.text_of(name, document)
        if variant.characters_most is not None and len(text) > variant.characters_most:
            return documents.Reject('characters_most', float(len(text)))
        found, counters = clean_page(text, variant, bad)
        if isinstance(found, documents.Reject):
            return found
        dropped = {f'{name}.{key}': float(n) for key, n in counters.items()}
        signals = {**document.signals, **dropped}
        return dataclasses.replace(document, text=found, signals=signals)

    return step


def c4_code(*, bad_words_file: str | None) -> steps.Step:
    """The step. bad_words_file: a word or phrase a line; None lets all words pass."""
    bad = None
    if bad_words_file is not None:
        bad = bad_words(word.lower() for word in block_list.read(bad_words_file))
    return _step('c4_code', CODE, bad)


def c4_paper(*, variant: str) -> steps.Step:
    """The step; variant: 'paper', or 'fineweb', which asks for no end mark."""
    variants = {'paper': PAPER, 'fineweb': FINEWEB}
    found = command.lookup(variants, variant, 'variant of c4_paper')
    return _step('c4_paper', found, None)
