"""Tiny runs of all three stages, through the real build and loop."""

import contextlib
import json

import jax
import pytest
import tiny_config

from gptjax.data import build as data_build
from gptjax.train import build, loop


class Stages:
    """A folder with datasets text, chat, pairs and workdirs pretrain, sft, dpo."""

    def __init__(self, folder):
        self.folder = folder

    def __getattr__(self, name):
        return self.folder / name


def conversation(number):
    said = [
        {'role': 'user', 'content': f'is {number} <b>even</b>?'},
        {'role': 'assistant', 'content': 'no' if number % 2 else 'yes'},
    ]
    first = {'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'yo'}
    return [*first, *said] if number % 5 == 0 else said


def lines(records):
    return ''.join(json.dumps(record) + '\n' for record in records)


@contextlib.contextmanager
def quick_compiles():
    """Most of the time here is XLA's; these programs run for milliseconds."""
    before = jax.config.read('jax_disable_most_optimizations')
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', before)


@pytest.fixture(scope='module', autouse=True)
def compile_quickly():
    with quick_compiles():
        yield


@pytest.fixture(scope='session')
def stages(tmp_path_factory):
    with quick_compiles():
        return train_stages(tmp_path_factory.mktemp('stages'))


def train_stages(folder):
    records = {
        'text': [{'text': text} for text in tiny_config.text().split('\n')],
        'chat': [{'messages': conversation(n)} for n in range(60)],
        'pairs': [
            {
                'prompt': f'is {n} even?',
                'chosen': 'yes',
                'rejected': 'no' if n % 2 else 'unknown',
            }
            for n in range(60)
        ],
    }
    for kind, of_kind in records.items():
        raw = folder / f'{kind}.jsonl'
        raw.write_text(lines(of_kind))
        data_build.build(
            folder / kind,
            corpus=dict(name=kind, path=str(raw), licence='CC0-1.0'),
            tokenizer=dict(name='bytes'),
            held_out=dict(fraction=0.2, by='document'),
            shard_tokens=4000,
        )
    loss = dict(name='sigmoid', beta=0.1)
    objectives = {
        'pretrain': ('text', dict(name='next_token')),
        'sft': ('chat', dict(name='next_token')),
        'dpo': ('pairs', dict(name='preference', loss=loss, reference='live')),
    }
    before = None
    for name, (kind, objective) in objectives.items():
        config = tiny_config.get_config()
        config.data = dict(path=str(folder / kind), batch_size=8, loader='threads')
        config.objective = objective
        config.steps, config.eval.every = 4, 2
        config.model.update(T=64, D=16, F=32, N=2, K=2, L=1)
        config.compute.scan_unroll = 1
        if before:
            config.model = dict(init_from=str(before), dropout=0.0)
        before = folder / name
        before.mkdir()
        assert loop.train(build.build(config, before))
    return Stages(folder)
