"""The step from a page to its text."""

from collections.abc import Callable
import dataclasses
import functools
import logging

from gptjax import command
from gptjax.data import documents, extras, steps
from gptjax.data.read import plain

# Characters, and tags, of a page. Common Crawl cuts pages at 5 MiB, and 5,000 tags are
# many. The time of trafilatura grows with the square of the number of lists and tables:
# 12,000 of them take it 11 s.
_LARGEST, _TAGS = 8 << 20, 50_000


def extract(*, by: str) -> steps.Step:
    """HTML to plain text; what is plain text passes.

    by: 'trafilatura', for precision as FineWeb has it (Penedo et al., 2024), or
    'resiliparse', its main content as DCLM has it (Li et al., 2024), which is faster
    and keeps more. A paragraph is a line.

    A licence that the page names is taken where it is 'unknown', and what its meta
    elements ask of training goes into `opt_out`. Rejects: 'too large' (8 Mi
    characters), 'too many tags' (50,000), 'nesting' (512, as browsers do), 'no text',
    'error' of the parser. Raises UserError where a package is not installed.
    """
    take = command.lookup(_BY, by, 'extract.by')()
    from gptjax.data.origin import detect, optout

    def step(document: documents.Document) -> steps.Result:
        page = document.text
        if document.media != 'text/html' or page is None:
            return document
        if len(page) > _LARGEST:
            return documents.Reject('too large', float(len(page)))
        if (tags := page.count('<')) > _TAGS:
            return documents.Reject('too many tags', float(tags))
        if plain.nested(page):
            return documents.Reject('nesting')
        try:
            text = take(page).encode('utf-8', 'replace').decode()
            said = detect.from_html(page) if document.licence == 'unknown' else None
            asked = optout.from_html(page)
        except Exception as error:  # of the parsers, which are not ours
            return documents.Reject('error', f'{type(error).__name__}: {error}'[:200])
        if not text.strip():
            return documents.Reject('no text')
        document = dataclasses.replace(document, text=text, media='text/plain')
        if said is not None:
            document = dataclasses.replace(document, licence=said[0], evidence=said[1])
        return dataclasses.replace(document, opt_out=asked or document.opt_out)

    return step


def _trafilatura() -> Callable[[str], str]:
    library = extras.need('trafilatura', 'data')
    for name in ('trafilatura', 'htmldate', 'readability'):
        logging.getLogger(name).setLevel(logging.CRITICAL)

    def take(page: str) -> str:
        # `deduplicate` would make a page depend on those before it.
        found = library.extract(
            page, favor_precision=True, include_comments=False, deduplicate=False
        )
        return found or ''

    return take


def _resiliparse() -> Callable[[str], str]:
    library = extras.need('resiliparse.extract.html2text', 'data')
    return functools.partial(
        library.extract_plain_text, main_content=True, alt_texts=False
    )


_BY = {'trafilatura': _trafilatura, 'resiliparse': _resiliparse}
