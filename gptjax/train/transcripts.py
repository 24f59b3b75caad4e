"""samples.jsonl: a few completions of each rollout and evaluation, with rewards."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from gptjax.train import log
from gptjax.train.rewards import sample as sample_lib


class Transcripts:
    """The writer of samples.jsonl in one workdir, from step `step` on.

    shown: of a rollout, and of an evaluation. The step of a line is the one whose
    metrics tell of it; lines of a future that was given up are dropped, and with
    `again` those of the evaluation at `step`, which was cut.
    """

    def __init__(self, workdir: Path, step: int, shown: int = 4, again: bool = False):
        self._shown, self._file = shown, None
        if jax.process_index() == 0:
            path = workdir / log.SAMPLES
            log.drop_after(path, step)
            if again:
                log.drop(path, lambda r: r['held_out'] and r['step'] == step)
            self._file = log.Appender(path)

    def write(
        self,
        step: int,
        held_out: bool,
        samples: Sequence[sample_lib.Sample],
        total: np.ndarray,
        each: Mapping[str, np.ndarray],
    ) -> None:
        """Some samples, evenly spread over those of this process."""
        if not self._file:
            return
        n, told = len(samples), sample_lib.told(total, each)
        some = min(n, self._shown)
        for i in [k * n // some for k in range(some)]:
            record = {
                'step': step,
                'held_out': held_out,
                'prompt': samples[i].prompt,
                'completion': samples[i].completion,
                'reference': samples[i].reference,
                **told[i],
            }
            self._file.write(log.line(record))

    def close(self) -> None:
        if self._file:
            self._file.close()
