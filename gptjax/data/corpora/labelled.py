"""Texts of your own with a class each, as .jsonl: sentiment, topics, entailment.

A line is `{"text": "...", "label": "..."}`, or, where the label is of two texts,
`{"text": "...", "text_pair": "...", "label": "..."}`. A label is a string or a whole
number.
"""

from collections.abc import Iterator
from typing import Any

from gptjax import command
from gptjax.data import documents
from gptjax.data.corpora import files


def collect(
    path: str, licence: str
) -> Iterator[documents.Document | documents.Skipped]:
    """Labelled texts in the order of files and lines.

    licence: SPDX identifier of all of them. A line of invalid UTF-8, or with an empty
    text, comes as Skipped. Raises UserError, with file and line, for a line without
    text or label.
    """
    for name, file in files.find(path, ('.jsonl',)):
        for line in files.json_lines(name, file):
            if isinstance(line, documents.Skipped):
                yield line
                continue
            place, record = line
            text = files.string(record, 'text', place)
            pair = None
            if 'text_pair' in record:
                pair = files.string(record, 'text_pair', place)
            label = _label(record, place)
            if not text.strip() or (pair is not None and not pair.strip()):
                yield documents.Skipped(place, 'empty')
                continue
            unit = files.unit(record)
            yield documents.Document(
                place, name, licence, text=text, text_pair=pair, label=label, unit=unit
            )


def _label(record: dict[str, Any], place: str) -> str:
    label = record.get('label')
    if not isinstance(label, str | int) or isinstance(label, bool) or label == '':
        raise command.UserError(
            f'{place} has label={label!r}; each line needs a "label", a string or a '
            'whole number.'
        )
    return str(label)
