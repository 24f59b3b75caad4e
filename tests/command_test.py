"""Flags, config files and overrides; one kind of error."""

import subprocess
import sys

import pytest

from gptjax import command

CONFIG = """
from ml_collections import ConfigDict

def get_config(size='small'):
    config = ConfigDict()
    config.size = size
    config.steps = 10
    config.rate = 0.1
    config.limit = None
    config.on = False
    config.data = dict(path='x', shape=(1, 2))
    return config
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / 'config.py'
    file.write_text(CONFIG)
    return str(file)


def test_overrides_keep_types(path):
    config = command.load_config(
        f'{path}:large',
        [
            '--config.steps=20', '--config.rate=1', '--config.limit=5',
            '--config.on=true', '--config.data.path=3', '--config.data.shape=(3, 4)',
        ],
    )  # fmt: skip
    assert config.to_dict() == {
        'size': 'large', 'steps': 20, 'rate': 1.0, 'limit': 5, 'on': True,
        'data': {'path': '3', 'shape': (3, 4)},
    }  # fmt: skip
    assert type(config.rate) is float


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('--config.step=1', "unknown setting 'step'; did you mean 'steps'"),
        ('--config.data.pth=1', "did you mean 'data.path'"),
        ('--config.steps=1.5', 'is not int; it was 10'),
        ('--config.steps', 'has no value'),
        ('--config.data=1', 'is a section; set one of path, shape'),
        ('--config.steps.x=1', 'is a value, not a section'),
        ('--config.on=5', 'is not bool'),
    ],
)
def test_wrong_overrides_name_the_fault(path, override, message):
    with pytest.raises(command.UserError, match=message):
        command.load_config(path, [override])


def test_missing_and_empty_config_files(tmp_path):
    with pytest.raises(command.UserError, match=r"no config file 'nowhere\.py'"):
        command.load_config('nowhere.py')
    empty = tmp_path / 'empty.py'
    empty.write_text('')
    with pytest.raises(command.UserError, match=r'no get_config\(\)'):
        command.load_config(str(empty))


def test_splat_names_what_is_unknown_and_what_is_missing():
    def make(path, batch_size, model):
        return path, batch_size, model

    options = dict(path='x', batch_size=3)
    assert command.splat(make, 'data', options, model=1) == ('x', 3, 1)
    with pytest.raises(command.UserError, match=r"data\.pat; did you mean 'path'"):
        command.splat(make, 'data', dict(pat='x', batch_size=3), model=1)
    with pytest.raises(command.UserError, match='data lacks batch_size'):
        command.splat(make, 'data', dict(path='x'), model=1)
    with pytest.raises(command.UserError, match=r'unknown option data\.model'):
        command.splat(make, 'data', dict(options, model=2), model=1)


@pytest.mark.parametrize(
    ('verb', 'code', 'message'),
    [
        ('--help', 0, 'train'),
        ('trian', 2, "unknown verb 'trian'; did you mean 'train'"),
    ],
)
def test_the_console_script(verb, code, message):
    done = subprocess.run(
        [sys.executable, '-m', 'gptjax', verb], capture_output=True, text=True
    )
    assert done.returncode == code
    assert message in done.stdout + done.stderr
    assert 'Traceback' not in done.stderr
