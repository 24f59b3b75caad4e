"""What finds one kind of personal data: a pattern, a check, and words that precede."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import re

# Where something begins and ends in a text.
Place = tuple[int, int]

# How far before a candidate a word may stand that tells what it is, in characters.
WINDOW = 48
# Words that tell of another number, where they stand between such a word and it.
OTHER = re.compile(
    r'(?<![a-z])(?:order|invoice|ticket|case|ref(?:erence)?|isbn|issn|sku|ean|upc|doi|'
    r'tracking|account|serial|version|build|patent|part|model|item|zip|page|section|'
    r'batch|lot|date|born|since|until)(?![a-z])'
)
# Scripts without spaces between words: there, a number may touch the word beside it.
_SPACELESS = r'\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\uffff'
WORD = rf'[^\W{_SPACELESS}]'
_LETTER = rf'[^\W\d_{_SPACELESS}]'
# Of a number: what stands before its first character and behind its last. A number in
# a word, a longer number or a decimal is another thing.
BEFORE = rf'(?<!{WORD}.)(?<![0-9][.,\-].)'
AFTER = rf'(?!{WORD}|[.,\-/][0-9])'
_SEPARATORS = re.compile(r'[ .()/\-]')
_TAG = re.compile('<[A-Z0-9_]+>')  # of `find.hide`: '<PHONE>' is no word that tells


@dataclass(frozen=True)
class Shape:
    """One way to write a kind.

    pattern: takes time linear in the text: no repeat in a repeat that could split a
        run of characters in two ways, and a bounded length or a left edge.
    check: of a match, the place of what it is, or None.
    needs: strings of which one must be in the lower-cased text, or it is not searched.
    words: of which one must stand shortly before, or right behind; None asks for none.
    """

    pattern: re.Pattern[str]
    check: Callable[[re.Match[str]], Place | None]
    needs: tuple[str, ...] = ()
    words: re.Pattern[str] | None = None

    def find(self, text: str, lowered: str, context: bool) -> Iterator[Place]:
        """Where it stands in `text`; without `context`, no word need precede."""
        if context and self.needs and not any(need in lowered for need in self.needs):
            return
        for match in self.pattern.finditer(text):
            if context and self.words and not _told(match, self.words):
                continue
            place = self.check(match)
            if place is not None:
                yield place


def shape(
    first: str, rest: str, valid: Callable[[str], bool], words: tuple[str, ...] = ()
) -> Shape:
    """A shape of a number.

    first: the set of its first character, which is searched for quickly; what may stand
    before it is asked next. valid: of the number without its separators.
    """

    def check(match: re.Match[str]) -> Place | None:
        return match.span() if valid(_SEPARATORS.sub('', match[0])) else None

    pattern = re.compile(first + BEFORE + rest + AFTER)
    return Shape(pattern, check, words, told_by(words) if words else None)


def told_by(words: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern for one of these words, in lower case."""
    one = '|'.join(map(re.escape, words))
    return re.compile(rf'(?<!{_LETTER})(?:{one})(?!{_LETTER})')


def last(words: re.Pattern[str], text: str) -> int:
    """Where the last of the words ends in `text`, or -1."""
    return max((match.end() for match in words.finditer(text)), default=-1)


def before(match: re.Match[str], size: int = WINDOW) -> str:
    """The lower-cased text before a match."""
    earlier = match.string[max(0, match.start() - size) : match.start()]
    return _TAG.sub('', earlier).lower()


def _told(match: re.Match[str], words: re.Pattern[str]) -> bool:
    earlier = before(match)
    place = last(words, earlier)
    if place >= 0:
        return OTHER.search(earlier, place) is None
    behind = match.string[match.end() : match.end() + 16].lower()
    return words.match(behind.lstrip(' ,-(')) is not None
