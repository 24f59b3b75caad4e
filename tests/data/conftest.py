"""A small folder of text, and how to build a dataset of it."""

import json

import numpy as np
import pytest

from gptjax.data import build

LICENCE = 'CC0-1.0'


@pytest.fixture
def texts(tmp_path):
    """A folder of 12 .txt, one .md and a .jsonl of 8 lines, in several scripts."""
    rng = np.random.default_rng(0)
    words = ['river', 'Straße', '河', 'naïve', '<|endoftext|>', '😀', 'of\n', '\t']
    folder = tmp_path / 'texts'
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
    return folder


@pytest.fixture
def options(texts):
    """The options of a build of that folder."""
    return dict(
        corpus=dict(name='text', path=str(texts), licence=LICENCE),
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.3, by='document'),
        shard_tokens=1000,
    )


@pytest.fixture
def built(tmp_path, options):
    """The dataset of that folder, built."""
    return build.build(tmp_path / 'dataset', **options)
