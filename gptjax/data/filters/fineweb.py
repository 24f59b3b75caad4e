"""FineWeb's own filter (Penedo et al., 2024), as in datatrove 0.10.

Four rules for pages of lists, menus and repeated lines: the share of lines that end a
sentence, of lines of at most 30 characters, of characters in lines that stood before,
and line ends per word.
"""

from collections.abc import Callable
from typing import Any

from gptjax.data.filters import page, rules
from gptjax.data.filters.page import Page

_SHORT = 30  # characters


def _share(seen: Page, kind: Callable[[str], bool]) -> float:
    return rules.share(sum(map(kind, seen.filled)), len(seen.filled))


def _repeated(seen: Page) -> float:
    again = sum(map(len, seen.filled)) - sum(map(len, set(seen.filled)))
    return rules.share(again, len(seen.text) - seen.text.count('\n'))


RULES = rules.Rules(
    {
        'lines': lambda p: len(p.filled),
        'ended_lines': lambda p: _share(p, lambda line: line[-1] in page.TERMINAL),
        'short_lines': lambda p: _share(p, lambda line: len(line) <= _SHORT),
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
