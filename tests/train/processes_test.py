"""Training as processes of their own: killed, interrupted, several, mistaken."""

import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_config

from gptjax.train import checkpoint, log

CONFIG = Path(tiny_config.__file__)


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp('raw') / 'text.txt'
    path.write_text(tiny_config.text())
    return path


def start(raw, workdir, *flags, devices=1):
    """The command as a user types it."""
    return subprocess.Popen(
        [
            sys.executable, '-m', 'gptjax.train', f'--config={CONFIG}',
            f'--workdir={workdir}', f'--config.data.path={raw}', *flags,
        ],
        env={
            **os.environ,
            'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices} '
            '--xla_backend_optimization_level=0',
        },
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def finish(process, code=0):
    _, errors = process.communicate(timeout=240)
    assert process.returncode == code, errors
    return errors


def wait_for_step(process, workdir, step):
    """Waits until metrics.jsonl shows the step; the process must still be running."""
    while not any(r['step'] >= step for r in log.read(workdir)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def arrays(workdir):
    return checkpoint.Checkpoints(workdir, keep=1).newest()['arrays']


@pytest.fixture(scope='module')
def straight(raw, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('straight')
    finish(start(raw, workdir, '--config.steps=60'))
    return workdir


def test_killed_runs_end_with_the_same_bits(raw, straight, tmp_path):
    """SIGKILL at two steps, wherever that falls: between saves or inside one."""
    for step in (9, 30):
        process = start(raw, tmp_path, '--config.steps=60')
        wait_for_step(process, tmp_path, step)
        process.kill()
        process.communicate()
        assert not any(r['step'] >= 60 for r in log.read(tmp_path))
    finish(start(raw, tmp_path, '--config.steps=60'))
    assert arrays(tmp_path) == arrays(straight)
    losses = [(r['step'], r['loss']) for r in log.read(straight)]
    assert [(r['step'], r['loss']) for r in log.read(tmp_path)] == losses


def test_ctrl_c_saves_and_exits_cleanly(raw, straight, tmp_path):
    process = start(raw, tmp_path, '--config.steps=60', '--config.checkpoint.every=50')
    wait_for_step(process, tmp_path, 5)
    process.send_signal(signal.SIGINT)
    errors = finish(process, code=75)
    assert 'Traceback' not in errors
    assert 'the same command goes on from there' in errors
    assert checkpoint.Checkpoints(tmp_path, keep=1).newest()['step'] >= 5
    finish(start(raw, tmp_path, '--config.steps=60'))
    assert arrays(tmp_path) == arrays(straight)


def test_two_processes_of_four_devices_are_one_run(raw, straight, tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    processes = [
        start(
            raw, tmp_path, f'--coordinator=127.0.0.1:{port}', '--process_count=2',
            f'--process_id={i}', '--config.steps=6', '--config.mesh.data=2',
            '--config.mesh.fsdp=4', '--config.mesh.rules=fsdp', devices=4,
        )
        for i in range(2)
    ]  # fmt: skip
    errors = [finish(process) for process in processes]
    assert 'mesh data 2 x fsdp 4' in errors[0]
    assert 'step' not in errors[1]  # only the first process speaks
    expected = {r['step']: r['loss'] for r in log.read(straight)}
    found = {r['step']: r['loss'] for r in log.read(tmp_path)}
    assert list(found) == list(range(1, 7))
    # The schedules of 6 and 60 steps agree while both warm up, for 4 steps.
    np.testing.assert_allclose(
        [found[n] for n in range(1, 5)], [expected[n] for n in range(1, 5)], rtol=1e-5
    )
    assert checkpoint.Checkpoints(tmp_path, keep=1).newest()['step'] == 6


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (
            ['--config.optimizer.learning_rat=1'],
            "did you mean 'optimizer.learning_rate'",
        ),
        (['--config.steps=many'], "steps is 'many', which is not int"),
        (['--process_id=1'], '--coordinator, --process_count missing'),
        (['--config.mesh.data=3'], 'there are 1'),
    ],
    ids=str,
)
def test_mistakes_are_one_message_and_exit_code_2(raw, tmp_path, flags, message):
    errors = finish(start(raw, tmp_path, *flags), code=2)
    assert message in errors
    assert 'Traceback' not in errors
    assert not (tmp_path / 'config.json').exists()
