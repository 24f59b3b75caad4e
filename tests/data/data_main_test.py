"""The command: what it prints, where, and how it fails."""

import fcntl
import os
from pathlib import Path
import subprocess
import sys

import pytest

from gptjax import command
from gptjax.data import dataset, verbs

ROOT = Path(__file__).parents[2]


def arguments(texts, output, *more):
    return [
        *(sys.executable, '-m', 'gptjax.data', '--config=configs/data/text.py'),
        f'--config.corpus.path={texts}',
        '--config.corpus.licence=CC0-1.0',
        '--config.tokenizer.vocab_size=300',
        '--config.held_out.fraction=0.3',
        f'--output={output}',
        *more,
    ]


def run(*command, cwd=ROOT):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_a_mistake_is_one_line_and_exit_code_2(texts, tmp_path):
    done = run(*arguments(texts, tmp_path / 'out', '--config.held_out.by=end'))
    assert done.returncode == 2
    assert done.stdout == ''
    assert done.stderr == (
        'gptjax: held_out.by is \'end\'; it needs to be "document" or "tail".\n'
    )


def test_mistakes_are_told_before_the_work(texts, tmp_path):
    config = '--config=configs/data/chat.py', f'--config.path={texts}'
    with pytest.raises(command.UserError, match=r"tokenizer\.path is 'nowhere'"):
        verbs.run([*config, '--config.tokenizer.path=nowhere', f'--output={tmp_path}'])
    with pytest.raises(command.UserError, match="verb 'trase'; did you mean 'trace'"):
        verbs.run(['trase', f'--data={tmp_path}'])


def test_the_command_waits_for_another_builds_and_prints_a_table(texts, tmp_path):
    output = tmp_path / 'out'
    output.mkdir()
    held = os.open(output, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    waiting = subprocess.Popen(
        arguments(texts, output),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stderr.readline() == f'waiting: another process builds {output}\n'
    assert not list(output.iterdir())
    os.close(held)
    printed, said = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, said
    assert 'writing shards: 21 documents' in said
    made = dataset.open(output)
    assert printed == f'{made.summary()}\n\n{output / "manifest.json"}\n'
    assert made.tokenizer().vocab_size == 300
    assert 'CC0-1.0' in printed
