"""One writer for a workdir."""

import fcntl
import json
import os
import re
import time

import pytest

from gptjax import command
from gptjax.train import claim


def test_a_second_one_is_told_who_holds_it(tmp_path):
    folder = tmp_path / 'run'
    with claim.claimed(folder):
        owner = json.loads((folder / claim.FILE).read_text())
        assert owner['pid'] == os.getpid()
        start = time.monotonic()
        told = 'by pid {pid} on host {host} since {since};'.format(**owner)
        with (
            pytest.raises(command.UserError, match=re.escape(told)),
            claim.claimed(folder),
        ):
            pass
        assert time.monotonic() - start < 2
        assert json.loads((folder / claim.FILE).read_text()) == owner
    with claim.claimed(folder):  # and it is free again
        pass


def test_an_owner_that_has_not_said_who_it_is(tmp_path):
    with (tmp_path / claim.FILE).open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        start = time.monotonic()
        with (
            pytest.raises(command.UserError, match='held by another process'),
            claim.claimed(tmp_path),
        ):
            pass
        assert time.monotonic() - start < 2


def test_other_processes_of_a_run_do_not_claim(tmp_path, monkeypatch):
    with claim.claimed(tmp_path):
        monkeypatch.setattr(claim.jax, 'process_index', lambda: 1)
        with claim.claimed(tmp_path):
            pass
