"""The protocol buffer that a SentencePiece model is: as much of it as we need.

Field numbers are those of sentencepiece_model.proto. A field that is absent has the
default that it has there.
"""

from collections.abc import Mapping
import dataclasses
import struct

from gptjax import command

UNIGRAM, BPE, WORD, CHAR = 1, 2, 3, 4
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# What the wire format holds: numbers, fixed-width bytes, or length-delimited bytes.
Fields = Mapping[int, list[int | bytes]]


@dataclasses.dataclass(frozen=True)
class Model:
    """A model. pieces: (piece, score, type) of each id."""

    pieces: tuple[tuple[str, float, int], ...]
    kind: int  # UNIGRAM, BPE, WORD or CHAR
    byte_fallback: bool
    characters: bytes  # the normalizer's map of characters, compiled
    dummy_prefix: bool
    remove_extra_spaces: bool


def model(data: bytes) -> Model:
    """The model in the bytes of a file; UserError where they are damaged."""
    try:
        top = fields(data)
        trainer = fields(_bytes(top, 2))
        normalizer = fields(_bytes(top, 3))
        pieces = [_piece(fields(one)) for one in top.get(1, []) if _is_bytes(one)]
        return Model(
            tuple(pieces),
            _number(trainer, 3, UNIGRAM),
            bool(_number(trainer, 35, 0)),
            _bytes(normalizer, 2),
            bool(_number(normalizer, 3, 1)),
            bool(_number(normalizer, 4, 1)),
        )
    except (ValueError, IndexError, struct.error) as error:
        raise command.UserError(
            f'the SentencePiece model is damaged ({error}); get it again.'
        ) from error


def fields(data: bytes | int) -> Fields:
    """The values of each field of a message; ValueError or IndexError if damaged."""
    if isinstance(data, int):
        raise ValueError('a number where a message should be')
    found: dict[int, list[int | bytes]] = {}
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        value: int | bytes
        if tag & 7 == 0:
            value, place = _varint(data, place)
        else:
            if tag & 7 == 2:
                width, place = _varint(data, place)
            else:
                width = {1: 8, 5: 4}[tag & 7] if tag & 7 in (1, 5) else len(data) + 1
            if place + width > len(data):
                raise ValueError(f'field {tag >> 3} is cut off')
            value, place = data[place : place + width], place + width
        found.setdefault(tag >> 3, []).append(value)
    return found


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number written in groups of seven bits, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError('a number has more than ten bytes')


def _is_bytes(value: int | bytes) -> bool:
    return isinstance(value, bytes)


def _bytes(found: Fields, field: int) -> bytes:
    value = found.get(field, [b''])[-1]
    if not isinstance(value, bytes):
        raise ValueError(f'field {field} is a number')
    return value


def _number(found: Fields, field: int, default: int) -> int:
    value = found.get(field, [default])[-1]
    if not isinstance(value, int):
        raise ValueError(f'field {field} is no number')
    return value


def _piece(found: Fields) -> tuple[str, float, int]:
    score = struct.unpack('<f', _bytes(found, 2) or bytes(4))[0]
    return _bytes(found, 1).decode(), score, _number(found, 3, NORMAL)
