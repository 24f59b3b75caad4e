"""What a step costs, of small runs: sums that have to be, and who is the largest."""

import contextlib
import functools
import json
import math
import time
import types

import jax
import pytest
import tiny_config

from gptjax import command
from gptjax.train import (
    begin,
    build,
    checkpoint,
    explain,
    loop,
    roofline,
    source,
    verbs,
)
from gptjax.train import phases as phases_lib

KEYS = {
    'workdir', 'device', 'devices', 'platform', 'rows', 'tokens', 'dtype', 'compile',
    'memory', 'seconds', 'traced_seconds', 'roofline', 'mfu', 'peak', 'operations',
    'stages', 'nothing_ran', 'flops', 'bytes', 'least', 'rollout',
}  # fmt: skip


def config(path):
    """A model whose MLP is nearly all of it."""
    made = tiny_config.get_config()
    made.model.update(D=32, F=4096, L=2, T=32)
    made.data.path = str(path)
    made.steps, made.optimizer.warmup_steps = 1, 0
    return made


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('explain')
    (folder / 'text.txt').write_text(tiny_config.text())
    loop.train(build.build(config(folder / 'text.txt'), folder / 'run'))
    return folder / 'run'


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(roofline, '_SIZES', {'cpu': ((256,), 4)})
    monkeypatch.setattr(explain, '_SECONDS', 0.05)


def content(folder):
    return {str(one): one.stat().st_mtime_ns for one in folder.rglob('*')}


@pytest.mark.long
def test_where_a_step_goes(workdir, capsys):
    """Fails where operations are given to the wrong stage (the products of this MLP
    are 99 % of all), where their times are not of one step, where those of two threads
    are added up, and where both conventions of MFU are one."""
    before = content(workdir)
    verbs.run(['explain', f'--workdir={workdir}', '--json'])
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == KEYS
    assert content(workdir) == before
    stages = found['stages']
    shares = [share for one in stages.values() for share in one.values()]
    assert sum(shares) + found['nothing_ran'] == pytest.approx(1)
    assert max(stages, key=lambda part: sum(stages[part].values())) == 'mlp'
    assert stages['mlp']['backward'] > 0 < stages['optimizer']['']
    products = [one for one in found['operations'] if one['flops']]
    assert (products[0]['stage'], products[0]['times']) == ('mlp', 1)
    # Six products of tokens and weights for each of the MLP's two matrices.
    of_mlp = 6 * 8 * 32 * 2 * 2 * 32 * 4096
    assert of_mlp < found['flops'] < 1.1 * of_mlp
    assert 0 < found['mfu']['causal'] < found['mfu']['full']
    assert found['memory']['donated']
    assert all(math.isfinite(one) and one > 0 for one in found['least'].values())
    text = explain.text(found)
    tables = text.partition('\n\n')[2].splitlines()
    assert all(len(line) <= 100 for line in tables)
    assert 'donation: the new state takes the place of the old one' in text


@pytest.mark.long
def test_memory_by_kind_and_a_step_that_gives_nothing_back(workdir, tmp_path):
    """Donation is read from the program: without it, the state is there twice."""
    settings = config(workdir.parent / 'text.txt')
    run = build.build(settings, tmp_path)
    with contextlib.closing(checkpoint.Checkpoints(tmp_path, keep=1)) as unused:
        begun = begin.begin(run, unused, None)
    made = source.make(run, 0, 0, (), phases_lib.Phases(None))
    batch, state, _ = made.next(begun.state, begun.frozen)
    made.close()
    given = state, begun.frozen, batch
    step = begun.train_step.__wrapped__
    compiled, spent = explain.compile_(jax.jit(functools.partial(step)), *given)
    found = explain.memory(compiled, *given)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert found['weights'] == 4 * count
    assert found['optimizer'] == 2 * 4 * count + 2 * 4  # and two counts of steps
    assert not found['donated']
    assert found['in_place'] == 0
    assert found['results that are not donated'] > 3 * 4 * count
    assert spent.keys() == {'trace', 'lower', 'compile', 'from_cache'}
    _, again = explain.compile_(jax.jit(functools.partial(step)), *given)
    assert again['from_cache']  # of the tests


def test_a_rollout_is_the_next_one_and_not_a_batch_of_the_first():
    """Fails where a call that only takes a batch of what is there is timed."""
    calls = []

    class Source:
        def next(self, state, frozen):
            calls.append(len(calls))
            time.sleep(0.2 if len(calls) % 3 == 0 else 0)
            return None, state, {}

    rollout = types.SimpleNamespace(updates=lambda batch_size: 12 // batch_size)
    data = types.SimpleNamespace(batch_size=4)
    run = types.SimpleNamespace(rollout=rollout, data=data)
    found = explain.rollout_(run, Source(), {}, {})
    assert found['steps'] == len(calls) == 3
    assert found['seconds'] >= 0.2
    run.rollout = None
    assert explain.rollout_(run, Source(), {}, {}) is None


def test_imported_weights_are_refused(tmp_path):
    (tmp_path / 'config.json').write_text('{"imported": {}}')
    with pytest.raises(command.UserError, match='imported weights'):
        explain.explain(tmp_path)
