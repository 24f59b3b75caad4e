"""Which shards hold a document, and which steps and checkpoints of runs saw it."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

from jaxtyping import Int64
import numpy as np

from gptjax import command
from gptjax.data import dataset, ledger, lineage, mixture, permute
from gptjax.data import rows as rows_lib

_MOST = 20  # numbers, or documents, that are listed


@dataclass(frozen=True)
class Seen:
    """What a run had of some documents.

    steps: those that trained on them (step 1 is the first), of the first `last` ones.
    rows: which rows hold them, in words.
    after, before: checkpoints that did and that did not see them in this workdir.
    through: the same of the workdir whose weights it began with. unknown: what cannot
    be told, if something cannot.
    """

    workdir: str
    last: int = 0
    steps: tuple[int, ...] = ()
    rows: str = ''
    after: tuple[int, ...] = ()
    before: tuple[int, ...] = ()
    through: 'Seen | None' = None
    unknown: str = ''

    @property
    def affected(self) -> bool:
        """Whether its weights have learned from the documents."""
        return bool(self.steps) or (self.through is not None and self.through.affected)

    def __str__(self) -> str:
        lines = [f'{self.workdir}: never trained on it in {self.last:,} steps']
        if self.steps:
            lines = [
                f'{self.workdir}: trained on it in {len(self.steps):,} of its '
                f'{self.last:,} steps: {_spans(self.steps)}',
                f'  {self.rows}',
                f'  checkpoints that saw it: {_spans(self.after)}; '
                f'from before: {_spans(self.before)}',
            ]
        if self.unknown:
            lines = [*lines[: bool(self.steps) * 3], f'{self.workdir}: {self.unknown}']
        if self.through is not None:
            lines.append('  it began with the weights of')
            lines += [f'  {line}' for line in str(self.through).splitlines()]
        return '\n'.join(lines)


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
        yield tracer.run(Path(workdir), None)


class _Tracer:
    def __init__(self, built: dataset.Dataset, found: Sequence[ledger.Entry]):
        self._built = built
        self._found = found
        self._rows: dict[Any, tuple[rows_lib.Rows, Int64[np.ndarray, ' rows']]] = {}

    def run(self, workdir: Path, limit: int | None) -> Seen:
        """What a run saw; limit: the step beyond which it does not matter."""
        checkpoints = _checkpoints(workdir)
        last = max([0, *checkpoints, _logged(workdir)])
        last = last if limit is None else limit
        known = lineage.read(workdir)
        if known is None:
            unknown = 'it has no data.json, and what its weights learned is not known'
            return Seen(str(workdir), last, unknown=unknown)
        steps, unknown = self._steps(known['trained_on'], last)
        first = steps[0] if steps else last + 1
        counted = [step for step in checkpoints if limit is None or step <= limit]
        return Seen(
            str(workdir),
            last,
            steps,
            self._said(),
            tuple(step for step in counted if step >= first),
            tuple(step for step in counted if step < first),
            self._through(known['began_with']),
            unknown,
        )

    def _through(self, began: Mapping[str, Any] | None) -> Seen | None:
        if began is None:
            return None
        workdir = Path(began['workdir'])
        if (workdir / lineage.FILE).exists() or began['data'] is None:
            return self.run(workdir, began['step'])
        steps, unknown = self._steps(began['data']['trained_on'], began['step'])
        before = self._through(began['data']['began_with'])
        last, said = began['step'], self._said()
        return Seen(str(workdir), last, steps, said, (), (), before, unknown)

    def _steps(
        self, parts: Sequence[Mapping[str, Any]], last: int
    ) -> tuple[tuple[int, ...], str]:
        """The steps up to `last` that read the documents, and what is not known."""
        steps: set[int] = set()
        unknown = ''
        if parts and parts[0]['step']:
            unknown = f'what it read before step {parts[0]["step"]} is not known'
        ends = [part['step'] for part in parts[1:]] + [last]
        for part, end in zip(parts, ends, strict=True):
            for number, one in enumerate(part['datasets']):
                if one['digest'] == self._built.manifest['digest']:
                    steps.update(self._part(part, number, min(end, last)).tolist())
                elif Path(one['path']).resolve() == self._built.folder.resolve():
                    unknown = (
                        f'{one["path"]} was another dataset when it trained on it '
                        f'(digest {one["digest"][:12]})'
                    )
        return tuple(sorted(steps)), unknown

    def _part(
        self, part: Mapping[str, Any], number: int, end: int
    ) -> Int64[np.ndarray, ' steps']:
        """The steps of a part, up to `end`, that read the documents.

        number: of the dataset among those of the part.
        """
        rows, chosen = self._of(part['T'], part['packing'])
        n, first, size = len(rows), part['row'], part['batch_size']
        after, seed = first + (end - part['step']) * size, part['seed']
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
        stream = stream[(first <= stream) & (stream < after)]
        return np.unique(part['step'] + 1 + (stream - first) // size)

    def _said(self) -> str:
        """The rows that were looked up so far, in words."""
        parts = [
            f'rows of {T} tokens{", packed" if packing else ""}: '
            f'{_spans(chosen.tolist())} of {len(rows):,}'
            for (T, packing), (rows, chosen) in self._rows.items()
        ]
        return '; '.join(parts)

    def _of(
        self, T: int, packing: str | None
    ) -> tuple[rows_lib.Rows, Int64[np.ndarray, ' rows']]:
        """The rows of T tokens, and the numbers of those that hold the documents."""
        if (T, packing) not in self._rows:
            rows: Any = self._built.rows('train', T, packing)
            found = [rows.rows_of(e.place, e.place + e.tokens) for e in self._found]
            none = np.zeros(0, np.int64)
            self._rows[T, packing] = rows, np.unique(np.concatenate([none, *found]))
        return self._rows[T, packing]


def _checkpoints(workdir: Path) -> list[int]:
    return sorted(
        int(p.parent.name) for p in workdir.glob('checkpoints/*/manifest.json')
    )


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
    shown = dataclasses.asdict(entry)
    shown['steps'] = ', '.join(entry.steps)
    names = (
        'id', 'source', 'licence', 'evidence', 'url', 'retrieved', 'opt_out',
        'language', 'steps', 'sha256',
    )  # fmt: skip
    return '\n'.join(f'{name:10}{shown[name]}' for name in names if shown[name])


def _places(found: Sequence[ledger.Entry]) -> str:
    """Where the documents are, by shard."""
    lines = []
    if len(found) <= _MOST:
        return '\n'.join(
            f'{e.shard}: {e.id}, tokens {e.start:,} to {e.end:,}'
            f'{"" if e.sequences == 1 else f", {e.sequences} sequences"}'
            for e in found
        )
    for shard in dict.fromkeys(entry.shard for entry in found):
        here = [entry for entry in found if entry.shard == shard]
        tokens = sum(entry.tokens for entry in here)
        lines.append(f'{shard}: {len(here):,} documents, {tokens:,} tokens')
    return '\n'.join(lines)


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
