"""Several datasets as one stream of rows, by weights that change with the step.

Each source is an endless stream of its own: its rows, epoch after epoch, in orders that
depend on the seed and on what the source holds. A row of the mixture is the next row of
one source, and which one is a pure function of (weights, seed, row):

- The stream has a phase for each set of weights, from `step * batch_size` on.
- A phase is read in blocks of BLOCK rows. Up to the end of each block, every source has
  as many rows as its weight says: to half a row with two sources, to one or two with
  many (`_counts`). Where in the block they stand, `permute` says.

So a later phase, or a source that joins in one, changes no row before it, and the
streams of the other sources go on where they were.
"""

import bisect
from collections.abc import Callable, Mapping, Sequence
import dataclasses
from dataclasses import dataclass
from fractions import Fraction
import functools
import math
from typing import Any

from jaxtyping import Int64
import numpy as np

from gptjax import command
from gptjax.data import dataset, permute
from gptjax.data import rows as rows_lib
from gptjax.text import tokenizer as tokenizer_lib

BLOCK = 4096

Numbers = Int64[np.ndarray, ' n']
Weights = Sequence[tuple[int, int | float]]  # (first step, weight), ascending from 0


@dataclass(frozen=True)
class Source:
    """One source of a mixture.

    key: what its order depends on besides the seed; no two have the same.
    """

    rows: rows_lib.Rows
    key: int
    weights: Weights
    name: str = ''  # of its figures in an evaluation


