"""A pipeline's description made into functions: what each engine runs, in one place."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import functools
import json
from typing import Any

from gptjax import command
from gptjax.data import documents, steps, table
from gptjax.data.origin import policy
from gptjax.data.refine import records

# What is counted besides the steps: what the reader gave, that an id is unique, and
# the licence policy.
READ, POLICY, IDS = 'read', 'licences', 'ids'
DUPLICATE = 'duplicate id'
ERROR = 'error'  # the reason where a step raised: counted as bad
INVALID = 'invalid Unicode'
_TASKS = 256  # of reading: so many files are merged into a bucket

# ('rejected', step, reason), ('documents in', step), ... and how often.
Tally = Counter[tuple[str, ...]]
Rejected = tuple[documents.Document, str, documents.Reject]
Outcome = documents.Document | Rejected


class Chain:
    """The reader, and segments of steps with a group between two of them.

    Group i follows segment i; there is one segment more than there are groups. The
    first one ends with the licence policy: a copy that may not be used never stands in
    a group for one that may.
    """

    def __init__(self, settings: Mapping[str, Any]):
        self.shards: int = settings['shards']
        name, options = _named(settings['read'], 'read')
        reader = command.lookup(table.READERS, name, 'reader')
        self._reader = command.splat(reader, 'read', options, path=settings['path'])
        self.segments: list[list[tuple[str, steps.Step]]] = [[]]
        self.groups: list[tuple[str, steps.Group]] = []
        allowed = policy.known(settings['licences'])
        self.names = [READ]
        given = [_named(one, 'steps') for one in settings['steps']]
        labels = command.numbered([name for name, _ in given])
        for label, (name, options) in zip(labels, given, strict=True):
            factory = command.lookup(table.STEPS, name, 'step')
            made = command.splat(factory, f'steps.{name}', options)
            if isinstance(made, steps.Group):
                if not self.groups:
                    self._close(allowed)
                self.groups.append((label, made))
                self.segments.append([])
            else:
                self.segments[-1].append((label, made))
            self.names.append(label)
        if not self.groups:
            self._close(allowed)

    def _close(self, allowed: frozenset[str]) -> None:
        """Ends the first segment; what comes next is that ids are unique."""
        self.segments[0].append((POLICY, lambda d: policy.check(d, allowed)))
        self.names += [POLICY, IDS]

    def parts(self) -> list[list[str]]:
        """The units of the input, for each task that reads some of them.

        How many tasks these are depends on nothing but the units.
        """
        units = self._reader.units()
        return [units[n::_TASKS] for n in range(min(len(units), _TASKS))]

    def read(
        self, units: Iterable[str], tally: Tally
    ) -> Iterator[documents.Document | documents.Skipped]:
        """What units hold, counted."""
        for unit in units:
            for found in self._read(unit):
                if isinstance(found, documents.Skipped):
                    tally['skipped', found.reason] += 1
                else:
                    _count(READ, 'in', found, tally)
                    _count(READ, 'out', found, tally)
                yield found

    def _read(self, unit: str) -> Iterator[documents.Document | documents.Skipped]:
        """What a unit holds; it ends as Skipped where its reader raises."""
        try:
            yield from map(_nameable, self._reader.read(unit))
        except (command.UserError, MemoryError):
            raise
        except Exception as error:
            yield documents.Skipped(unit, f'{ERROR}: {type(error).__name__}')

    def unique(
        self,
        document: documents.Document,
        others: Iterable[documents.Document],
        tally: Tally,
    ) -> Iterator[Rejected]:
        """The rejections of other documents of the same id."""
        _count(IDS, 'in', document, tally)
        _count(IDS, 'out', document, tally)
        for other in others:
            _count(IDS, 'in', other, tally)
            tally['rejected', IDS, DUPLICATE] += 1
            yield other, IDS, documents.Reject(DUPLICATE)

    def segment(
        self, number: int, document: documents.Document, tally: Tally
    ) -> Outcome:
        """The document after a segment, or it with the step and why it was rejected."""
        for label, step in self.segments[number]:
            after = judge(label, step, document, tally)
            if isinstance(after, documents.Reject):
                return document, label, after
            document = after
        try:
            records.encode(document)
        except UnicodeEncodeError:
            label = self.segments[number][-1][0] if self.segments[number] else READ
            tally['rejected', label, INVALID] += 1
            return document, label, documents.Reject(INVALID)
        return document

    def group(
        self,
        number: int,
        document: documents.Document,
        found: Sequence[bytes],
        tally: Tally,
    ) -> Outcome:
        """The document after a group and the segment that follows it."""
        label, group = self.groups[number]
        after = judge(label, lambda d: group.apply(d, found), document, tally)
        if isinstance(after, documents.Reject):
            return document, label, after
        return self.segment(number + 1, after, tally)

    def emit(
        self, number: int, document: documents.Document, tally: Tally
    ) -> list[tuple[int, bytes, bytes]] | Rejected:
        """(round, key, value) of all pairs that a document gives to a group."""
        label, group = self.groups[number]
        pairs: list[tuple[int, bytes, bytes]] = []
        try:
            for index, one in enumerate(group.rounds):
                if one.emit is not None:
                    pairs += [(index, key, value) for key, value in one.emit(document)]
        except (command.UserError, MemoryError):
            raise
        except Exception as error:
            tally['rejected', label, ERROR] += 1
            return document, label, documents.Reject(ERROR, repr(error)[:200])
        return pairs


def judge(
    label: str,
    step: Callable[[documents.Document], steps.Result],
    document: documents.Document,
    tally: Tally,
) -> steps.Result:
    """What a step makes of a document, counted; an exception of it is a rejection."""
    _count(label, 'in', document, tally)
    try:
        after = steps.changed(label, document, step(document))
    except (command.UserError, MemoryError):
        raise
    except Exception as error:
        after = documents.Reject(ERROR, repr(error)[:200])
    if isinstance(after, documents.Reject):
        tally['rejected', label, after.reason] += 1
        return after
    _count(label, 'out', after, tally)
    if len(after.steps) > len(document.steps):
        tally['changed', label] += 1
    return after


def _count(label: str, way: str, document: documents.Document, tally: Tally) -> None:
    tally[f'documents {way}', label] += 1
    tally[f'characters {way}', label] += len(document.whole)


@functools.lru_cache(maxsize=2)
def load(settings: str) -> Chain:
    """The chain of settings in JSON, made once in each process."""
    return Chain(_with_tuples(json.loads(settings)))


def _with_tuples(value: Any) -> Any:
    """The sequences of a config, which JSON made lists, as tuples again."""
    if isinstance(value, dict):
        return {name: _with_tuples(one) for name, one in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _named(given: Mapping[str, Any], section: str) -> tuple[str, dict[str, Any]]:
    options = dict(given)
    if 'name' not in options:
        raise command.UserError(f'{section} has an entry without a name: {options}.')
    return options.pop('name'), options


def _nameable(
    found: documents.Document | documents.Skipped,
) -> documents.Document | documents.Skipped:
    """What is found; as Skipped where its id is no Unicode that could be written."""
    if isinstance(found, documents.Document):
        try:
            found.id.encode()
        except UnicodeEncodeError:
            return documents.Skipped(found.source, INVALID)
    return found
