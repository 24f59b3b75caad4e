"""FineWeb's own filter (Penedo et al., 2024), as in datatrove 0.10.

Four rules for pages of lists, menus and repeated lines: the share of lines that end a
sentence, of lines of at most 30 characters, of characters in lines that stood before,
and line ends per word.
"""

from typing import Any

from gptjax.data.filters import page, rules
from gptjax.data.filters.page import Page

_SHORT = 30  # characters


def _lines(seen: Page) -> list[str]:
    return [line for line in seen.text.split('\n') if line and not line.isspace()]


def _ended(seen: Page) -> float:
    lines = _lines(seen)
    return rules.share(sum(line[-1] in page.TERMINAL for line in lines), len(lines))


def _short(seen: Page) -> float:
    lines = _lines(seen)
    return rules.share(sum(len(line) <= _SHORT for line in lines), len(lines))


def _repeated(seen: Page) -> float:
    lines = _lines(seen)
    again = sum(map(len, lines)) - sum(map(len, set(lines)))
    return rules.share(again, len(seen.text) - seen.text.count('\n'))


RULES = rules.Rules(
    {
        'lines': lambda p: len(_lines(p)),
        'ended_lines': _ended,
        'short_lines': _short,
        'repeated_characters': _repeated,
        'line_ends': lambda p: rules.share(p.text.count('\n'), len(p.lengths)),
    },
    {
        'lines_least': 1,
        'ended_lines_least': 0.12,
        'short_lines_most': 0.67,
        'repeated_characters_most': 0.01,
        'line_ends_most': 0.3,
    },
)


def fineweb(**limits: Any) -> rules.Rules:
    """The step, with other `limits` where they are named."""
    return RULES.changed('fineweb', limits)