class Mixture:
    """The rows of all sources, and the order in which a stream mixes them.

    As `Rows` it is the sources one after another: what an evaluation reads. `draw` is
    the order of training, for steps of `batch_size` rows.
    """

    def __init__(self, sources: Sequence[Source], batch_size: int):
        of_each = (source.rows.dtypes for source in sources)
        self.dtypes: rows_lib.Dtypes = {
            name: kind for one in of_each for name, kind in one.items()
        }
        self._sources = sources
        self._batch_size = batch_size
        lengths = [len(source.rows) for source in sources]
        self._offsets = np.cumsum([0, *lengths], dtype=np.int64)
        steps = sorted({step for source in sources for step, _ in source.weights})
        self._starts = np.array(steps, np.int64) * batch_size
        self._ratios = [_ratios([_at(s.weights, step) for s in sources], step)
                        for step in steps]  # fmt: skip
        # What was worked out lately: a batch is a small part of a block.
        self._block = functools.lru_cache(32)(self._made_block)
        self._bases = functools.lru_cache(4)(self._made_bases)

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def parts(self) -> dict[str, rows_lib.Rows]:
        """The rows of each source by its name."""
        return {source.name: source.rows for source in self._sources}

    def over(self, change: Callable[[rows_lib.Rows, int], rows_lib.Rows]) -> 'Mixture':
        """This order of changed rows; `change` has those of a source, and the first."""
        changed = [
            dataclasses.replace(source, rows=change(source.rows, int(first)))
            for source, first in zip(self._sources, self._offsets, strict=False)
        ]
        return Mixture(changed, self._batch_size)

    def read(self, indices: Numbers, epochs: Numbers | None = None) -> rows_lib.Arrays:
        """The rows with these numbers, of the sources one after another.

        Pairs of a source without margins have margins of 0 beside those of others.
        """
        out: rows_lib.Arrays = {}
        which = np.searchsorted(self._offsets, indices, side='right') - 1
        for number in np.unique(which):
            chosen = np.flatnonzero(which == number)
            part = self._sources[number].rows.read(
                indices[chosen] - self._offsets[number],
                None if epochs is None else epochs[chosen],
            )
            for name, array in part.items():
                shape = (len(indices), *array.shape[1:])
                whole = out.setdefault(name, np.zeros(shape, array.dtype))
                whole[chosen] = array
        if 'margins' in self.dtypes:
            out.setdefault('margins', np.zeros(len(indices), np.float32))
        return out

    def draw(self, stream: Numbers, seed: int) -> tuple[Numbers, Numbers]:
        """The rows (for `read`) at these places of the stream, and their epochs."""
        source, number = np.empty_like(stream), np.empty_like(stream)
        phase = np.searchsorted(self._starts, stream, side='right') - 1
        block, place = np.divmod(stream - self._starts[phase], BLOCK)
        for one in sorted(set(zip(phase.tolist(), block.tolist(), strict=True))):
            chosen = np.flatnonzero((phase == one[0]) & (block == one[1]))
            sources, numbers = self._block(seed, *one)
            source[chosen] = sources[place[chosen]]
            number[chosen] = numbers[place[chosen]]
        indices, epochs = np.empty_like(stream), np.empty_like(stream)
        for which in np.unique(source):
            chosen = np.flatnonzero(source == which)
            rows, key = self._sources[which].rows, self._sources[which].key
            epochs[chosen], local = np.divmod(number[chosen], len(rows))
            keys = permute.mix(seed ^ key, epochs[chosen])
            image = permute.permute(local, len(rows), keys)
            indices[chosen] = self._offsets[which] + image
        return indices, epochs

    def positions(
        self, source: int, rows: Numbers, until: int, seed: int
    ) -> Int64[np.ndarray, ' found']:
        """Where in the first `until` rows of the stream these rows of a source stand.

        source: its number in the mixture. rows: numbers of its own rows. Ascending.
        """
        n, key = len(self._sources[source].rows), self._sources[source].key
        total = int(self._before(seed, until)[source])
        found: list[int] = []
        for epoch in range(-(-total // n)):
            local = permute.inverse(rows, n, permute.mix(seed ^ key, epoch))
            numbers = (epoch * n + local).tolist()
            found += [self._place(seed, source, k, until) for k in numbers if k < total]
        return np.array(sorted(found), np.int64)

    def _place(self, seed: int, source: int, number: int, until: int) -> int:
        """The place in the stream of a source's row `number`, which is before until."""
        bases = self._bases(seed)[:, source]
        phase = int(np.searchsorted(bases, number, side='right')) - 1
        number -= int(bases[phase])

        def count(block: int) -> int:
            return self._counts(phase, block * BLOCK)[source]

        blocks = range(until // BLOCK + 1)
        block = bisect.bisect_right(blocks, number, key=count) - 1
        order = self._order(seed, phase, block)
        place = np.flatnonzero(order == source)[number - count(block)]
        return int(self._starts[phase] + block * BLOCK + place)

    def _before(self, seed: int, row: int) -> Numbers:
        """How many rows of each source are among the first `row` of the stream."""
        phase = max(int(np.searchsorted(self._starts, row)) - 1, 0)
        return self._bases(seed)[phase] + self._within(seed, phase, row)

    def _made_bases(self, seed: int) -> Int64[np.ndarray, 'phases sources']:
        """How many rows of each source there are before each phase."""
        grown = [np.zeros(len(self._sources), np.int64)]
        for phase, end in enumerate(self._starts[1:].tolist()):
            grown.append(self._within(seed, phase, end))
        return np.cumsum(grown, axis=0)

    def _within(self, seed: int, phase: int, row: int) -> Numbers:
        """How many rows of each source a phase has before this row of the stream."""
        block, rest = divmod(row - int(self._starts[phase]), BLOCK)
        counts = np.array(self._counts(phase, block * BLOCK))
        if rest:  # the block that a later phase cuts off is the one that it was
            begun = self._order(seed, phase, block)[:rest]
            counts += np.bincount(begun, minlength=len(counts))
        return counts

    def _made_block(self, seed: int, phase: int, block: int) -> tuple[Numbers, Numbers]:
        """The source of each row of a block, and its number in that source's stream."""
        sources, numbers = self._order(seed, phase, block), np.empty(BLOCK, np.int64)
        first = self._bases(seed)[phase] + self._counts(phase, block * BLOCK)
        for source, begin in enumerate(first.tolist()):
            mine = np.flatnonzero(sources == source)
            numbers[mine] = begin + np.arange(len(mine))
        return sources, numbers

    def _order(self, seed: int, phase: int, block: int) -> Numbers:
        """The source of each row of a block: as many of each as its count grows by."""
        quotas = np.diff(
            [self._counts(phase, (block + i) * BLOCK) for i in (0, 1)], axis=0
        )
        start = int(self._starts[phase]) + block * BLOCK
        key = permute.mix(permute.mix(seed, start // 2**32), start % 2**32)
        image = permute.permute(np.arange(BLOCK), BLOCK, key)
        return np.repeat(np.arange(len(self._sources)), quotas[0])[image]

    def _counts(self, phase: int, rows: int) -> list[int]:
        """How many of the first `rows` rows of a phase each source has.

        One source after another takes its share of what is left, to the nearest row:
        so no count ever falls, and the counts add up.
        """
        counts = []
        for ratio in self._ratios[phase]:
            counts.append(math.floor(rows * ratio + Fraction(1, 2)))
            rows -= counts[-1]
        return counts


def _at(weights: Weights, step: int) -> Fraction:
    """The weight at a step: that of the last knot which is not later."""
    return next(Fraction(w) for first, w in reversed(weights) if first <= step)


def _ratios(weights: Sequence[Fraction], step: int) -> list[Fraction]:
    """Of each weight, its share of itself and those after it."""
    if not sum(weights):
        raise command.UserError(
            f'all weights of data.mixture are 0 from step {step} on; give one source a '
            'weight above 0.'
        )
    rest = [sum(weights[i:], Fraction(0)) for i in range(len(weights))]
    return [w / r if r else r for w, r in zip(weights, rest, strict=True)]


@dataclass(frozen=True)
class Entry:
    """One entry of `data.mixture`: a built dataset, and ((step, weight), ...)."""

    path: str
    weights: Any

    def __post_init__(self) -> None:
        steps: list[Any] = []
        given = isinstance(self.weights, Sequence)
        for knot in self.weights if given else [self.weights]:
            match knot:
                case [int(step), int() | float() as weight] if 0 <= weight < math.inf:
                    steps.append(step)
                case _:
                    raise command.UserError(
                        f'data.mixture has the weight {knot!r} for {self.path}; write '
                        '(step, weight), such as (0, 0.7).'
                    )
        if not steps or steps[0] or steps != sorted(set(steps)):
            raise command.UserError(
                f'data.mixture has weights of {self.path} at the steps {steps}; they '
                'need to ascend from step 0.'
            )


class Mixed:
    """The datasets of `data.mixture`, opened, with what they have in common."""

    def __init__(self, entries: Sequence[Mapping[str, Any]], batch_size: int):
        """Raises UserError for datasets that do not go together, and as `open` does."""
        found = [command.splat(Entry, 'data.mixture', entry) for entry in entries]
        if not found:
            raise command.UserError('data.mixture is empty; name at least one source.')
        self._weights = [[(k, w) for k, w in entry.weights] for entry in found]
        self._batch_size = batch_size
        self.datasets = [dataset.open(entry.path) for entry in found]
        self.labels = self.datasets[0].labels
        first, digests = self.datasets[0], set()
        for one in self.datasets:
            if (
                one.manifest['tokenizer']['digest']
                != first.manifest['tokenizer']['digest']
            ):
                raise command.UserError(
                    f'{one.folder} and {first.folder} have different tokenizers; build '
                    f'one with that of the other: tokenizer = dict(name="folder", '
                    f'path="{first.folder}").'
                )
            if one.labels != first.labels:
                raise command.UserError(
                    f'{one.folder} has the classes {one.labels} and {first.folder} '
                    f'{first.labels}; a mixture needs the same ones.'
                )
            if one.content in digests:
                raise command.UserError(
                    f'{one.folder} is twice in data.mixture; name it once, with the '
                    'sum of the weights.'
                )
            digests.add(one.content)

    def tokenizer(self) -> tokenizer_lib.Tokenizer:
        """The tokenizer of all of them."""
        return self.datasets[0].tokenizer()

    def mix(
        self, split: str, of: Callable[[dataset.Dataset], rows_lib.Rows]
    ) -> Mixture:
        """The mixture of the rows that `of` finds in each dataset.

        Only those that hold something out have a part in 'validation'.
        """
        pairs = list(zip(self.datasets, self._weights, strict=True))
        if split != 'train':
            pairs = [pair for pair in pairs if pair[0].shards(split)] or pairs[:1]
        names = [one.folder.name for one, _ in pairs]
        sources = []
        for (one, weights), name in zip(pairs, names, strict=True):
            known_by = name if names.count(name) == 1 else str(one.folder)
            key = int(one.content[:16], 16)
            # An evaluation has no steps: a source that joins later is there as well.
            knots = weights if split == 'train' else [(0, 1)]
            sources.append(Source(of(one), key, knots, known_by))
        return Mixture(sources, self._batch_size)
