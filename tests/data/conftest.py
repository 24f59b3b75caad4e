"""A small folder of text, and how to build a dataset of it."""

import json
import os
import shutil

import numpy as np
import pytest

from gptjax.data import build, dataset

LICENCE = 'CC0-1.0'


@pytest.fixture(autouse=True, scope='session')
def quick():
    """No file waits for the disk: that matters when the power fails, not to a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'fsync', lambda descriptor: None)
        yield


def options_of(texts):
    """The options of a build of a folder of text."""
    return dict(
        corpus=dict(name='text', path=str(texts), licence=LICENCE),
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.3, by='document'),
        shard_tokens=1000,
    )


@pytest.fixture(scope='session')
def original(tmp_path_factory):
    """A folder with `texts`, and with `dataset`, built of it; nobody changes them."""
    rng = np.random.default_rng(0)
    words = ['river', 'Straße', '河', 'naïve', '<|endoftext|>', '😀', 'of\n', '\t']
    folder = tmp_path_factory.mktemp('original') / 'texts'
    (folder / 'more').mkdir(parents=True)

    def text(count):
        return ' '.join(rng.choice(words, count))

    for number in range(12):
        (folder / f'{number:02}.txt').write_text(text(20 + 3 * number))
    (folder / 'more' / 'notes.md').write_text(text(50))
    lines = [{'text': text(30)} for _ in range(8)]
    lines[3] |= {'id': 'named', 'source': 'elsewhere/a', 'licence': 'MIT'}
    content = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'z.jsonl').write_text(content + '\n')
    build.build(folder.with_name('dataset'), **options_of(folder))
    return folder.parent


@pytest.fixture
def texts(original, tmp_path):
    """A folder of 12 .txt, one .md and a .jsonl of 8 lines, in several scripts."""
    return shutil.copytree(original / 'texts', tmp_path / 'texts')


@pytest.fixture
def options(texts):
    """The options of a build of that folder."""
    return options_of(texts)


@pytest.fixture
def built(original, texts):
    """The dataset of that folder, built."""
    folder = texts.with_name('dataset')
    return dataset.open(shutil.copytree(original / 'dataset', folder))
