"""Best of n: what is kept, where it comes from, and that nothing is made twice."""

import copy
import dataclasses
import json
from pathlib import Path

from ml_collections import ConfigDict
import pytest
import tiny
import tiny_family

from gptjax import command
from gptjax.data import build as data_build
from gptjax.data import dataset as data_lib
from gptjax.data import ledger
from gptjax.generate import engine
from gptjax.model import transformer
from gptjax.train import build, sample
from gptjax.train.rewards import table

N, PROMPTS = 4, 12


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp('questions')
    lines = [
        {
            'messages': [
                {'role': 'user', 'content': f'Say {number}.'},
                {'role': 'assistant', 'content': str(number)},
            ],
            'licence': ('MIT', 'CC0-1.0')[number % 2],
            'source': f'ours/{number}',
        }
        for number in range(PROMPTS)
    ]
    (folder / 'chat.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    return of(folder / 'chat.jsonl', folder / 'built', 'unknown')


def of(path, output, licence):
    return data_build.build(
        output,
        corpus=dict(name='chat', path=str(path), licence=licence),
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.0, by='document'),
        shard_tokens=2**16,
    )


@pytest.fixture(scope='module')
def trained(dataset):
    """Random weights, and an engine of them that is compiled once."""
    arch = tiny_family.arch('gpt2', T=32, V=264, L=1)
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    params, tokenizer = tiny_family.params(model), dataset.tokenizer()
    made = build.Trained(Path('runs/model'), model, params, tokenizer, {}, 7, [])
    return made, engine.Engine(model, params, tokenizer)


@pytest.fixture
def config(dataset, trained, monkeypatch):
    """Of a model whose workdir is 'runs/model'."""
    monkeypatch.setattr(build, 'load', lambda workdir: trained[0])
    monkeypatch.setattr(engine, 'Engine', lambda *given: trained[1])
    monkeypatch.setattr(engine, 'BATCH', N)  # one shape to compile
    made = ConfigDict()
    made.seed = 0
    made.workdir = 'runs/model'
    made.data = dict(
        path=str(dataset.folder), split='train', prompts=8, prompt_tokens=16
    )
    made.sampling = dict(n=N, max_tokens=4, temperature=1.0, top_k=0, top_p=1.0)
    made.rewards = (
        dict(name='repetition', weight=1.0, words=1),
        dict(name='length', weight=1.0, least=4, most=9, slope=0.25),
    )
    made.keep = dict(best=1, above=None)
    return made


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_best_of_each_prompt_is_kept_with_its_origin(
    config, dataset, tmp_path, monkeypatch
):
    fetched = {'url': 'https://example.org/', 'opt_out': 'noai'}
    found = list(ledger.entries(dataset, 'train'))
    with_url = [dataclasses.replace(entry, **fetched) for entry in found]
    monkeypatch.setattr(ledger, 'entries', lambda built, split: with_url)
    output = tmp_path / 'best.jsonl'
    said = sample.sample(config, output)
    head, *groups = read(tmp_path / 'best.jsonl.samples.jsonl')
    assert head['settings']['step'] == 7
    assert [len(group['samples']) for group in groups] == [N] * 8
    assert len({group['prompt'] for group in groups}) == 8
    kept = read(output)
    texts = [line['messages'][-1]['content'] for line in kept]
    best = []
    for group in groups:
        fine = [one for one in group['samples'] if one['completion'].strip()]
        most = max(one['reward'] for one in fine)
        best.append({one['completion'] for one in fine if one['reward'] == most})
        for one in group['samples']:
            assert one['reward'] == pytest.approx(sum(one['rewards'].values()))
    assert all(text in some for text, some in zip(texts, best, strict=True))
    assert f'8 of {8 * N} samples kept (25.0%), for 8 of 8 prompts' in said
    counts = json.loads((tmp_path / 'best.jsonl.json').read_text())
    assert (counts['kept'], counts['accept_share'], counts['invalid']) == (8, 0.25, 0)
    assert counts['reward_kept'] >= counts['reward']

    monkeypatch.undo()
    built = of(output, tmp_path / 'built', 'unknown')
    entries = list(ledger.entries(built, 'train'))
    assert len(entries) == 8
    for entry in entries:
        number = int(entry.source.rpartition('/')[2])
        assert entry.source == f'sample:ours/{number}'
        assert entry.licence == ('MIT', 'CC0-1.0')[number % 2]
        assert entry.steps[-1].startswith('sample:+')
        assert entry.evidence.startswith('answer of model at step 7, one of 4 by repe')
    assert {line['unit'] for line in kept} <= {entry.id for entry in found}
    assert all(fetched.items() <= line.items() for line in kept)


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(
    config, trained, tmp_path, monkeypatch
):
    config.data.prompts = 3
    sample.sample(config, tmp_path / 'whole.jsonl')
    config.data.prompts = 2
    sample.sample(config, tmp_path / 'part.jsonl')
    beside = tmp_path / 'part.jsonl.samples.jsonl'
    beside.write_text(beside.read_text()[:-9])
    asked = []
    generate = trained[1].generate

    def counted(requests):
        asked.extend(requests)
        return generate(requests)

    monkeypatch.setattr(trained[1], 'generate', counted)
    config.data.prompts = 3
    sample.sample(config, tmp_path / 'part.jsonl')
    assert len(asked) == 2 * N, 'the one that was cut off, and the new one'
    wanted = (tmp_path / 'whole.jsonl').read_bytes()
    assert (tmp_path / 'part.jsonl').read_bytes() == wanted
    config.keep = dict(best=0, above=-0.3)
    said = sample.sample(config, tmp_path / 'part.jsonl')
    assert len(asked) == 2 * N, 'another choice of the same samples'
    _, *groups = read(beside)
    fine = [
        {one['completion'] for one in group['samples'] if one['reward'] > -0.3}
        for group in groups
    ]
    count = sum(len({text for text in texts if text.strip()}) for texts in fine)
    assert f'{count} of 12 samples kept' in said
    config.sampling.temperature = 0.5
    with pytest.raises(command.UserError, match=r'other settings \(sampling\)'):
        sample.sample(config, tmp_path / 'part.jsonl')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(sampling=dict(n=0)), r'sampling\.n 0 and'),
        (dict(keep=dict(best=1, least=1)), r'unknown option keep\.least'),
        (dict(more=1), r'unknown option config\.more'),
        (dict(rewards=(dict(name='good', weight=1.0),)), "unknown reward 'good'"),
        (dict(data=dict(prompt_tokens=3)), 'prompt_tokens=3; set it larger'),
        (dict(sampling=dict(max_tokens=0)), 'max_tokens is 0'),
    ],
)
def test_wrong_settings_are_told(config, tmp_path, change, message):
    for name, value in change.items():
        both = isinstance(value, dict) and name != 'keep'
        config[name] = {**config[name], **value} if both else value
    with pytest.raises(command.UserError, match=message):
        sample.sample(config, tmp_path / 'best.jsonl')
    assert not list(tmp_path.iterdir()), 'nothing that is in the way of right ones'


