"""What finds one kind of personal data: a pattern, a check, and words that precede."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import re

# How far before a candidate a word may stand that tells what it is, in characters.
WINDOW = 48
# Words that tell of another number, where they stand between such a word and it.
OTHER = re.compile(
    r'(?<![a-z])(?:order|invoice|ticket|case|ref(?:erence)?|isbn|issn|sku|ean|upc|doi|'
    r'tracking|account|serial|version|build|patent|part|model|item|zip|page|section|'
    r'batch|lot|date|born|since|until)(?![a-z])'
)
# Of a number: what stands before its first character and behind its last. A number in
# a word, a longer number or a decimal is another thing.
BEFORE = r'(?<!\w.)(?<![0-9][.,\-].)'
AFTER = r'(?![\w]|[.,\-/][0-9])'


@dataclass(frozen=True)
class Shape:
    """One way to write a kind.

    pattern: takes time linear in the text: no repeat in a repeat that could split a
        run of characters in two ways, and a bounded length or a left edge.
    valid: of the characters without separators, whether the check holds.
    needs: strings of which one must be in the lower-cased text, or it is not searched.
    words: of which one must stand shortly before, or right behind; None asks for
        none.
    """

    pattern: re.Pattern[str]
    valid: Callable[[str], bool]
    needs: tuple[str, ...] = ()
    words: re.Pattern[str] | None = None

    def find(self, text: str, lowered: str, context: bool) -> Iterator[tuple[int, int]]:
        """Where it stands in `text`; without `context`, no word need precede."""
        if context and self.needs and not any(need in lowered for need in self.needs):
            return
        for match in self.pattern.finditer(text):
            start, end = match.span()
            if context and self.words and not _told(text, start, end, self.words):
                continue
            if self.valid(_SEPARATORS.sub('', match[0])):
                yield start, end


_SEPARATORS = re.compile(r'[ .()/\-]')


def shape(
    pattern: str, valid: Callable[[str], bool], words: tuple[str, ...] = ()
) -> Shape:
    """A shape of a number, whose pattern begins with one set of characters.

    That first set is searched for quickly; what may stand before it is asked next.
    """
    first, rest = re.fullmatch(r'(\[.*?\]|\\?.)(.*)', pattern, re.DOTALL).groups()  # type: ignore[union-attr]
    compiled = re.compile(first + BEFORE + rest + AFTER)
    return Shape(compiled, valid, words, told_by(words) if words else None)


def told_by(words: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern for one of these words, in lower case."""
    return re.compile(rf'(?<![a-z])(?:{"|".join(map(re.escape, words))})(?![a-z])')


def _told(text: str, start: int, end: int, words: re.Pattern[str]) -> bool:
    before = text[max(0, start - WINDOW) : start].lower()
    last = max((match.end() for match in words.finditer(before)), default=-1)
    if last >= 0:
        return OTHER.search(before, last) is None
    return words.match(text[end : end + 16].lower().lstrip(' ,-(')) is not None
