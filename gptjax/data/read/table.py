"""The readers, the formats and the steps of this package by name."""

from collections.abc import Callable, Mapping
import gzip
import io
from typing import Any

from gptjax import command
from gptjax.data import steps
from gptjax.data.read import (
    archive,
    code,
    extract,
    files,
    lines,
    nearby,
    pdf,
    plain,
    tfds,
    warc,
    wiki,
)
from gptjax.data.read import item as item_lib

Opened = Callable[[], io.BufferedIOBase]
READERS: Mapping[str, Callable[..., Any]] = {'files': files.files, 'tfds': tfds.tfds}
STEPS: steps.Table = {'extract': extract.extract}

_RECORDS: dict[str, item_lib.Read] = {
    '.jsonl': lines.read,
    '.ndjson': lines.read,
    '.json': lines.array,
    '.parquet': lines.parquet,
}
_ARCHIVES: dict[str, item_lib.Read] = {
    '.zip': archive.zipped,
    '.tar': archive.tarred,
    '.tgz': archive.tarred,
}
_PROSE: dict[str, item_lib.Read] = {
    **dict.fromkeys(('.txt', '.text', '.md', '.markdown', '.rst'), plain.read),
    **dict.fromkeys(('.html', '.htm', '.xhtml'), plain.html),
    **dict.fromkeys(('.warc', '.arc', '.wet'), warc.read),
    '.epub': archive.zipped,
    '.pdf': pdf.read,
    '.xml': wiki.read,
}
_TALK = {**_RECORDS, **_ARCHIVES}
# What reads a file of each kind of document, by its suffix; behind it there may be one
# of `item.DECOMPRESS`.
FORMATS: dict[str, dict[str, item_lib.Read]] = {
    'text': {**_RECORDS, **_ARCHIVES, **_PROSE},
    'code': {**_ARCHIVES, **dict.fromkeys(code.SUFFIXES, code.read)},
    'chat': _TALK,
    'pairs': _TALK,
    'feedback': _TALK,
    'labelled': _TALK,
    'translation': _TALK,
}
# First bytes, in lower case, of what has no suffix that is known.
_MAGIC: dict[bytes, item_lib.Read] = {
    b'warc/': warc.read,
    b'filedesc:': warc.read,
    b'%pdf-': pdf.read,
    b'par1': lines.parquet,
    b'<!doctype html': plain.html,
    b'<html': plain.html,
}


def _format(name: str, kind: str) -> item_lib.Read | None:
    lower = name.lower()
    for suffix in item_lib.DECOMPRESS:
        if suffix != '.tgz':
            lower = lower.removesuffix(suffix)
    dot = lower.rfind('.', lower.rfind('/') + 1)
    return FORMATS[kind].get(lower[dot:]) if dot >= 0 else None


def wanted(name: str, kind: str, opened: Opened | None = None) -> bool:
    """Whether a file is read for documents of this kind: by its name, or first bytes.

    opened: opens it; None where the name alone counts, as in archives.
    """
    if nearby.named(name) or (kind == 'code' and code.foreign(name)):
        return False
    if _format(name, kind) is not None:
        return True
    return opened is not None and _sniffed(opened, kind) is not None


def _sniffed(opened: Opened, kind: str) -> item_lib.Read | None:
    """What reads a file that has these first bytes, also when they are gzipped."""
    try:
        with opened() as stream:
            head = stream.read(16)
            if head.startswith(b'\x1f\x8b'):
                stream.seek(0)
                head = gzip.GzipFile(fileobj=stream).read(16)
    except Exception:  # neither this nor anything else can be read of it
        return None
    found = (f for magic, f in _MAGIC.items() if head.lower().startswith(magic))
    return next((f for f in found if f in FORMATS[kind].values()), None)


def read(item: item_lib.Item) -> item_lib.Found:
    """The documents of a file; where it is broken, a Skipped says so at the end.

    Raises UserError for a package that is not installed, and nothing for bad data.
    """
    kind = item.options.kind
    reader = _format(item.name, kind) or _sniffed(item.open, kind)
    try:
        if reader is not None:
            yield from reader(item)
    except (command.UserError, MemoryError):
        raise
    except item_lib.Broken as error:
        yield item.skipped(error.reason, error.offset)
    except Exception as error:  # of libraries, for files that are made to break them
        yield item.skipped(f'broken ({type(error).__name__})')
