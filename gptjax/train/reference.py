"""Log-probabilities of a reference model: computed once, stored, read with the rows."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import io
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from jaxtyping import Float32, Int64
import numpy as np

from gptjax import core
from gptjax.data import mixture, progress, storage
from gptjax.data import rows as rows_lib
from gptjax.objectives import preference
from gptjax.train import build, feed

NAME = 'reference_log_p'


class Rows:
    """Rows with the array `reference_log_p`, float32 [n, 2]."""

    def __init__(self, rows: rows_lib.Rows, log_p: Float32[np.ndarray, 'rows 2']):
        self.dtypes: rows_lib.Dtypes = {**rows.dtypes, NAME: np.float32}
        self._rows = rows
        self._log_p = log_p

    def __len__(self) -> int:
        return len(self._rows)

    def read(
        self,
        indices: Int64[np.ndarray, ' n'],
        epochs: Int64[np.ndarray, ' n'] | None = None,
    ) -> rows_lib.Arrays:
        """The rows with these numbers."""
        return {**self._rows.read(indices, epochs), NAME: self._log_p[indices]}


def stored(run: build.Run, frozen: Mapping[str, Any]) -> build.Run:
    """The run with log-probabilities in its rows, where its objective reads them.

    They are sums over the weighted tokens of each sequence, in nats, of the base of an
    adapter or of the weights that the run starts from. The workdir keeps them, in
    reference/, with what they are of: they are computed again where that is something
    else, or the file is damaged.
    """
    if NAME not in run.objective.frozen:
        return run

    @functools.cache
    def params() -> core.Params:
        return frozen['base'] if 'base' in frozen else run.start_params()

    splits = {'train': run.rows, 'validation': run.eval_rows}
    made: dict[str, rows_lib.Rows] = {}
    for split, rows in splits.items():
        log_p = _log_p(run, params, split, rows)
        if isinstance(rows, mixture.Mixture):
            made[split] = rows.over(
                lambda part, first, all_=log_p: Rows(
                    part, all_[first : first + len(part)]
                )
            )
        else:
            made[split] = Rows(rows, log_p)
    return dataclasses.replace(run, rows=made['train'], eval_rows=made['validation'])


def _log_p(
    run: build.Run, params: Callable[[], core.Params], split: str, rows: rows_lib.Rows
) -> Float32[np.ndarray, 'rows 2']:
    """From the workdir, or computed and written there by the first process."""
    path = run.workdir / 'reference' / f'{split}.npy'
    settings = ('model', 'adapter', 'seed')
    of = {name: run.settings[name] for name in settings if name in run.settings}
    of |= {
        'objective': run.settings['objective']['name'],
        'weights': [run.start_digest, run.base_digest],
        'data': [one.content for one in run.datasets],
        'rows': [run.T, run.data.longer],
        'dtype': run.model.compute.dtype,
    }
    first = jax.process_index() == 0
    found = _read(path, of, len(rows)) if first else None
    there = found is not None
    if jax.process_count() > 1:
        there = bool(multihost_utils.broadcast_one_to_all(np.array(there)))
    if not there:
        found = _computed(run, params(), split, rows)
        if first:
            path.parent.mkdir(exist_ok=True)
            content = io.BytesIO()
            np.save(content, found)
            digest = storage.write(path, content.getvalue())
            storage.write_json(path.with_suffix('.json'), {'of': of, 'sha256': digest})
    elif jax.process_count() > 1:
        empty = np.zeros((len(rows), 2), np.float32)
        found = multihost_utils.broadcast_one_to_all(found if first else empty)
    return np.asarray(found)


def _read(path: Path, of: Mapping[str, Any], count: int) -> np.ndarray | None:
    """What is stored, or None where it is not whole or not of this."""
    try:
        record = storage.read_json(path.with_suffix('.json'))
        if record != {'of': of, 'sha256': storage.file_digest(path)}:
            return None
    except (OSError, ValueError):
        return None
    found: np.ndarray = np.load(path)
    return found if found.shape == (count, 2) else None


def _computed(
    run: build.Run, params: core.Params, split: str, rows: rows_lib.Rows
) -> Float32[np.ndarray, 'rows 2']:
    sharding, compute = run.model.sharding, run.model.compute
    feeder = feed.Feed(sharding, run.data.batch_size // compute.accumulate)
    forward = jax.jit(
        lambda params, batch: preference.answers(run.model, params, batch, None)[0],
        out_shardings=sharding.replicated,
    )
    parts = []
    with progress.stage(f'reference, {split}', len(rows), 'rows') as advance:
        for batch in feeder.once(rows, limit=0):
            parts.append(np.asarray(forward(params, batch)))
            done = feeder.batch_size * len(parts)
            advance(min(feeder.batch_size, len(rows) - done + feeder.batch_size))
    return np.concatenate(parts)[: len(rows)]
