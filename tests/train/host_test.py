"""What the host knows beside the arrays: it survives, and old checkpoints lack some.

Would catch a field that a resume resets, a guard that an old checkpoint must have, and
settings of the guard that change what a step does and pass for free ones.
"""

import dataclasses
import json

import pytest
import tiny_config

from gptjax import command
from gptjax.train import begin, build, checkpoint, loop, record
from gptjax.train import host as host_lib
from gptjax.train import settings as settings_lib

NEW = (
    'owed', 'bad', 'good', 'skips', 'rollbacks', 'environment', 'best_is_kept',
)  # fmt: skip


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp('host')
    (made / 'text.txt').write_text(tiny_config.text())
    return made


def config(folder, **guard):
    made = tiny_config.get_config()
    made.data.path = str(folder / 'text.txt')
    if guard:
        made.guard = guard
    return made


@pytest.fixture(scope='module')
def straight(folder):
    run = build.build(config(folder), folder / 'straight')
    assert loop.train(run)
    return run


def host(run, **values):
    """What a checkpoint of a run says, after it was written."""
    known = host_lib.resumed(run, None)
    told = dataclasses.asdict(dataclasses.replace(known, **values))
    return {'host': json.loads(json.dumps(told))}


def test_what_the_host_holds_is_there_again(straight, capsys):
    values = dict(
        row=2**40, seconds=1.5, best_loss=-0.5, best_step=7, without_gain=2,
        before={'a': 1.0}, owed={'step': 8, 'loss': 0.1}, bad=[7, 56], good=6,
        skips=[[8, 16], [32, 48]], rollbacks=2,
        checked=4,
    )  # fmt: skip
    assert set(values) | {
        'architecture', 'stopped_early', 'start_digest', 'base_digest', 'environment',
        'best_is_kept', 'metric',
    } == {field.name for field in dataclasses.fields(host_lib.Host)}  # fmt: skip
    found = dataclasses.asdict(host_lib.resumed(straight, host(straight, **values)))
    assert {name: found[name] for name in values} == values
    assert capsys.readouterr().err == ''


def test_what_was_best_by_another_metric_is_forgotten(straight):
    """Else no loss would be better than a negative accuracy."""
    held = dict(best_loss=-0.9, best_step=7, without_gain=2)
    for metric in ('', host_lib._metric(straight)):
        made = host_lib.resumed(straight, host(straight, **held, metric=metric))
        assert (made.best_loss, made.without_gain) == (-0.9, 2)
    made = host_lib.resumed(straight, host(straight, **held, metric='accuracy'))
    assert (made.best_loss, made.best_step, made.without_gain) == (None, None, 0)


def test_another_environment_is_told_and_not_refused(straight, capsys):
    here = host_lib.environment()
    assert {'python', 'jax', 'jaxlib', 'numpy', 'device', 'digest'} <= set(here)
    for there, said in (
        ({**here, 'jax': '0.0.1', 'digest': '-'}, f'(jax 0.0.1 -> {here["jax"]})'),
        ({**here, 'digest': '-'}, '(packages that training does not use by itself)'),
    ):
        made = host_lib.resumed(straight, host(straight, environment=there))
        assert made.environment == here  # of what it writes from now on
        assert f'{said}: the run goes on' in capsys.readouterr().err


def test_a_checkpoint_from_before_all_that_goes_on(folder, straight, capsys):
    """Without a guard in the state, its section, and what is new in the host."""
    saved = checkpoint.Checkpoints(straight.workdir, keep=2)
    manifest = saved.newest(before=12)
    old = {name: manifest['host'][name] for name in manifest['host'].keys() - NEW}
    state = begin.begin(straight, saved, manifest).state
    workdir = folder / 'old'
    record.write(straight, 8, old['row'])
    (workdir / 'checkpoints').mkdir(parents=True)
    (workdir / 'config.json').write_text((straight.workdir / 'config.json').read_text())
    writer = checkpoint.Checkpoints(workdir, keep=1, owner=True)
    writer.save(8, state._replace(extra={}), old)
    writer.close()
    assert not any('guard' in name for name in writer.newest()['arrays'])
    assert loop.train(build.build(config(folder), workdir))
    assert 'from step 8 to' in capsys.readouterr().err
    ended, expected = writer.newest()['arrays'], saved.newest()['arrays']
    assert ended.keys() == expected.keys()
    for name, entry in expected.items():  # the guard has seen four losses alone
        assert entry == ended[name] or name.startswith('extra/guard')


@pytest.mark.parametrize(
    ('guard', 'refused'),
    [
        ({}, ''),
        (dict(replicas=100), ''),
        (dict(sigma=0.0, window=128, patience=5, rollbacks=3), ''),
        (dict(sigma=6.0), r'guard\.sigma: 0\.0 -> 6\.0'),
        (dict(window=64), r'guard\.window: 128 -> 64'),
        (dict(patience=0), r'guard\.patience: 5 -> 0'),
    ],
)
def test_a_guard_that_changes_steps_is_another_config(folder, straight, guard, refused):
    settings = settings_lib.of(config(folder, **guard))
    check = settings_lib.check_unchanged
    if not refused:
        check(settings, straight.workdir, allowed=False)
        return
    with pytest.raises(command.UserError, match=refused):
        check(settings, straight.workdir, allowed=False)
    check(settings, straight.workdir, allowed=True)
