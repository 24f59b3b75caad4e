"""An interrupted run of any objective ends with the bits of one that was not.

Three seeds, and for each other interruptions: asked to stop between saves, and in the
middle of an evaluation; ended where nothing was saved, and with the newest checkpoint
gone. With dropout, two microbatches and saves in the background. Compared are the bytes
of every array of the final state, and all that the runs told but for the times.

Caught, as tried: a key of the state that a resume changes, which dropout shows; and, as
found, transcripts of an evaluation that was cut, which were there twice.
"""

import json
import shutil
import unittest.mock

import exact
import faults
import numpy as np
import pytest
import tiny_config

from gptjax.data import build as data_build
from gptjax.model import table as model_table
from gptjax.train import checkpoint, rollouts

STEPS = 11
# A rollout of 8 sequences is worth 4 updates, so that steps 5 to 8 are its second.
ROLLOUT = dict(
    prompts=2, group=4, prompt_tokens=5, max_tokens=7, temperature=1.0, top_k=0,
    top_p=1.0, epochs=2,
)  # fmt: skip
REWARDS = (dict(name='share', weight=1.0),)
PPO = dict(
    name='ppo', clip_low=0.2, clip_high=0.2, value_coefficient=0.1, gamma=1.0, lam=0.95,
    kl_coefficient=0.05, kl_estimator='k1', whiten_rewards=False,
    whiten_advantages=True, kl_target=6.0, kl_horizon=100.0,
)  # fmt: skip
GRPO = dict(
    name='group', method='grpo', kl_coefficient=0.1, kl_in='loss', kl_estimator='k3'
)
LORA = dict(
    R=2, alpha=8.0, rank_stabilised=False, train=(), base='nf4',
    targets=('blocks/attention/query', 'blocks/mlp'),
)  # fmt: skip
SIGMOID = dict(name='sigmoid', beta=0.5)
KTO = dict(name='kto', beta=0.5, desirable=1.0, undesirable=0.5)

# What each objective changes of the config; a model is a fresh one, or `base`.
OBJECTIVES = {
    'pretrain': dict(data='text', objective=dict(name='next_token')),
    'masked_lm': dict(
        data='masked', model='masked',
        objective=dict(name='masked_lm', rate=0.15, masked=0.8, random=0.1),
    ),
    'sft': dict(data='chat', model='base', objective=dict(name='next_token')),
    'lora': dict(
        data='chat', model='base', objective=dict(name='next_token'), adapter=LORA
    ),
    'dpo': dict(
        data='pairs', model='base',
        objective=dict(name='preference', loss=SIGMOID, reference='stored'),
    ),
    'reward': dict(
        data='pairs', model='reward', objective=dict(name='reward', centre=0.01)
    ),
    'kto': dict(
        data='pairs', model='base', accumulate=1,  # its KL is of the whole batch
        objective=dict(name='kto', loss=KTO, reference='stored'),
    ),
    'distil': dict(
        data='text', objective=dict(name='distil', beta=0.5, temperature=1.0)
    ),
    'distil_on_policy': dict(
        data='lines', rollout=ROLLOUT,
        objective=dict(name='distil', beta=1.0, temperature=1.0),
    ),
    'ppo': dict(data='lines', objective=PPO, rollout=ROLLOUT, rewards=REWARDS),
    'grpo': dict(data='lines', objective=GRPO, rollout=ROLLOUT, rewards=REWARDS),
}  # fmt: skip
# By seed: how a run ends, at which step, and the step that it goes on from. Saves are
# due at 4 and 8, an evaluation at 6.
INTERRUPTIONS = (
    [('asked', 3, 3), ('evaluating', 6, 6)],
    [('crash', 7, 4), ('asked', 9, 9)],
    [('asked', 5, 5), ('crash, lost', 10, 5)],
)
SPLIT = dict(data=2, fsdp=2, tensor=2, rules='fsdp_tensor')
CASES = [
    (name, mesh, seed)
    for name in OBJECTIVES
    for mesh in ((False, True) if name == 'pretrain' else (False,))
    for seed in range(faults.count(3))
]


