"""The tensors of a folder under the names of a family's table.

Files have had other names at times, the prefix or not, buffers, and copies of what is
shared.
"""

from collections.abc import Mapping
import re
from typing import Any

import ml_dtypes
import numpy as np

from gptjax import command
from gptjax.exchange import tables
from gptjax.exchange.families import family as family_lib
from gptjax.model import config as model_config

_BLOCK = 1 << 24  # bytes compared at a time


def plain(family: family_lib.Family, name: str) -> str:
    """The name of a tensor as new versions write it."""
    for pattern, replacement in family.renamed:
        name = re.sub(pattern, replacement, name)
    return name


def named(
    family: family_lib.Family,
    arch: model_config.Architecture,
    wanted: Mapping[str, Any],
    weights: tables.Source,
) -> tables.Source:
    """The tensors under the names of the table, without buffers and copies."""
    copies = dict(family.copies)
    names: dict[str, str] = {}
    for old in weights.shapes:
        name = plain(family, old)
        full = name if name.startswith(family.prefix) else family.prefix + name
        if any(re.fullmatch(p, full) for p in family.ignored) and full not in wanted:
            continue
        if family.computed and re.fullmatch(family.computed[0], full):
            _check_computed(old, family.computed[1](arch), weights)
            continue
        if name not in wanted and (full in wanted or full in copies):
            name = full
        if name in names:
            raise command.UserError(
                f'the weights have {name} twice, as {names[name]} and as {old}; '
                'remove one.'
            )
        names[name] = old
    for copy, original in copies.items():
        if copy in names and copy not in wanted:
            old = names.pop(copy)
            first = names.setdefault(original, old)
            if not _equal(weights, first, old):
                raise command.UserError(
                    f'{old} and {first} differ, and config.json says that they are one '
                    '(tie_word_embeddings); set that to false if the model has a head '
                    'of its own.'
                )
    return _Renamed(weights, names)


class _Renamed:
    """A Source under other names."""

    def __init__(self, source: tables.Source, names: Mapping[str, str]) -> None:
        self._source, self._names = source, names
        self.shapes = {name: source.shapes[old] for name, old in names.items()}

    def read(self, name: str) -> np.ndarray:
        return self._source.read(self._names[name])


def _check_computed(name: str, right: np.ndarray, weights: tables.Source) -> None:
    """Refuses a tensor that is not, within its rounding, what we compute."""
    shape, dtype = weights.shapes[name]
    close = shape == right.shape and str(dtype) in tables.WIDENED
    if close:
        error = np.abs(weights.read(name).astype(np.float64) - right)
        close = bool((error <= max(1e-6, float(ml_dtypes.finfo(dtype).eps))).all())
    if not close:
        raise command.UserError(
            f'{name} {shape} is not the table {right.shape} of sines and cosines that '
            'is computed here in its place; a model with positions of its own cannot '
            'be read.'
        )


def _equal(weights: tables.Source, first: str, second: str) -> bool:
    """Whether two tensors are the same, bit for bit."""
    if first == second:
        return True
    if weights.shapes[first] != weights.shapes[second]:
        return False
    one, two = (weights.read(name).reshape(-1).view('u1') for name in (first, second))
    return all(
        np.array_equal(one[i : i + _BLOCK], two[i : i + _BLOCK])
        for i in range(0, len(one), _BLOCK)
    )
