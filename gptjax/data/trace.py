"""Which shards hold a document, and which steps and checkpoints of runs saw it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

from jaxtyping import Int64
import numpy as np

from gptjax import command
from gptjax.data import dataset, ledger, lineage, mixture, permute, prompts
from gptjax.data import rows as rows_lib

_MOST = 20  # numbers, or documents, that are listed


@dataclass(frozen=True)
class Seen:
    """What a run had of some documents.

    steps: those that trained on them (step 1 is the first), of the first `last` ones.
    checkpoints: the steps of those that are there.
    others: the paths of other datasets that it read, in which nobody looked.
    through: the same of the workdir whose weights it began with. unknown: what cannot
    be told, if something cannot.
    """

    workdir: str
    last: int
    steps: tuple[int, ...] = ()
    checkpoints: tuple[int, ...] = ()
    others: tuple[str, ...] = ()
    through: 'Seen | None' = None
    unknown: str = ''

    @property
    def affected(self) -> bool:
        """Whether its weights have learned from the documents."""
        return bool(self.steps) or (self.through is not None and self.through.affected)

    @property
    def after(self) -> tuple[int, ...]:
        """The checkpoints of this workdir that saw the documents."""
        return tuple(c for c in self.checkpoints if self.steps and c >= self.steps[0])

    def __str__(self) -> str:
        lines = []
        if self.steps:
            before = self.checkpoints[: len(self.checkpoints) - len(self.after)]
            lines = [
                f'trained on it in {len(self.steps):,} of its {self.last:,} steps: '
                f'{_spans(self.steps)}',
                f'checkpoints that saw it: {_spans(self.after)}; '
                f'from before: {_spans(before)}',
            ]
        elif not self.unknown:
            lines = [f'never trained on it in {self.last:,} steps']
        lines += [self.unknown] if self.unknown else []
        lines += [
            f'it also read {path}, which may hold the same; ask with --data={path}'
            for path in self.others
        ]
        if self.through is not None:
            lines += ['it began with the weights of', *str(self.through).splitlines()]
        return f'{self.workdir}: ' + '\n  '.join(lines)


def trace(
    data: Path | str,
    document: str | None,
    source: str | None,
    workdirs: Sequence[Path | str],
) -> str:
    """Where a document of a dataset is, or all of a source, and what runs saw of it.

    Raises UserError unless one of document (an id) and source is given, and where the
    dataset has none of it or a workdir is missing.
    """
    if (document is None) == (source is None):
        raise command.UserError('trace needs one of --document=ID and --source=NAME.')
    wanted = ledger.Wanted(
        documents=[] if document is None else [document],
        sources=[] if source is None else [source],
    )
    built = dataset.open(data)
    found = ledger.find(built, wanted)
    parts = [_places(found)]
    if document is not None:
        parts.insert(0, _origin(found[0]))
    parts += [str(seen) for seen in runs(built, found, workdirs)]
    return '\n\n'.join(parts)


def runs(
    built: dataset.Dataset,
    found: Sequence[ledger.Entry],
    workdirs: Sequence[Path | str],
) -> Iterator[Seen]:
    """What each of the workdirs saw of these documents of a dataset."""
    tracer = _Tracer(built, [entry for entry in found if entry.split == 'train'])
    for workdir in workdirs:
        if not Path(workdir).is_dir():
            raise command.UserError(f'--workdir={workdir} is not there; name a folder.')
        yield tracer.run(Path(workdir))


def held(
    built: dataset.Dataset, rows: Any, chosen: Int64[np.ndarray, ' n']
) -> list[ledger.Entry]:
    """The documents of the training split of which some rows hold a token, in order.

    rows: those of the dataset, or its prompts, of which these are `chosen`.
    """

    def among(start: int, end: int) -> bool:
        return bool(np.isin(rows.rows_of(start, end), chosen).any())

    def search(found: Sequence[ledger.Entry]) -> Iterator[ledger.Entry]:
        if not found or not among(found[0].place, found[-1].place + found[-1].tokens):
            return
        if len(found) == 1:
            yield found[0]
            return
        half = len(found) // 2
        yield from search(found[:half])
        yield from search(found[half:])

    return list(search(list(ledger.entries(built, 'train', among))))


class _Tracer:
    def __init__(self, built: dataset.Dataset, found: Sequence[ledger.Entry]):
        self._built = built
        self._found = found
        self._known: dict[Any, tuple[rows_lib.Rows, Int64[np.ndarray, ' rows']]] = {}

    def run(
        self,
        workdir: Path,
        limit: int | None = None,
        recorded: Mapping[str, Any] | None = None,
    ) -> Seen:
        """What a run saw.

        limit: the step beyond which it does not matter. recorded: its lineage, where
        another run kept it; the workdir may be gone then.
        """
        checkpoints = _checkpoints(workdir)
        last = max([0, *checkpoints, _logged(workdir)]) if limit is None else limit
        known = recorded or lineage.read(workdir)
        if known is None:
            unknown = 'it has no data.json, and what its weights learned is not known'
            return Seen(str(workdir), last, unknown=unknown)
        parts, began = known['trained_on'], known['began_with']
        unknown = ''
        if parts and parts[0]['step']:
            unknown = f'what it read before step {parts[0]["step"]} is not known'
        steps: set[int] = set()
        others: dict[str, None] = {}
        ends = [part['step'] for part in parts[1:]] + [last]
        for part, end in zip(parts, ends, strict=True):
            for number, one in enumerate(part['datasets']):
                if one['digest'] == self._built.content:
                    steps.update(self._steps(part, number, min(end, last)).tolist())
                elif Path(one['path']).resolve() == self._built.folder.resolve():
                    unknown = (
                        f'{one["path"]} was another dataset when it trained on it '
                        f'(digest {one["digest"][:12]})'
                    )
                else:
                    others[one['path']] = None
        return Seen(
            str(workdir),
            last,
            tuple(sorted(steps)),
            tuple(step for step in checkpoints if step <= last),
            tuple(others),
            began and self.run(Path(began['workdir']), began['step'], began['data']),
            unknown,
        )

    def _steps(
        self, part: Mapping[str, Any], number: int, end: int
    ) -> Int64[np.ndarray, ' steps']:
        """The steps of a part, up to `end`, that read the documents.

        number: of the dataset among those of the part.
        """
        # Runs of before there was a choice have cut.
        how = dict(packing=part['packing'], longer=part.get('longer', 'cut'))
        how['feedback'] = part.get('feedback', False)
        asked = part.get('rollout', {'prompt_tokens': None, 'updates': 1})
        rows, chosen = self._rows(asked['prompt_tokens'], part['T'], **how)
        n, first, size = len(rows), part['row'], part['batch_size']
        updates = asked['updates']  # of one rollout, which reads `size` prompts
        begin = -(-part['step'] // updates) * updates
        batches, skips = max(-(-(end - begin) // updates), 0), part.get('skips', ())
        read = list(lineage.stretches(first, size, batches, skips))
        after = max([first, *(row + count * size for _, row, count in read)])
        seed = part['seed']
        if part['mixture'] is None:
            found = [
                epoch * n + permute.inverse(chosen, n, permute.mix(seed, epoch))
                for epoch in range(first // n, -(-after // n))
            ]
            stream = np.concatenate([np.zeros(0, np.int64), *found])
        else:
            both = zip(part['datasets'], part['mixture'], strict=True)
            sources = [  # the rows of the others do not matter, only their weights
                mixture.Source(
                    rows, int(one['digest'][:16], 16), list(map(tuple, said['weights']))
                )
                for one, said in both
            ]
            mixed = mixture.Mixture(sources, size)
            stream = mixed.positions(number, chosen, after, seed)
        steps = [np.zeros((0, updates), np.int64)]
        for batch, row, count in read:
            mine = stream[(row <= stream) & (stream < row + count * size)]
            draws = batch + (mine - row)[:, None] // size
            steps.append(begin + draws * updates + np.arange(updates))
        every = np.concatenate(steps)
        return np.unique(every[every < end] + 1)

    def _rows(
        self, prompt_tokens: int | None, T: int, **how: Any
    ) -> tuple[rows_lib.Rows, Int64[np.ndarray, ' rows']]:
        """The rows of T tokens, and the numbers of those that hold the documents.

        prompt_tokens: where rows are the prompts of rollouts.
        """
        key = prompt_tokens, T, *how.values()
        if key not in self._known:
            rows: Any
            if prompt_tokens is None:
                rows = self._built.rows('train', T, **how)
            else:
                rows = prompts.Prompts(self._built, 'train', prompt_tokens)
            found = [rows.rows_of(e.place, e.place + e.tokens) for e in self._found]
            none = np.zeros(0, np.int64)
            self._known[key] = rows, np.unique(np.concatenate([none, *found]))
        return self._known[key]


def _checkpoints(workdir: Path) -> list[int]:
    found = (path.parent.name for path in workdir.glob('checkpoints/*/manifest.json'))
    return sorted(int(name) for name in found if name.isdecimal())


def _logged(workdir: Path) -> int:
    """The last step in metrics.jsonl; a line cut short by a kill does not count."""
    path, last = workdir / 'metrics.jsonl', 0
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            last = json.loads(line)['step']
        except ValueError:
            break
    return last


def _origin(entry: ledger.Entry) -> str:
    """What the ledger says of a document."""
    shown = {name: getattr(entry, name) for name in (*ledger.ORIGIN, 'sha256')}
    shown['steps'] = ', '.join(entry.steps)
    return '\n'.join(f'{name:10}{value}' for name, value in shown.items() if value)


def _places(found: Sequence[ledger.Entry]) -> str:
    """Where documents are: each of a few; of many, how many a shard has."""
    if len(found) <= _MOST:
        return '\n'.join(
            f'{e.shard}: {e.id}, tokens {e.start:,} to {e.end:,}'
            f'{"" if e.sequences == 1 else f", {e.sequences} sequences"}'
            for e in found
        )
    counts: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for entry in found:
        counts[entry.shard] += 1
        tokens[entry.shard] += entry.tokens
    return '\n'.join(
        f'{shard}: {n:,} documents, {tokens[shard]:,} tokens'
        for shard, n in counts.items()
    )


def _spans(numbers: Sequence[int]) -> str:
    """'1, 3-5, 9': ascending numbers; of many, the first ones and how many more."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    shown = [str(a) if a == b else f'{a}-{b}' for a, b in spans[:_MOST]]
    more = f', ... to {numbers[-1]}' if len(spans) > _MOST else ''
    return (', '.join(shown) or 'none') + more
