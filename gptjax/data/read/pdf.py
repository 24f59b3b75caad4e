"""The text of PDF files, by pypdf; scanned pages have none."""

import io
import logging
from typing import Any

from gptjax.data import extras
from gptjax.data.read import item as item_lib

# pypdf reads 5 to 50 pages a second; a file made for it may keep it for ever.
_SECONDS = 600


def read(item: item_lib.Item) -> item_lib.Found:
    """A document of all pages, an empty line between them."""
    pypdf = extras.need('pypdf', 'data')
    guard = extras.need('resiliparse.process_guard', 'data')
    logging.getLogger('pypdf').setLevel(logging.CRITICAL)
    with item.seekable() as stream:
        item_lib.bounded(stream)
        stream.seek(0)
        soft = guard.InterruptType.exception
        try:
            with guard.time_guard(_SECONDS, interrupt_type=soft, check_interval=20):
                text = _text(pypdf, stream)
        except guard.ExecutionTimeout:
            raise item_lib.Broken('too slow') from None
    yield item.document(item.name, text=text)


def _text(pypdf: Any, stream: io.BufferedIOBase) -> str:
    reader = pypdf.PdfReader(stream)
    if reader.is_encrypted:
        raise item_lib.Broken('encrypted')
    pages, size = [], 0
    for page in reader.pages:
        # It makes halves of surrogate pairs of broken fonts.
        pages.append(page.extract_text().encode('utf-8', 'replace').decode())
        size += len(pages[-1])
        if size > item_lib.LIMIT:
            raise item_lib.Broken('too large')
    return '\n\n'.join(pages)
