"""What a run says: metrics.jsonl, TensorBoard events, and a line of progress."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import importlib.util
import json
import math
import os
from pathlib import Path
import sys
import time
from typing import Any

SAMPLES = 'samples.jsonl'  # of a workdir: transcripts of rollouts, a line each
_WAITING = 1 << 20  # bytes that wait where the disk is full, and come when it is not
_TEXTS = 8  # transcripts for TensorBoard, at each time that some were written
_SHOWN = {
    'loss': 'loss',
    'eval_loss': 'eval',
    'reward': 'reward',
    'eval_reward': 'eval reward',
    'kl': 'KL',
}


class Log:
    """The writer of one workdir; a `quiet` one (not the first process) writes nothing.

    A run that goes on from step n first drops the lines after n: they were written by
    a process that ended before its next checkpoint, and will be written again; with
    `again`, that of n as well.
    """

    def __init__(
        self,
        workdir: Path,
        start_step: int,
        steps: int,
        quiet: bool,
        again: bool = False,
    ):
        self._steps = steps
        self._start = (start_step, time.perf_counter())
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._events: _Events | None = None
        if quiet:
            return
        path = workdir / 'metrics.jsonl'
        drop_after(path, start_step - again)
        self._file = Appender(path)
        self._samples = workdir / SAMPLES
        self._told = _size(self._samples)  # bytes of it that TensorBoard has
        if not importlib.util.find_spec('tensorboard'):
            self.say('no TensorBoard events: pip install gptjax[track] for them')
            return
        try:
            self._events = _Events(workdir / 'tensorboard')
        except OSError as error:  # as of a full disk
            self.say(f'no TensorBoard events: {error}')

    def say(self, text: str) -> None:
        """A line of prose on standard error."""
        if not self._quiet:
            say(f'\r\033[K{text}' if self._live else text)

    def write(self, record: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl; `record` has a step. NaN and infinity are null."""
        if self._quiet:
            return
        record = {
            name: value if value is None or math.isfinite(value) else None
            for name, value in record.items()
        }
        self._file.write(line(record))
        if self._events:
            self._events.write(record)
            if said := self._new_samples():
                self._events.write_texts(record['step'], said[:_TEXTS])
        self._progress(record)

    def _new_samples(self) -> list[dict[str, Any]]:
        if _size(self._samples) == self._told:
            return []
        with self._samples.open('rb') as file:
            file.seek(self._told)
            data = file.read()
        whole = data[: data.rfind(b'\n') + 1]  # the rest of a line may still come
        self._told += len(whole)
        return [record for _, record in _parsed(whole)]

    def _progress(self, record: Mapping[str, Any]) -> None:
        step, (start_step, start_time) = record['step'], self._start
        parts = [f'step {step}/{self._steps}']
        for name, short in _SHOWN.items():
            if record.get(name) is not None:
                parts.append(f'{short} {record[name]:.4f}')
        if record['tokens_per_second'] is not None:
            parts.append(f'{record["tokens_per_second"] / 1000:.1f}k tokens/s')
        if record['mfu'] is not None:
            parts.append(f'MFU {record["mfu"]:.0%}')
        if step > start_step:
            each = (time.perf_counter() - start_time) / (step - start_step)
            left = int(each * (self._steps - step))
            parts.append(f'ETA {left // 60}:{left % 60:02d}')
        text = '  '.join(parts)
        # On a terminal one line is written over, except where it has an evaluation.
        end = '' if self._live and record['eval_loss'] is None else '\n'
        start = '\r\033[K' if self._live else ''
        say(f'{start}{text}', end)

    def close(self) -> None:
        if not self._quiet:
            self._file.close()
            if self._events:
                self._events.close()


class _Events:
    """Scalars for TensorBoard, written without TensorFlow."""

    def __init__(self, folder: Path):
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2
        from tensorboard.summary.writer import record_writer

        self._event = event_pb2.Event
        self._summary = summary_pb2.Summary
        self._tensor = tensor_pb2.TensorProto
        plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name='text')
        self._text = summary_pb2.SummaryMetadata(plugin_data=plugin)
        folder.mkdir(parents=True, exist_ok=True)
        # A file for each process that wrote: TensorBoard merges those of one folder.
        name = f'events.out.tfevents.{time.time_ns()}'
        self._writer = record_writer.RecordWriter(Appender(folder / name))
        self._put(self._event(wall_time=time.time(), file_version='brain.Event:2'))

    def write(self, record: Mapping[str, Any]) -> None:
        values = [
            self._summary.Value(tag=name, simple_value=float(value))
            for name, value in record.items()
            if name != 'step' and value is not None
        ]
        self._write(record['step'], values)

    def write_texts(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Transcripts as a table, which the dashboard of texts shows."""
        shown = [(s['prompt'], s['completion'], f'{s["reward"]}') for s in samples]
        table = self._tensor(dtype='DT_STRING')
        table.string_val.extend(cell.encode() for row in shown for cell in row)
        for size in (len(shown), 3):
            table.tensor_shape.dim.add(size=size)
        value = self._summary.Value(tag=SAMPLES, metadata=self._text, tensor=table)
        self._write(step, [value])

    def _write(self, step: int, values: Sequence[Any]) -> None:
        summary = self._summary(value=values)
        self._put(self._event(wall_time=time.time(), step=step, summary=summary))

    def _put(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())

    def close(self) -> None:
        self._writer.close()


class Appender:
    """Writes whole records to the end of a file, for which no full disk ends a run.

    What does not get onto the disk comes with a later record: 1 MB waits, and records
    beyond that are lost. A last line without its end gets one.
    """

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o666)
        size = os.fstat(self._file).st_size
        torn = size and os.pread(self._file, 1, size - 1) != b'\n'
        self._waiting = b'\n' if torn else b''

    def write(self, records: bytes) -> None:
        """Adds records, now or later."""
        self._flush()
        if len(self._waiting) < _WAITING:
            self._waiting += records
            self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(OSError):
            while self._waiting:  # of which a disk may take a part
                self._waiting = self._waiting[os.write(self._file, self._waiting) :]

    def close(self) -> None:
        """Writes what waits, if it can."""
        self._flush()
        os.close(self._file)


def say(text: str, end: str = '\n') -> None:
    """Prose on standard error; no run ends where nobody takes it."""
    with contextlib.suppress(OSError):
        print(text, end=end, file=sys.stderr, flush=True)


def line(record: Mapping[str, Any]) -> bytes:
    """A record as a line of JSON."""
    return (json.dumps(record) + '\n').encode()


def read(workdir: Path, name: str = 'metrics.jsonl') -> list[dict[str, Any]]:
    """The records of a file of lines; one that is cut short or damaged is left out."""
    path = workdir / name
    data = path.read_bytes() if path.exists() else b''
    return [record for _, record in _parsed(data)]


def _parsed(data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """(end, record) of each whole line."""
    end = 0
    for text in data.splitlines(keepends=True):
        end += len(text)
        with contextlib.suppress(ValueError):
            yield end, json.loads(text)


def drop_after(path: Path, step: int) -> None:
    """Drops the lines after a step; all at 0, whose lines are written again."""
    drop(path, lambda record: not step or record['step'] > step)


def drop(path: Path, unwanted: Callable[[Mapping[str, Any]], bool]) -> None:
    """Cuts a file off at the first such line, which only such follow, or a torn end.

    What stays is not written again: neither a power cut nor a full disk can harm it.
    """
    if path.exists():
        kept = 0
        for end, record in _parsed(path.read_bytes()):
            if unwanted(record):
                break
            kept = end
        os.truncate(path, kept)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
