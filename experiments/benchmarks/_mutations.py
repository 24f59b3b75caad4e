"""Damaged model folders: the files of a small one, changed at random places."""

from collections.abc import Iterator
import json
from pathlib import Path
from typing import Any

import numpy as np

from gptjax import command
from gptjax.exchange import huggingface

_NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63, 2**64, 1e308, -0.5, float('nan'))
_VALUES: tuple[Any, ...] = (
    *_NUMBERS,
    None,
    True,
    False,
    '',
    'x',
    [],
    {},
    [[]],
    {'a': {}},
    '../x',
    '🦜',
)


def survived(folder: Path, count: int, seed: int) -> dict[str, int]:
    """Loads `count` damaged versions of the files in a folder, and counts what came.

    Returns {'refused': UserErrors, 'loaded': those whose damage changes nothing that is
    checked}. Raises whatever else loading raises. The folder is left as it was.
    """
    rng = np.random.default_rng(seed)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    came = {'refused': 0, 'loaded': 0}
    for number in range(count):
        path = files[number % len(files)]
        whole = path.read_bytes()
        path.write_bytes(_mutated(path, whole, rng))
        try:
            huggingface.load(folder)
            came['loaded'] += 1
        except command.UserError:
            came['refused'] += 1
        except BaseException as error:
            error.add_note(f'number {number} of seed {seed}: {path.name}')
            raise
        finally:
            path.write_bytes(whole)
    return came


def _mutated(path: Path, whole: bytes, rng: np.random.Generator) -> bytes:
    """One file, damaged: as bytes, or as JSON where it begins with or is such."""
    if rng.random() < 0.4:
        return _bytes_changed(whole, rng)
    if path.suffix == '.json':
        return _json_changed(whole, rng)
    length = int.from_bytes(whole[:8], 'little')
    header = _json_changed(whole[8 : 8 + length], rng)
    said = length if rng.random() < 0.1 else len(header)
    return said.to_bytes(8, 'little') + header + whole[8 + length :]


def _bytes_changed(whole: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, longer, or with other bytes, mostly near the beginning."""
    kind = rng.integers(4)
    if kind == 0:
        return whole[: rng.integers(len(whole))]
    if kind == 1:
        return whole + rng.bytes(int(rng.integers(1, 64)))
    changed = bytearray(whole)
    for _ in range(rng.integers(1, 6)):
        at = rng.integers(min(len(whole), 512 if kind == 2 else len(whole)))
        changed[at] = rng.integers(256)
    return bytes(changed)


def _json_changed(text: bytes, rng: np.random.Generator) -> bytes:
    """One value replaced, taken away, doubled under another name or exchanged."""
    value = json.loads(text)
    places = list(_places(value))
    holder, key = places[rng.integers(len(places))]
    kind = rng.integers(4)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[str(_VALUES[rng.integers(len(_VALUES))])] = holder[key]
    elif kind == 2:
        other, name = places[rng.integers(len(places))]
        holder[key] = json.loads(json.dumps(other[name]))
    else:
        holder[key] = _VALUES[rng.integers(len(_VALUES))]
    return json.dumps(value).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of every value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, below in list(inside):
        yield value, key
        if isinstance(below, dict | list):
            yield from _places(below)
