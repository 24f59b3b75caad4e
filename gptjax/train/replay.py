"""A step of a run done once more: what it read, and whether it comes out the same.

Nothing is written into the workdir, where a run may be training: the steps from the
newest whole checkpoint before it, or from the start, run again in this process. They
read the config, data and skipped windows that the workdir has now.
"""

from collections.abc import Iterator, Mapping
import contextlib
import math
from pathlib import Path
import shutil
import tempfile
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from gptjax import command, trees
from gptjax.data import lineage, pipeline, progress, prompts, storage, trace
from gptjax.train import begin, build, checkpoint, log, rollouts, source
from gptjax.train import phases as phases_lib
from gptjax.train import settings as settings_lib

_SHOWN = 60  # characters of a text


class _Done(NamedTuple):
    """A step that was done again."""

    run: build.Run
    start: int  # the step that it was begun from
    rows: tuple[int, int]  # of the stream
    values: dict[str, float]
    digests: dict[int, dict[str, str]]  # of the state, before and after
    answers: list[dict[str, Any]]  # of its rollout


def replay(workdir: Path, step: int) -> None:
    """Prints what a step read, its loss and its digests, and compares them.

    Raises UserError for a step that the run has not made, command.Failure of NUMERICS
    where a value or an array is not the recorded one, bit for bit.
    """
    settings = settings_lib.stored(workdir)
    if 'imported' in settings:
        raise command.UserError(f'{workdir} holds imported weights, and no steps.')
    records = {record['step']: record for record in log.read(workdir)}
    with (
        contextlib.closing(checkpoint.Checkpoints(workdir, keep=1)) as checkpoints,
        tempfile.TemporaryDirectory() as scratch,
    ):
        last = max([0, *records, *checkpoints.steps()])
        if not 0 < step <= last:
            raise command.UserError(f'--step={step}: {workdir} has steps 1 to {last}.')
        run = rebuilt(settings, workdir, Path(scratch))
        done = _again(run, workdir, checkpoints, step)
        print(f'step {step} of {workdir}, begun from step {done.start}')
        print(
            f'rows {done.rows[0]} to {done.rows[1] - 1} of the stream, and documents:'
        )
        for line in _documents(done.run, np.arange(*done.rows)):
            print(f'  {line}')
        for one in done.answers:
            said = f'{one["prompt"][-_SHOWN:]!r} -> {one["completion"][:_SHOWN]!r}'
            print(f'  reward {one["reward"]}: {said}')
        others = [*_values(done, records.get(step)), *_arrays(done, checkpoints)]
    if others:
        raise command.Failure(
            f'step {step} is not what it was: {", ".join(others)}. Another machine or '
            'version changes bits, and so do settings that were changed since; else '
            'arithmetic failed, then or now.',
            command.NUMERICS,
        )


def rebuilt(settings: dict[str, Any], workdir: Path, scratch: Path) -> build.Run:
    """The run of a workdir in the folder `scratch`, with what the workdir has ready."""
    if (workdir / 'data' / 'manifest.json').is_file():  # of raw text
        settings['data']['path'] = str(workdir / 'data')
    if (workdir / 'reference').is_dir():
        shutil.copytree(workdir / 'reference', scratch / 'reference')
    return build.build(ml_collections.ConfigDict(settings), scratch)


def _again(
    run: build.Run, workdir: Path, checkpoints: checkpoint.Checkpoints, step: int
) -> _Done:
    updates = run.rollout.updates(run.data.batch_size) if run.rollout else 1
    first = (step - 1) // updates * updates  # where its rollout begins
    begun = begin.begin(run, checkpoints, checkpoints.newest(first + 1))
    run, state = begun.run, begun.state
    known, start = lineage.read(workdir), int(state.step)
    skips = known['trained_on'][-1].get('skips', ()) if known else ()
    given = run, start, begun.host.row, skips, phases_lib.Phases(None)
    made: source.Source
    if run.rollout:
        made = rollouts.Rollouts(*given, shown=run.rollout.sequences)
    else:
        made = source.make(*given)
    digests = {}
    with contextlib.closing(made), progress.stage('replay', step - start, 'steps') as n:
        for number in range(start, step):
            if number == step - 1:
                digests[number] = trees.digest(state)
            batch, state, _ = made.next(state, begun.frozen)
            state, metrics = begun.train_step(state, begun.frozen, batch)
            n(1)
    digests[step] = trees.digest(state)
    values = {name: float(metrics[name]) for name in ('loss', 'gradient_norm')}
    values['learning_rate'] = float(run.schedule(step - 1))
    rows, told = (made.row - made.draw, made.row), log.read(run.workdir, log.SAMPLES)
    mine = [one for one in told if one['step'] == first + 1]
    return _Done(run, start, rows, values, digests, mine)


def _documents(run: build.Run, stream: np.ndarray) -> Iterator[str]:
    """A line for each document of which these rows of the stream hold a token."""
    rows: Any = run.rows
    if run.rollout:
        chosen = prompts.stream(len(rows), run.seed, stream)
    else:
        chosen, _ = pipeline.draw(rows, run.seed, stream)
    for built in run.datasets:
        if not run.rollout:  # those of the run may hold more than tokens
            how = run.data.packing, run.objective.feedback, run.data.longer
            rows = built.rows('train', run.T, *how)
        tokens, tokenizer = built.sequences('train').tokens, built.tokenizer()
        for entry in trace.held(built, rows, chosen):
            some = tokens.window(entry.place, min(entry.tokens, _SHOWN)).tolist()
            text = tokenizer.decode(t for t in some if t not in tokenizer.ends)
            words = ' '.join(text.split())[:_SHOWN]
            yield f'{entry.source}  {entry.licence}  {entry.id}  {words!r}'
        chosen = chosen - len(rows)  # of a mixture, the rows of the next one follow


def _values(done: _Done, record: Mapping[str, Any] | None) -> Iterator[str]:
    """Prints values beside the recorded ones; which of them differ."""
    for name, value in done.values.items():
        if record is None:
            print(f'{name} {value!r} (not recorded)')
            continue
        print(f'{name} {value!r} (recorded: {record[name]!r})')
        # A record has null for what is not finite.
        if record[name] != (value if math.isfinite(value) else None):
            yield f'{name} was {record[name]!r} and is {value!r}'


def _arrays(done: _Done, checkpoints: checkpoint.Checkpoints) -> Iterator[str]:
    """Prints digests of parameters, compares all with checkpoints; which differ."""
    for step, found in done.digests.items():
        params = {name: d for name, d in found.items() if name.startswith('params/')}
        manifest = checkpoints.whole(step) if step in checkpoints.steps() else None
        beside = 'no checkpoint'
        if manifest is not None:
            saved = {name: one['digest'] for name, one in manifest['arrays'].items()}
            others = [name for name in found if saved.get(name) != found[name]]
            beside = f'{"not " if others else ""}as in its checkpoint'
            if others:
                yield f'{len(others)} arrays of checkpoint {step} (such as {others[0]})'
        print(f'parameters after step {step}: {storage.json_digest(params)} ({beside})')
