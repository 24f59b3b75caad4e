"""What devices send each other, from the text of a compiled program."""

import re
from typing import NamedTuple

_SENT = re.compile(
    r'= (.*?) '
    r'(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\('
)
_ALONE = re.compile(r'replica_groups=(\{\{\d+\}|\[\d+,1\]<=)')  # one device a group
_ARRAY = re.compile(r'([a-z]+\d+)\[([\d,]*)\]')


class Message(NamedTuple):
    kind: str
    type: str
    shape: tuple[int, ...]  # of what arrives


def of(text: str) -> list[Message]:
    """One for each array; XLA sends several together."""
    return [
        Message(found[2], type, _sizes(sizes))
        for line in text.splitlines()
        if (found := _SENT.search(line)) and not _ALONE.search(line)
        for type, sizes in _ARRAY.findall(found[1])
    ]


def shapes(text: str) -> set[tuple[int, ...]]:
    """Those of all arrays of floats that a device holds at any time."""
    return {_sizes(sizes) for type, sizes in _ARRAY.findall(text) if 'f' in type}


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(',') if n)
