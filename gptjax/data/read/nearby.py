"""The licence of what lies in a folder: that of the nearest licence file above it."""

from collections.abc import Callable, Iterable
import posixpath
import re

from gptjax.data.origin import detect, spdx
from gptjax.data.read import code, plain

_NAMED = re.compile(
    r'(?:un)?(?:licen[cs]e|copying)(?:[.-][\w.]{1,30})?(?:\.(?:txt|md|rst))?', re.I
)
# 'license.go' is a program.
_SOURCE = tuple(one for one in code.SUFFIXES if one not in code.PROSE)
READ = 1 << 17  # bytes; the GPL has 35,000

Told = tuple[str, str | None]  # the licence, and its evidence


def named(name: str) -> bool:
    """Whether a file is by its name one that holds a licence."""
    base = posixpath.basename(name)
    return _NAMED.fullmatch(base) is not None and not base.lower().endswith(_SOURCE)


def of_folder(files: Iterable[tuple[str, bytes]]) -> Told | None:
    """(licence, evidence) of the licence files of a folder, given as (name, bytes).

    Several licences bind together, 'A AND B', though a project may mean a choice; one
    that is not recognised makes the whole folder unknown. None where there is no file.
    """
    told = []
    for name, data in sorted(files):
        found = detect.from_text(plain.decode(data[:READ]) or '')
        if found is None:
            return spdx.UNKNOWN, f'{name}: no licence that is known'
        told.append((found[0], f'{name}: {found[1]}'))
    if not told:
        return None
    licence = spdx.parse(
        ' AND '.join(f'({one})' for one in sorted({x for x, _ in told}))
    )
    return licence, '; '.join(evidence for _, evidence in told)


def above(folder: str, licences: Callable[[str], Told | None]) -> Told | None:
    """The licence of this folder, or of the nearest one above it that has one."""
    while (told := licences(folder)) is None and folder:
        folder = posixpath.dirname(folder)
    return told
