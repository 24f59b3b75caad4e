"""Flags, config files and overrides; one kind of error."""

import dataclasses
import pathlib
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

NAMED = """
from ml_collections import ConfigDict

def get_config():
    config = ConfigDict()
    config.steps = (dict(name='a', x=1), dict(name='b', y=''), dict(name='a', x=2))
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


def test_a_tuple_of_named_sections_is_a_section(tmp_path):
    file = tmp_path / 'config.py'
    file.write_text(NAMED)
    config = command.load_config(
        str(file), ['--config.steps.a-2.x=5', '--config.steps.b.y=z']
    )
    assert config.to_dict()['steps'] == (
        {'name': 'a', 'x': 1}, {'name': 'b', 'y': 'z'}, {'name': 'a', 'x': 5}
    )  # fmt: skip
    with pytest.raises(command.UserError, match=r"did you mean 'steps.b.y'"):
        command.load_config(str(file), ['--config.steps.b.z=1'])
    with pytest.raises(command.UserError, match='set one of a, b, a-2'):
        command.load_config(str(file), ['--config.steps=()'])
    with pytest.raises(command.UserError, match='set one of name, x'):
        command.load_config(str(file), ['--config.steps.a=5'])


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
        ('--config.steps=None', "steps is 'None', which is not int; it was 10"),
        ('--config.rate=none', 'which is not float'),
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


def test_a_config_may_build_on_another_from_any_directory(tmp_path, monkeypatch):
    below = tmp_path / 'project' / 'configs' / 'splat_test'
    below.mkdir(parents=True)
    (below / 'base.py').write_text(CONFIG)
    child = 'from configs.splat_test import base\nget_config = base.get_config\n'
    (tmp_path / 'project' / 'experiments').mkdir()
    for file in (below / 'child.py', tmp_path / 'project' / 'experiments' / 'one.py'):
        file.write_text(child)
        for name in ('configs', 'configs.splat_test', 'configs.splat_test.base'):
            monkeypatch.delitem(sys.modules, name, raising=False)
        before = list(sys.path)
        monkeypatch.chdir(tmp_path)
        assert command.load_config(str(file.relative_to(tmp_path))).steps == 10
        assert sys.path == before


@pytest.mark.parametrize(
    ('get_config', 'argument', 'message'),
    [
        ('get_config()', ':large', r"takes no argument, and got 'large'"),
        ('get_config(size)', '', r'takes size, and got none; .*:ARG'),
    ],
)
def test_an_argument_that_does_not_fit_is_named(
    tmp_path, get_config, argument, message
):
    file = tmp_path / 'config.py'
    file.write_text(f'def {get_config}:\n    return dict(steps=1)\n')
    with pytest.raises(command.UserError, match=message):
        command.load_config(f'{file}{argument}')


def test_a_fault_within_a_config_file_keeps_its_traceback(tmp_path):
    file = tmp_path / 'config.py'
    file.write_text('def get_config():\n    return len(3)\n')
    with pytest.raises(TypeError, match='has no len'):
        command.load_config(str(file))


def test_a_config_that_is_no_python_file(tmp_path):
    (tmp_path / 'config.json').write_text('{}')
    with pytest.raises(command.UserError, match=r'ends in \.py'):
        command.load_config(str(tmp_path / 'config.json'))


def test_an_unknown_size_of_gpt2():
    file = pathlib.Path(__file__).parents[1] / 'configs' / 'gpt2.py'
    with pytest.raises(command.UserError, match="'smal'; did you mean 'small'"):
        command.load_config(f'{file}:smal')


class Plain:
    def __init__(self, steps: int, rate: 'Unknown'): ...


@dataclasses.dataclass
class Section:
    steps: int
    rate: 'float | None'
    on: bool
    name: str
    other: list[int]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'steps': '100'}, r"data\.steps is '100', of type str; it needs to be int\."),
        ({'steps': 10.0}, 'of type float; it needs to be int'),
        ({'steps': True}, 'of type bool; it needs to be int'),
        ({'steps': None}, 'of type NoneType; it needs to be int'),
        ({'rate': '0.1'}, 'it needs to be float or None'),
        ({'rate': True}, 'it needs to be float or None'),
        ({'on': 1}, 'it needs to be bool'),
        ({'name': 3}, 'it needs to be str'),
    ],
)
def test_splat_checks_plain_types(change, message):
    options = dict(steps=1, rate=None, on=True, name='x', other='unchecked')
    for rate in (None, 1, 0.5):
        made = command.splat(Section, 'data', options | {'rate': rate})
        assert made == Section(1, rate, True, 'x', 'unchecked')
    with pytest.raises(command.UserError, match=message):
        command.splat(Section, 'data', options | change)


def test_splat_checks_what_it_can_where_an_annotation_has_no_value():
    options = dict(steps=1, rate='?')
    command.splat(Plain, 'data', options)
    with pytest.raises(command.UserError, match=r'data\.steps'):
        command.splat(Plain, 'data', options | {'steps': '1'})


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


def test_a_name_that_is_a_word_of_others_is_told_with_these():
    told = command.did_you_mean('ipo', ['ipo_sum', 'simpo', 'ipo_norm'])
    assert told == "did you mean 'ipo_sum' or 'ipo_norm'?"
