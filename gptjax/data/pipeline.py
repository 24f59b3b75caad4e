"""Batches as a pure function of (rows, seed, row), read ahead of the training step.

Row r of the endless stream is row `permute(r % n, n, mix(seed, r // n))` of the split's
n: each epoch is another permutation. A batch is consecutive rows of the stream, so that
the whole state of the data is one integer, and neither the number of processes nor of
threads nor the loader changes what is read. A `mixture.Mixture` has an order of its
own, which is a pure function of the row as well.

TensorFlow is imported here only, when it is first needed.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
import concurrent.futures
import itertools
import os
from typing import Any

import numpy as np

from gptjax import command
from gptjax.data import mixture, permute
from gptjax.data import rows as rows_lib

_AHEAD = 2  # batches that are read ahead
_THREADS = 2


def batch(
    rows: rows_lib.Rows, *, seed: int, batch_size: int, row: int
) -> dict[str, Any]:
    """The batch of rows `row`, ..., `row + batch_size - 1` of the stream: pure."""
    return _read(rows, seed, row + np.arange(batch_size))


def batches(
    rows: rows_lib.Rows,
    *,
    seed: int,
    batch_size: int,
    start_row: int,
    owned: Sequence[int] | None,
    loader: str,
) -> Generator[dict[str, Any]]:
    """Batches without end, in order, from row `start_row` of the stream.

    batch_size: rows of the whole batch. owned: which of these this process reads, None
    for all; the arrays have that many rows. loader: 'tfdata' or 'threads', which yield
    the same. Closing the iterator ends its threads. Raises UserError for another
    loader, and for 'tfdata' where TensorFlow is not installed.
    """
    offsets = np.arange(batch_size) if owned is None else np.asarray(owned, np.int64)
    made = command.lookup(LOADERS, loader, 'loader')
    return made(rows, seed, offsets + start_row, batch_size)


def draw(
    rows: rows_lib.Rows, seed: int, stream: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the rows at these places of the stream, and their epochs."""
    if isinstance(rows, mixture.Mixture):
        return rows.draw(stream, seed)
    n, epochs = len(rows), stream // len(rows)
    return permute.permute(stream % n, n, permute.mix(seed, epochs)), epochs


def _read(rows: rows_lib.Rows, seed: int, stream: np.ndarray) -> dict[str, Any]:
    return rows.read(*draw(rows, seed, stream))


def _threads(
    rows: rows_lib.Rows, seed: int, first: np.ndarray, step: int
) -> Generator[dict[str, Any]]:
    pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
    pending: deque[concurrent.futures.Future[dict[str, Any]]] = deque()
    try:
        for number in itertools.count():
            pending.append(pool.submit(_read, rows, seed, first + number * step))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _tfdata(
    rows: rows_lib.Rows, seed: int, first: np.ndarray, step: int
) -> Generator[dict[str, Any]]:
    tf = tensorflow()

    def read(number: np.integer) -> list[np.ndarray]:
        found = _read(rows, seed, first + int(number) * step)
        return [found[key] for key in rows.dtypes]

    # This is graph code as it stands; converting it leaves files behind.
    @tf.autograph.experimental.do_not_convert
    def arrays(number: Any) -> Any:
        dtypes = list(rows.dtypes.values())
        return tf.numpy_function(read, [number], dtypes, stateful=False)

    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.threading.private_threadpool_size = _THREADS
    dataset = (
        tf.data.Dataset.range(2**62)
        .map(arrays, num_parallel_calls=_THREADS)
        .prefetch(_AHEAD)
        .with_options(options)
    )
    return _numpy(
        dataset, list(rows.dtypes)
    )  # so that all of the above runs before the first batch


def _numpy(dataset: Any, names: Sequence[str]) -> Generator[dict[str, Any]]:
    iterator = dataset.as_numpy_iterator()  # of views: `.numpy()` would copy
    try:
        for values in iterator:
            yield dict(zip(names, values, strict=True))
    finally:
        del iterator  # the only reference: its threads end with it


LOADERS = {'tfdata': _tfdata, 'threads': _threads}


def tensorflow() -> Any:
    """The TensorFlow module, told to leave the accelerators to JAX, and to be quiet.

    Raises UserError where it is not installed.
    """
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # whose use it announces
    try:
        import tensorflow as tf
    except ImportError as error:
        raise command.UserError(
            f'this needs TensorFlow, which cannot be imported ({error}); pip install '
            "'gptjax[data]', or, to train without it, set data.loader=threads."
        ) from None
    hide: Callable[..., None] = tf.config.set_visible_devices
    for kind in ('GPU', 'TPU'):
        hide([], kind)
    return tf
