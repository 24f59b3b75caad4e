"""RefinedWeb's corrections of lines (Penedo et al., 2023, section G.2), as in DCLM.

Lines of menus, counters and banners are dropped in the order of DCLM's
dclm_baseline_refinedweb.yaml; a page that loses more than 5 % of its words is rejected.
Words of the page are those of `page.words` that begin with a letter or a digit. The
dots of "Read more..." are dots here; in DCLM's pattern they are any characters.
"""

from collections import Counter
from collections.abc import Callable
import dataclasses
import re
from typing import Any

from gptjax.data import documents, steps
from gptjax.data.filters import page, rules

_COUNTER = re.compile(
    r'\W*\d[\d.,]*[kmb]?\s+(?:likes|shares|comments|retweets|reposts|quotes|bookmarks|'
    r'upvotes|downvotes|downloads|views|followers)\W*'
)
_BANNERS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (r'\s?items in cart', r'\s?read more\.\.\.\Z', r'\Asign-in\s?')
)
LIMITS: rules.Limits = {
    'uppercase_most': 0.5,
    'digits_most': 0.999999,
    'line_words_least': 2,
    'banner_words_most': 10,
    'removed_most': 0.05,
}
# What becomes of a line: another one, or None.
_Change = Callable[[str], str | None]


def clean(text: str, limits: rules.Limits) -> tuple[str, dict[str, int]]:
    """The text without the lines that the limits drop, and how many each dropped."""
    dropped: Counter[str] = Counter()
    for name, change in _changes(limits):
        lines = [change(line) if line else '' for line in text.split('\n')]
        kept = [line for line in lines if line is not None]
        dropped[name] += len(lines) - len(kept)
        text = '\n'.join(kept).strip()
    return text, dict(dropped)


def _changes(limits: rules.Limits) -> list[tuple[str, _Change]]:
    def at_most(kind: Callable[[str], bool], limit: rules.Number) -> _Change:
        return lambda line: line if sum(map(kind, line)) / len(line) <= limit else None

    def without(banner: re.Pattern[str], words: rules.Number) -> _Change:
        def change(line: str) -> str | None:
            if len(line.split()) > words:
                return line
            left = banner.sub('', line)
            return left if left and not left.isspace() else None

        return change

    found: list[tuple[str, _Change]] = []
    if (limit := limits['uppercase_most']) is not None:
        found.append(('uppercase', at_most(str.isupper, limit)))
    if (limit := limits['digits_most']) is not None:
        found.append(('digits', at_most(str.isdigit, limit)))
    found.append(('counter', lambda x: None if _COUNTER.fullmatch(x.lower()) else x))
    if (least := limits['line_words_least']) is not None:
        found.append(('words', lambda x: x if len(x.split()) >= least else None))
    if (limit := limits['banner_words_most']) is not None:
        found += [('banner', without(banner, limit)) for banner in _BANNERS]
    return found


def _count(text: str) -> int:
    return sum(word[0].isalnum() for word in page.words(text))


def refinedweb_lines(**limits: Any) -> steps.Step:
    """The step, with other `limits` where they are named."""
    chosen = rules.changed('refinedweb_lines', LIMITS, limits)

    def step(document: documents.Document) -> steps.Result:
        text = rules.text_of('refinedweb_lines', document)
        before = _count(text)
        text, dropped = clean(text, chosen)
        removed = before - _count(text)
        most = chosen['removed_most']
        if most is not None and (not before or removed / before > most):
            return documents.Reject('removed_most', rules.share(removed, before))
        counts = {f'refinedweb_lines.{name}': float(n) for name, n in dropped.items()}
        signals = {**document.signals, **counts}
        return dataclasses.replace(document, text=text, signals=signals)

    return step
