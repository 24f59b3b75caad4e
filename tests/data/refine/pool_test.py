"""Processes that die are replaced, once."""

import os
from pathlib import Path
import signal

import pytest

from gptjax import command
from gptjax.data.refine import pool


def die(path, number):
    """Dies where a file is not there, which it makes."""
    file = Path(path) / str(number)
    if number == 1 and not file.exists():
        file.touch()
        os._exit(9)
    return number


def always(number):
    os._exit(9)


def wrong(number):
    raise command.UserError('a mistake')


def test_a_process_that_dies_is_replaced_once(tmp_path, capsys):
    with pool.Pool(2) as workers:
        found = list(workers.run(die, [(str(tmp_path), n) for n in range(5)]))
        assert set(found) == set(range(5))
        assert 'a process died; ' in capsys.readouterr().err
        with pytest.raises(command.UserError, match='died twice at the same 1 tasks'):
            list(workers.run(always, [(1,)]))


def test_a_mistake_is_raised(tmp_path):
    """And those that run the tasks have signals blocked, but for one which is alone."""
    for count in (1, 2):
        with pool.Pool(count) as workers:
            with pytest.raises(command.UserError):
                list(workers.run(wrong, [(1,)]))
            asked = [(signal.SIG_BLOCK, ())]
            (blocked,) = workers.run(signal.pthread_sigmask, asked)
            assert blocked == (set(command.SIGNALS) if count > 1 else set())
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
