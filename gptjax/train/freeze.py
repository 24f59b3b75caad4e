"""Which parameters are trained, and which stay as they are: transfer learning.

A pattern names leaves by their paths (`python -m gptjax.train show` lists them), where
`*` stands for any characters; one that names a branch stands for all below it. After
`blocks`, whose leaves are stacked, brackets pick layers as Python slices do:

    tokens                     the embedding of tokens
    blocks[:6]                 the first 6 layers
    blocks[-1]/attention       attention in the last layer
    encoder                    the encoder of an encoder-decoder
    *bias                      every bias

What is frozen has no optimizer moments and no gradient, counts in no norm, and is the
same bit for bit after training.
"""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

import numpy as np

from gptjax import command, core, trees

_STACK = 'blocks'
_SLICE = re.compile(r'\[(-?\d*)(:?)(-?\d*)\]')


@dataclasses.dataclass(frozen=True)
class Trained:
    """The trained part of parameters of one shape.

    layers: for each leaf that is frozen, the layers of it that are trained all the
    same: () for none.
    """

    layers: Mapping[str, tuple[int, ...]]

    def prune(self, tree: core.Params) -> core.Params:
        """The tree without the leaves that are frozen whole."""
        return _prune(tree, '', self.layers)

    def take(self, params: core.Params) -> core.Params:
        """The trained part: leaves that are frozen in some layers have the others."""

        def part(path: str, leaf: Any) -> Any:
            return leaf[_rows(self.layers[path])] if path in self.layers else leaf

        return trees.map_with_path(part, self.prune(params))

    def put(self, params: core.Params, part: core.Params) -> core.Params:
        """`params` with the trained part of them replaced by `part`."""
        new = dict(trees.paths(part))

        def whole(path: str, leaf: Any) -> Any:
            if path not in new:
                return leaf
            if path not in self.layers:
                return new[path]
            return leaf.at[_rows(self.layers[path])].set(new[path])

        return trees.map_with_path(whole, params)


EVERYTHING = Trained({})


def select(shapes: core.Params, patterns: Any) -> Trained:
    """What is trained where `patterns` are frozen; `shapes` is a tree of parameters.

    Raises UserError for a pattern that is malformed, names nothing or takes layers that
    are not there, and where nothing is left to train.
    """
    leaves = dict(trees.paths(shapes))
    frozen: dict[str, set[int]] = {}
    for found in matches('optimizer.freeze', patterns, leaves).values():
        for path, rows in found.items():
            frozen.setdefault(path, set()).update(rows)
    layers = {
        path: tuple(
            row for row in range(_length(path, leaves[path])) if row not in rows
        )
        for path, rows in frozen.items()
    }
    if leaves and all(layers.get(path) == () for path in leaves):
        raise command.UserError(
            f'optimizer.freeze={list(patterns)} leaves nothing to train.'
        )
    return Trained(layers)


def check_stages(trained: Trained, stages: int) -> None:
    """Raises UserError where stages do not divide the layers left of a stack."""
    for path, left in trained.layers.items():
        if len(left) % stages:
            raise command.UserError(
                f'optimizer.freeze leaves {len(left)} layers of {path} to train, which '
                f'mesh.stage of {stages} does not divide; freeze another number of '
                'layers, or take a mesh without stages.'
            )


def matches(
    setting: str, patterns: Any, leaves: Mapping[str, Any]
) -> dict[str, dict[str, range | tuple]]:
    """For each pattern the leaves that it names, and their layers: (0,) of no stack.

    Raises UserError, which names `setting`, as `select`.
    """
    if not isinstance(patterns, list | tuple) or not all(
        isinstance(pattern, str) for pattern in patterns
    ):
        raise command.UserError(
            f'{setting} is {patterns!r}; it is a list of patterns of parameter paths, '
            "e.g. ('tokens', 'blocks/mlp')."
        )
    return {pattern: _matches(setting, pattern, leaves) for pattern in patterns}


def _matches(
    setting: str, pattern: str, leaves: Mapping[str, Any]
) -> dict[str, range | tuple]:
    plain = _SLICE.sub('', pattern)
    picks = _SLICE.findall(pattern)
    before = _SLICE.split(pattern)[0]
    if (
        '[' in plain
        or ']' in plain
        or len(picks) > 1
        or (picks and before.split('/')[-1] != _STACK)
    ):
        raise command.UserError(
            f'{setting} has {pattern!r}; brackets pick layers behind '
            f"{_STACK!r}, as in '{_STACK}[0:6]/*'."
        )
    regex = re.compile('.*'.join(map(re.escape, plain.split('*'))) + '(/.*)?')
    found = [path for path in leaves if regex.fullmatch(path)]
    if not found:
        branches = {path.rsplit('/', n)[0] for path in leaves for n in range(9)}
        raise command.UserError(
            f'{setting} has {pattern!r}, which names no parameter; '
            f'{command.did_you_mean(plain, sorted(branches))}'
        )
    rows = {path: range(_length(path, leaves[path])) for path in found}
    if not picks:
        return dict(rows)
    return {
        path: _pick(setting, pattern, picks[0], length) for path, length in rows.items()
    }


def _pick(
    setting: str, pattern: str, pick: tuple[str, str, str], rows: range
) -> range | tuple:
    first, colon, last = pick
    if colon:
        chosen = rows[int(first) if first else None : int(last) if last else None]
    else:
        at = int(first or len(rows))
        chosen = rows[at:][:1] if -len(rows) <= at else rows[:0]
    ends = [int(number) for number in (first, last) if number]
    if not chosen or any(abs(number) > len(rows) for number in ends):
        raise command.UserError(
            f'{setting} has {pattern!r}, and there are {len(rows)} layers; name '
            f'some of 0 to {len(rows) - 1}.'
        )
    return chosen


def _length(path: str, leaf: Any) -> int:
    """Layers in a leaf; one that is not stacked counts as one."""
    return int(leaf.shape[0]) if _STACK in path.split('/') else 1


def _prune(tree: Any, path: str, layers: Mapping[str, tuple[int, ...]]) -> Any:
    kept = {}
    for name, child in tree.items():
        below = f'{path}/{name}' if path else name
        if isinstance(child, Mapping):
            child = _prune(child, below, layers)
            if child:
                kept[name] = child
        elif layers.get(below) != ():
            kept[name] = child
    return kept


def _rows(layers: tuple[int, ...]) -> Any:
    """An index of these rows: a slice where they follow each other."""
    if layers == tuple(range(layers[0], layers[0] + len(layers))):
        return slice(layers[0], layers[-1] + 1)
    return np.array(layers)
