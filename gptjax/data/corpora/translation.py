"""Texts of your own and what they become, as .jsonl: translations, summaries.

A line is `{"source": "...", "target": "..."}`.
"""

from collections.abc import Iterator

from gptjax.data import documents
from gptjax.data.corpora import files


def collect(
    path: str, licence: str
) -> Iterator[documents.Document | documents.Skipped]:
    """Pairs of source and target in the order of files and lines.

    licence: SPDX identifier of all of them. A line of invalid UTF-8, or with an empty
    text, comes as Skipped. Raises UserError, with file and line, for a line without
    source or target.
    """
    for name, file in files.find(path, ('.jsonl',)):
        for line in files.json_lines(name, file):
            if isinstance(line, documents.Skipped):
                yield line
                continue
            place, record = line
            texts = {
                which: files.string(record, which, place)
                for which in ('source', 'target')
            }
            if not all(text.strip() for text in texts.values()):
                yield documents.Skipped(place, 'empty')
                continue
            yield documents.Document(place, name, licence, translation=texts)
