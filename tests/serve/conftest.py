"""Servers on 127.0.0.1, each in a thread that ends with its test."""

import contextlib
import dataclasses
import threading
import time

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import sharding
from gptjax.generate import engine as engine_lib
from gptjax.model import config, transformer
from gptjax.model.families import gpt2
from gptjax.serve import server as server_lib
from gptjax.text import table


@contextlib.contextmanager
def serving(engines, queue_limit=8):
    """A running server; its address is `url`."""
    server = server_lib.Server(engines, queue_limit)
    with server_lib.bind('127.0.0.1', 0) as listener:
        server.url = f'http://127.0.0.1:{listener.getsockname()[1]}'
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield server
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
            assert not server.jobs.alive


def wait_until(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, 'it did not happen in time'
        time.sleep(0.005)


@pytest.fixture(scope='session')
def tiny_engine():
    """A real engine over random weights, with a context of 128 bytes."""
    tokenizer = table.make(lambda: [], name='bytes')
    arch = dataclasses.replace(
        gpt2.sized(L=1, N=4, D=32, T=128, V=384), F=64, init_std=0.0
    )
    compute = config.Compute('float32', 'none', scan_unroll=1, accumulate=1)
    model = transformer.make(arch, compute, sharding.single())
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype),
        nn.unbox(transformer.abstract(model)),
    )
    params['norm']['bias'] *= 0  # in a tied head it would drown the rest
    return engine_lib.Engine(model, params, tokenizer)


@pytest.fixture(scope='session')
def tiny_server(tiny_engine):
    with serving({'tiny': tiny_engine, 'other': tiny_engine}) as server:
        yield server


class ScriptedEngine(engine_lib.Engine):
    """Stands in for an engine where a test needs to say when pieces come."""

    def __init__(self, tokenizer, pieces=400, wait=0.02):
        self.tokenizer = tokenizer
        self.context = 1_000_000
        self.pieces = pieces
        self.wait = wait
        self.gate = threading.Event()
        self.gate.set()
        self.made = 0
        self.closed = 0

    def document(self, text):
        return (self.tokenizer.control['<|endoftext|>'], *self.tokenizer.encode(text))

    def check(self, request):
        pass

    def run(self, requests):
        try:
            for index in range(len(requests)):
                for _ in range(self.pieces):
                    assert self.gate.wait(20)
                    time.sleep(self.wait)
                    self.made += 1
                    if self.made == getattr(self, 'fails_at', None):
                        raise RuntimeError('the accelerator is on fire')
                    yield index, engine_lib.Piece('ab', (97, 98), None)
                yield index, engine_lib.Piece('', (0,), 'stop')
        finally:
            self.closed += 1


@pytest.fixture
def scripted():
    return ScriptedEngine(table.make(lambda: [], name='bytes'))


@pytest.fixture
def scripted_server(scripted):
    with serving({'scripted': scripted}, queue_limit=2) as server:
        yield server


@pytest.fixture
def serving_of():
    return serving


@pytest.fixture
def until():
    return wait_until
