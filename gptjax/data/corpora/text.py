"""Your own text: a file or a folder of .txt, .md and .jsonl.

A .txt or .md file is one document; so is each line `{"text": ...}` of a .jsonl, with
`id`, `source` and `licence` if it names them.
"""

from collections.abc import Iterator

from gptjax.data import documents
from gptjax.data.corpora import files


def collect(
    path: str, licence: str
) -> Iterator[documents.Document | documents.Skipped]:
    """Documents in the order of file names; other kinds of file are not read.

    licence: SPDX identifier of everything that does not carry its own.
    A file or line of invalid UTF-8, or an empty one, comes as Skipped. Raises UserError
    for a path without text and for lines without a text.
    """
    for name, file in files.find(path, ('.txt', '.md', '.jsonl')):
        if file.suffix == '.jsonl':
            for line in files.json_lines(name, file):
                yield (
                    line
                    if isinstance(line, documents.Skipped)
                    else _record(*line, licence)
                )
            continue
        try:
            text = file.read_bytes().decode('utf-8-sig')
        except UnicodeDecodeError:
            yield documents.Skipped(name, files.INVALID)
            continue
        yield _document(name, name, licence, text)


def _record(
    place: str, record: dict, licence: str
) -> documents.Document | documents.Skipped:
    text = files.string(record, 'text', place)
    known = {'id': place, 'source': place.rsplit(':', 1)[0], 'licence': licence}
    for field in known:
        if field in record:
            known[field] = files.string(record, field, place)
    origin = (known['id'], known['source'], known['licence'])
    return _document(*origin, text, files.unit(record))


def _document(
    identity: str, source: str, licence: str, text: str, unit: str | None = None
) -> documents.Document | documents.Skipped:
    if not text.strip():
        return documents.Skipped(source, 'empty')
    return documents.Document(identity, source, licence, text=text, unit=unit)
