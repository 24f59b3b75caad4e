"""Damaged files of llama2.c: a small one, changed at random places."""

from pathlib import Path
import struct

import numpy as np

from gptjax import command
from gptjax.exchange import llama2c, tables

_HEADER = 40  # bytes in which half of the damage is done
_NUMBERS = (-(2**31), -1, 0, 1, 2, 7, 2**16, 2**31 - 1)


def survived(path: Path, count: int, seed: int) -> dict[str, int]:
    """Reads `count` damaged versions of a file, and counts what came.

    Returns {'refused': UserErrors, 'loaded': those whose damage is in the weights
    alone}. Raises whatever else reading raises. The file is left as it was.
    """
    rng = np.random.default_rng(seed)
    whole = path.read_bytes()
    came = {'refused': 0, 'loaded': 0}
    try:
        for number in range(count):
            path.write_bytes(_mutated(whole, rng))
            try:
                arch, entries, source = llama2c.read(path)
                tables.check(arch, entries, source, tables.leaves(arch))
                for name in source.shapes:
                    source.read(name).tobytes()
                came['loaded'] += 1
            except command.UserError:
                came['refused'] += 1
            except BaseException as error:
                error.add_note(f'number {number} of seed {seed}')
                raise
    finally:
        path.write_bytes(whole)
    return came


def _mutated(whole: bytes, rng: np.random.Generator) -> bytes:
    """One to three places changed, cut out or lengthened."""
    data = bytearray(whole)
    for _ in range(rng.integers(1, 4)):
        end = min(len(data), _HEADER if rng.random() < 0.5 else len(data))
        at = int(rng.integers(max(1, end)))
        kind = rng.integers(4)
        if kind == 0:
            data[at : at + 1] = rng.bytes(1)
        elif kind == 1:
            data[at : at + 4] = struct.pack('<i', rng.choice(_NUMBERS))
        elif kind == 2:
            del data[at : at + int(rng.integers(1, 64))]
        else:
            data[at:at] = rng.bytes(int(rng.integers(1, 64)))
    return bytes(data)
