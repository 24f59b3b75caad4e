"""What two runs have alike, bit for bit; and ways to end one before its time."""

import contextlib
import hashlib

import jax
import numpy as np

from gptjax import trees
from gptjax.train import build, checkpoint, log, loop, source
from gptjax.train import state as state_lib

_TIMES = ('seconds', 'tokens_per_second', 'mfu')


def digests(run):
    """SHA-256 of the bytes of every array in the newest checkpoint, restored."""
    saved = checkpoint.Checkpoints(run.workdir, keep=1)
    extra = source.extra(run)
    shapes, places = state_lib.shardings_of(
        run.boxed, run.optimizer, run.model.sharding, run.trained, extra
    )
    state = saved.restore(saved.newest(), shapes, places, extra)
    saved.close()
    found = dict(trees.paths(jax.device_get(state)))
    return {
        name: (x.shape, str(x.dtype), hashlib.sha256(np.asarray(x).tobytes()).digest())
        for name, x in found.items()
    }


def told(workdir):
    """All lines of metrics.jsonl but for the times, and of samples.jsonl."""
    metrics = [
        {name: value for name, value in record.items() if name not in _TIMES}
        for record in log.read(workdir)
    ]
    return metrics, log.read(workdir, log.SAMPLES)


class Crash(Exception):
    """Ends a run where nothing is saved for it."""


@contextlib.contextmanager
def ending(monkeypatch, how, step):
    """Runs in here are ended at a step.

    asked: to stop after it, as a signal does, but for the signal; evaluating: in the
    evaluation that follows it; crash: by an exception before the next one.
    """
    dispatch, each, following = (
        getattr(loop._Loop, name) for name in ('_dispatch', '_each', '_next')
    )

    def dispatched(self, *given):
        dispatch(self, *given)
        if how == 'asked' and self.step == step:
            self.stop.ask(how)

    def batch_done(self):
        if how == 'evaluating' and self.step == step:
            self.stop.ask(how)
        each(self)

    def next_batch(self):
        if how == 'crash' and self.step == step:
            raise Crash
        return following(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, '_dispatch', dispatched)
        patch.setattr(loop._Loop, '_each', batch_done)
        patch.setattr(loop._Loop, '_next', next_batch)
        yield


def train(config, workdir):
    """Trains, and gives the run with whether it came to its end."""
    run = build.build(config, workdir)
    return run, loop.train(run)