def test_a_dataset_of_another_model_or_kind_is_refused(
    config, dataset, trained, tmp_path, monkeypatch
):
    def refused(message, kind='chat', **changes):
        tokenizer, other = copy.copy(dataset.tokenizer()), copy.copy(dataset)
        vars(tokenizer).update(changes)
        other.kind = kind
        made = dataclasses.replace(trained[0], tokenizer=tokenizer)
        monkeypatch.setattr(build, 'load', lambda workdir: made)
        monkeypatch.setattr(data_lib, 'open', lambda path: other)
        with pytest.raises(command.UserError, match=message):
            sample.sample(config, tmp_path / 'best.jsonl')

    refused('has another tokenizer than runs/model', digest='x')
    refused('a dataset of labelled; prompts .* text, chat, pairs', kind='labelled')
    refused('the chat template of another model', template='{{ messages }}')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('reward', ['reward_model', 'classifier', 'answer', 'judge'])
def test_the_shipped_config_has_the_options_of_its_reward(
    reward, tmp_path, monkeypatch
):
    path = Path(__file__).parents[2] / 'configs/sample/best_of_n.py'
    config = command.load_config(f'{path}:{reward}', ['--config.keep.best=0'])
    settings = json.loads(config.to_json())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(table.REWARDS, 'reward_model', lambda *, workdir, normalise: 0)
    monkeypatch.setitem(
        table.REWARDS, 'classifier', lambda *, workdir, label, score, prompt: 0
    )
    table.combine(settings['rewards'])
    for section in ('data', 'sampling', 'keep'):
        command.splat(getattr(sample, section.title()), section, settings[section])
    assert settings['keep']['best'] == 0
