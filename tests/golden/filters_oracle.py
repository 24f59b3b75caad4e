"""What datatrove decides about pages, with our word and sentence splitters.

    python tests/golden/filters_oracle.py decisions PAGES.json NAME...
    python tests/golden/filters_oracle.py seconds PAGES.json NAME...

prints, as JSON, what these filters tell of each page, or the seconds of one core that
they take as a chain.
"""

from collections.abc import Iterable, Sequence
import json
import logging
from pathlib import Path
import sys
import time

from datatrove import data
from datatrove.pipeline import filters
from datatrove.pipeline.filters import base_filter, c4_filters, fineweb_quality_filter
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


def made() -> dict[str, base_filter.BaseFilter]:
    """datatrove's filters as they are without options, and FineWeb's use of C4."""
    ours = Splitters()
    quality = c4_filters.C4QualityFilter
    return {
        'gopher': filters.GopherQualityFilter(language=ours),
        'gopher_repetition': filters.GopherRepetitionFilter(language=ours),
        'c4_paper': quality(language=ours),
        'c4_paper:fineweb': quality(language=ours, filter_no_terminal_punct=False),
        'fineweb': fineweb_quality_filter.FineWebQualityFilter(language=ours),
    }


def tell(judge: base_filter.BaseFilter, text: str) -> str:
    """The reason of a rejection, or '', or after a line end the text that is left."""
    document = data.Document(text=text, id='0')
    kept = judge.filter(document)
    if kept is not True:
        return kept[1]
    return '' if document.text == text else f'\n{document.text}'


def seconds(chain: Sequence[base_filter.BaseFilter], pages: Iterable[str]) -> float:
    """Of one core, for pages that pass from filter to filter until one rejects them."""
    start = time.process_time()
    for text in pages:
        document = data.Document(text=text, id='0')
        all(judge.filter(document) is True for judge in chain)
    return time.process_time() - start


def main() -> None:
    wanted, path, *names = sys.argv[1:]
    pages, judges = json.loads(Path(path).read_text()), made()
    if wanted == 'seconds':
        print(seconds([judges[name] for name in names], pages))
    else:
        told = {name: [tell(judges[name], text) for text in pages] for name in names}
        print(json.dumps(told))


if __name__ == '__main__':
    main()