def share():
    """The share of capital letters among the bytes of a completion."""

    def reward(samples):
        return np.array(
            [sum(c.isupper() for c in s.completion) / s.tokens for s in samples],
            np.float32,
        )

    return reward


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(rollouts.rewards_table.REWARDS, 'share', share)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A dataset of each kind, and the weights that some objectives begin with."""
    made = tmp_path_factory.mktemp('resume')
    lines = tiny_config.text().splitlines()[:60]
    said = [
        {
            'messages': [
                {'role': 'user', 'content': line[:3]},
                {'role': 'assistant', 'content': line[3:9]},
            ]
        }
        for line in lines
    ]
    pairs = [
        {'prompt': f'{n}?', 'chosen': f'a{n}!', 'rejected': '-' * (n % 5 + 1)}
        for n in range(60)
    ]
    (made / 'text.txt').write_text(tiny_config.text())
    for name, records in (
        ('lines', [{'text': line} for line in lines]),
        ('chat', said),
        ('pairs', pairs),
    ):
        (made / f'{name}.jsonl').write_text('\n'.join(map(json.dumps, records)))
    for name, raw, corpus, by, mask in (
        ('text', 'text.txt', 'text', 'tail', False),
        ('masked', 'text.txt', 'text', 'tail', True),
        ('lines', 'lines.jsonl', 'text', 'document', False),
        ('chat', 'chat.jsonl', 'chat', 'document', False),
        ('pairs', 'pairs.jsonl', 'pairs', 'document', False),
    ):
        data_build.build(
            made / name,
            corpus=dict(name=corpus, path=str(made / raw), licence='CC0-1.0'),
            tokenizer=dict(name='bytes', mask=mask),
            held_out=dict(fraction=0.2, by=by),
            shard_tokens=4096,
        )
    config = configured(made, 'pretrain', seed=9)
    config.steps, config.model.dropout = 4, 0.0
    assert exact.train(config, made / 'base')[1]
    return made


def configured(folder, name, seed, mesh=False):
    """The config of an objective."""
    given = {'model': 'fresh', 'accumulate': 2, **OBJECTIVES[name]}
    config = tiny_config.get_config()
    config.seed, config.steps = seed, STEPS
    tiny = dict(T=16, V=264, D=16, F=32, N=2, K=2, H=8, L=1)
    head = dict(head=dict(kind='reward')) if given['model'] == 'reward' else {}
    config.model = {
        'fresh': lambda: model_table.preset('gpt2-micro', **tiny, dropout=0.1),
        'masked': lambda: model_table.preset('bert-nano', **tiny, dropout=0.1),
    }.get(
        given['model'],
        lambda: dict(init_from=str(folder / 'base'), dropout=0.1, **head),
    )()
    config.data = dict(path=str(folder / given['data']), batch_size=8, loader='threads')
    if 'rollout' in given:
        config.data.batch_size = 4
    config.objective = dict(given['objective'])
    if config.objective.name == 'distil':
        config.objective.teacher = str(folder / 'base')
    for section in ('adapter', 'rollout', 'rewards'):
        if section in given:
            config[section] = given[section]
    config.compute.update(scan_unroll=1, accumulate=given['accumulate'])
    config.checkpoint = dict(every=4, keep=3)
    config.eval = dict(every=6, rows=20, patience=0)
    if mesh:
        config.mesh = SPLIT
    return config


@pytest.mark.parametrize(('name', 'mesh', 'seed'), CASES)
def test_interrupted_runs_end_with_the_same_bits(
    folder, tmp_path, monkeypatch, capsys, name, mesh, seed
):
    config = configured(folder, name, seed, mesh)
    run, whole = exact.train(config, tmp_path / 'straight')
    assert whole
    workdir = tmp_path / 'interrupted'
    for how, step, left in INTERRUPTIONS[seed]:
        with exact.ending(monkeypatch, how.removesuffix(', lost'), step):
            if how.startswith('crash'):
                with pytest.raises(exact.Crash):
                    exact.train(config, workdir)
            else:
                assert exact.train(config, workdir) == (unittest.mock.ANY, False)
        if how.endswith('lost'):
            shutil.rmtree(max((workdir / 'checkpoints').iterdir()))
        saved = checkpoint.Checkpoints(workdir, keep=1).newest()
        assert saved['step'] == left
        assert (saved['host']['owed'] is not None) == (how == 'evaluating')
        capsys.readouterr()
    ended, whole = exact.train(config, workdir)
    assert whole
    assert f'training from step {left} to step {STEPS}' in capsys.readouterr().err
    assert exact.digests(ended) == exact.digests(run)
    assert exact.told(workdir) == exact.told(run.workdir)
