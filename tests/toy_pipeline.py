"""A reader, steps and groups that are small, for tests of engines; and a command.

`python toy_pipeline.py FOLDER OUTPUT WORKERS` runs a pipeline of them.
"""

import hashlib
import json
import os
from pathlib import Path
import sys

from gptjax.data import documents, steps, table

LICENCES = ('CC0-1.0', 'MIT')


class Lines:
    """Lines of .jsonl: 'bad' is skipped, 'raise' raises."""

    def __init__(self, path: str):
        self.path = Path(path)

    def units(self):
        return sorted(p.name for p in self.path.glob('*.jsonl'))

    def read(self, unit):
        for number, line in enumerate((self.path / unit).read_text().splitlines()):
            if line == 'bad':
                yield documents.Skipped(unit, 'bad line', number)
            elif line == 'raise':
                raise ZeroDivisionError
            else:
                fields = json.loads(line)
                fields['steps'] = tuple(fields.get('steps', ()))
                yield documents.Document(**fields)


def lower():
    return lambda d: d.changed(str.lower)


def least(*, characters: int):
    def judge(d):
        if 'explode' in d.whole:
            raise KeyError('explode')
        if len(d.whole) < characters:
            return documents.Reject('short', float(len(d.whole)))
        return d

    return judge


def words():
    def measure(d):
        n = len(d.whole.split())
        return documents.dataclasses.replace(
            d, signals={**d.signals, 'words': float(n), 'share': 1 / n}
        )

    return measure


class Exact:
    """One document of each text: that of the smallest id."""

    def __init__(self):
        def emit(d):
            yield hashlib.sha256(d.whole.encode()).digest(), d.id.encode()

        def reduce(key, values):
            kept = next(values)
            for value in values:
                yield documents.key(value.decode()), kept

        self.rounds = [steps.Round(reduce, emit)]

    def apply(self, document, found):
        if found:
            return documents.Reject('duplicate', found[0].decode())
        return document


class Neighbours:
    """How many documents begin with the letter, and how long the longest of them is.

    Two rounds, both with pairs of their own.
    """

    def __init__(self):
        def first(d):
            yield d.whole[:1].encode(), d.key

        def count(key, values):
            found = list(values)
            for one in found:
                yield key, b'1' + one + str(len(found)).encode()

        def second(d):
            yield d.whole[:1].encode(), b'0%09d' % len(d.whole)

        def join(key, values):
            longest = 0
            for value in values:
                if value[:1] == b'0':
                    longest = int(value[1:])
                else:
                    yield value[1:17], value[17:] + b' %d' % longest
                    yield value[1:17], b'a'

        self.rounds = [steps.Round(count, first), steps.Round(join, second)]

    def apply(self, document, found):
        counted, letter = found
        assert letter == b'a'
        number, longest = map(float, counted.split())
        if number == 1:
            return documents.Reject('alone')
        signals = {**document.signals, 'peers': number, 'longest': longest}
        return documents.dataclasses.replace(document, signals=signals)


READERS = {'toy.lines': Lines}
STEPS = {
    'toy.lower': lower,
    'toy.least': least,
    'toy.words': words,
    'toy.exact': Exact,
    'toy.neighbours': Neighbours,
}
PIPELINE = (
    dict(name='toy.lower'),
    dict(name='toy.least', characters=20),
    dict(name='toy.exact'),
    dict(name='toy.words'),
    dict(name='toy.neighbours'),
    dict(name='toy.least', characters=25),
)


def options(folder, **changed):
    return dict(
        path=str(folder), read=dict(name='toy.lines'), steps=PIPELINE,
        licences=LICENCES, run=dict(workers=1, shards=4, most_bad=0.5),
    ) | changed  # fmt: skip


table.READERS.update(READERS)
table.STEPS.update(STEPS)

if __name__ in ('__main__', '__mp_main__'):  # this process, and its workers
    os.fsync = lambda descriptor: None  # matters when the power fails, not to a kill

if __name__ == '__main__':
    from gptjax import command
    from gptjax.data.refine import runner

    folder, output, workers = sys.argv[1:]
    how = dict(workers=int(workers), shards=4, most_bad=0.5)
    command.run(lambda: runner.refine(output, **options(folder, run=how)))
