"""What datatrove decides about pages, with our word and sentence splitters.

    python tests/golden/filters_oracle.py PAGES.json NAME...

prints the decisions of these filters as JSON, and the seconds of one core they took.
"""

from collections.abc import Callable, Iterable
import json
import logging
from pathlib import Path
import sys
import time
from typing import Any

from datatrove import data
from datatrove.pipeline import filters
from datatrove.pipeline.filters import c4_filters, fineweb_quality_filter
from datatrove.utils import word_tokenizers

from gptjax.data.filters import page

logging.disable(logging.INFO)


class Splitters(word_tokenizers.WordTokenizer):
    """Ours, as datatrove takes them in the place of a language."""

    def word_tokenize(self, text: str) -> list[str]:
        return page.words(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return [text[a:b] for a, b in page.sentences(text)]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return page.sentences(text)


def made() -> dict[str, Callable[[str], str]]:
    """datatrove's filters as they are without options, and FineWeb's use of C4.

    Each tells the reason of a rejection, or '', or after a line end the text it leaves.
    """
    ours = Splitters()
    quality = c4_filters.C4QualityFilter
    found = {
        'gopher': filters.GopherQualityFilter(language=ours),
        'gopher_repetition': filters.GopherRepetitionFilter(language=ours),
        'c4_paper': quality(language=ours),
        'c4_paper:fineweb': quality(language=ours, filter_no_terminal_punct=False),
        'fineweb': fineweb_quality_filter.FineWebQualityFilter(language=ours),
    }
    return {name: _telling(one.filter) for name, one in found.items()}


def decisions(pages: Iterable[str]) -> list[dict[str, str]]:
    """What each filter tells of each page."""
    judges = made()
    return [{name: tell(text) for name, tell in judges.items()} for text in pages]


def _telling(judge: Callable[[data.Document], Any]) -> Callable[[str], str]:
    def tell(text: str) -> str:
        document = data.Document(text=text, id='0')
        kept = judge(document)
        if kept is not True:
            return kept[1]
        return '' if document.text == text else f'\n{document.text}'

    return tell


def main() -> None:
    pages, judges = json.loads(Path(sys.argv[1]).read_text()), made()
    found: dict[str, list[str]] = {name: [] for name in sys.argv[2:]}
    start = time.process_time()
    for text in pages:
        for name, told in found.items():
            told.append(judges[name](text))
    print(json.dumps({'seconds': time.process_time() - start, 'decisions': found}))


if __name__ == '__main__':
    main()
