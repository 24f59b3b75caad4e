"""What a workdir holds besides checkpoints: config, tokenizer, origin, classes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from gptjax.data import lineage, storage
from gptjax.train import build, inputs
from gptjax.train import settings as settings_lib


def write(
    run: build.Run, step: int, row: int, skips: Sequence[Sequence[int]] = ()
) -> None:
    """Writes what the workdir needs besides checkpoints, once the run can begin.

    config.json, tokenizer/ and data.json, and for a classifier the names of its
    classes. step, row: where the run goes on, in steps and in the stream of rows, of
    which it never reads the `skips`.
    """
    if jax.process_index() == 0:
        begun = settings_lib.begun_from(run.settings)
        began_with = (Path(begun), run.start_step) if begun else None
        part: dict[str, Any] = {
            'step': step,
            'row': row,
            'batch_size': run.data.batch_size,
            'T': run.T,
            'seed': run.seed,
            'packing': run.data.packing,
            'longer': run.data.longer,
            'feedback': run.objective.feedback,
            'counts': inputs.counts(run.rows),
            'mixture': run.data.mixture,
        }
        if skips:
            part['skips'] = [list(one) for one in skips]
        if run.rollout:  # rows are prompts
            updates = run.rollout.updates(run.data.batch_size)
            asked = {'prompt_tokens': run.rollout.prompt_tokens, 'updates': updates}
            part |= {'batch_size': run.rollout.prompts, 'rollout': asked}
        for where in _stretches(run.data, step, row, skips):
            lineage.record(run.workdir, began_with, run.datasets, {**part, **where})
        if run.labels:
            storage.write_json(run.workdir / build.LABELS, run.labels)
        run.tokenizer.save(run.workdir / 'tokenizer')
        storage.write_json(run.workdir / 'config.json', run.settings)


def _stretches(
    data: settings_lib.Data, step: int, row: int, skips: Sequence[Sequence[int]]
) -> Iterator[dict[str, int]]:
    """Where batches of a ramp change their size, in steps and rows, from here on."""
    if not data.batch_ramp:
        yield {}
        return
    for first, _ in ((step, 0), *(one for one in data.batch_ramp if one[0] > step)):
        size = data.rows_at(step)
        for _, begin, batches in lineage.stretches(row, size, first - step, skips):
            row = begin + batches * size
        step = first
        yield {'step': step, 'row': row, 'batch_size': data.rows_at(step)}
