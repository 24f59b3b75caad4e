"""What the engines carry: documents, rejections and skipped pieces as records.

A key is two bytes of a bucket, and then what is grouped by. Documents lie in ranges of
their keys, so that bucket after bucket is the order of all.
"""

import dataclasses
import hashlib
import json
from typing import Any
import zlib

from gptjax.data import documents
from gptjax.data.refine import spill

HEAD = 18  # bytes of a record's key that name a document: bucket and key
_FIELDS = [field.name for field in dataclasses.fields(documents.Document)]
REJECTED = ('id', 'source', 'url', 'licence', 'step', 'reason', 'value')


def place(key: bytes, buckets: int) -> bytes:
    """The key of a document behind its bucket: a range of keys."""
    bucket = int.from_bytes(key[:4], 'big') * buckets >> 32
    return bucket.to_bytes(2, 'big') + key


def scatter(key: bytes, buckets: int) -> bytes:
    """Any other key behind its bucket: these need not be even, so they are hashed."""
    return (zlib.crc32(key) % buckets).to_bytes(2, 'big') + key


def encode(document: documents.Document) -> bytes:
    """The fields that are set, as JSON. Raises UnicodeEncodeError for a surrogate."""
    fields = {
        name: value
        for name in _FIELDS
        if (value := getattr(document, name)) is not None
    }
    fields['signals'] = {k: float(v) for k, v in document.signals.items()}
    return json.dumps(fields, ensure_ascii=False, sort_keys=True).encode()


def decode(record: bytes) -> documents.Document:
    """The document of `encode`."""
    fields = json.loads(record)
    fields['steps'] = tuple(fields['steps'])
    return documents.Document(**fields)


def document(one: documents.Document, buckets: int) -> spill.Record:
    """A document on its first way: those of one id are ordered by their content."""
    digest = hashlib.sha256(one.content()).digest()
    return place(one.key, buckets) + digest, encode(one)


def rejected(
    one: documents.Document, step: str, reject: documents.Reject, buckets: int
) -> spill.Record:
    """A row of rejected/*.parquet."""
    value = reject.value
    row = [one.id, one.source, one.url, one.licence, step, reject.reason]
    row.append(value if value is None or isinstance(value, str) else repr(value))
    line = json.dumps(row, ensure_ascii=False)
    return place(one.key, buckets), line.encode('utf-8', 'replace')


def skipped(piece: documents.Skipped) -> spill.Record:
    """A line of bad.jsonl, which are in the order of sources and offsets."""
    line: dict[str, Any] = dataclasses.asdict(piece)
    after = 0 if piece.offset is None else piece.offset + 1
    source = piece.source.encode('utf-8', 'replace')
    key = b'\0\0' + source + b'\0' + after.to_bytes(8, 'big')
    return key, json.dumps(line, sort_keys=True).encode()
