"""One description, two engines, the same bytes. Needs apache-beam: `make test-beam`."""

import json
import random

import pytest
import toy_pipeline

from gptjax import command
from gptjax.data.refine import beam, runner

# In process: the default one fetches a program, and the network is not asked here.
OPTIONS = ['--runner=BundleBasedDirectRunner']
WORDS = ['rain', 'over', 'the', 'long', 'naïve', 'bench', '河', 'a', 'Straße', '😀']


@pytest.fixture
def raw(tmp_path):
    """2,000 documents in five files; duplicates of ids and of texts; bad lines."""
    rng = random.Random(0)
    folder = tmp_path / 'raw'
    folder.mkdir()
    texts = [' '.join(rng.choices(WORDS, k=rng.randint(3, 15))) for _ in range(1500)]
    for number in range(5):
        lines = []
        for place in range(400):
            identity = f'{number}-{place}' if rng.random() > 0.02 else f'dup{place % 9}'
            text = rng.choice(texts) + ' explode' * (rng.random() < 0.01)
            licence = rng.choice(['MIT', 'CC0-1.0', 'unknown'])
            one = dict(id=identity, source=f's{number}/x', licence=licence, text=text)
            lines.append(json.dumps(one))
        lines.insert(rng.randrange(400), 'bad')
        (folder / f'{number}.jsonl').write_text('\n'.join(lines))
    return folder


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file() and path.name != 'raw.json'
    }


def test_both_engines_write_the_same_bytes(raw, tmp_path):
    ours = runner.refine(tmp_path / 'ours', **toy_pipeline.options(raw))
    theirs = beam.refine(str(tmp_path / 'theirs'), OPTIONS, **toy_pipeline.options(raw))
    assert ours == theirs
    assert ours['documents'] > 500
    assert len(ours['rejected']) > 5
    assert contents(tmp_path / 'ours') == contents(tmp_path / 'theirs')


def test_so_do_the_groups_of_the_library(raw, tmp_path):
    pipeline = (
        dict(name='exact', unit='document', normalise='words', keep='id'),
        dict(
            name='minhash', ngram=2, permutations=16, bands=8, rows=2, seed=1,
            jaccard=0.6,
        ),
        dict(name='substring', tokens=5, tokenizer=None),
    )  # fmt: skip
    options = toy_pipeline.options(raw, steps=pipeline)
    ours = runner.refine(tmp_path / 'ours', **options)
    beam.refine(str(tmp_path / 'theirs'), OPTIONS, **options)
    assert {step for step, *_ in ours['rejected']} > {'exact', 'minhash'}
    assert next(s for s in ours['steps'] if s['name'] == 'substring')['changed'] > 0
    assert contents(tmp_path / 'ours') == contents(tmp_path / 'theirs')


def test_a_finished_folder_is_opened(raw, tmp_path):
    output = str(tmp_path / 'out')
    (raw / 'few.jsonl').write_text((raw / '0.jsonl').read_text()[:20_000])
    for number in range(5):
        (raw / f'{number}.jsonl').unlink()
    options = toy_pipeline.options(raw, steps=(), licences=('MIT',))
    first = beam.refine(output, OPTIONS, **options)
    assert beam.refine(output, ['--runner=None'], **options) == first
    with pytest.raises(command.UserError, match=r'begun with licences\.0'):
        beam.refine(output, OPTIONS, **{**options, 'licences': ('CC0-1.0',)})
