"""Training on the model's own completions: replay, resume, meshes, and bad rewards."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config

from gptjax import command
from gptjax.data import prompts
from gptjax.train import build, checkpoint, log, loop, rollouts

GROUP = dict(
    name='group', method='grpo', kl_coefficient=0.1, kl_in='loss', kl_estimator='k3'
)
PPO = dict(
    name='ppo', clip_low=0.2, clip_high=0.2, value_coefficient=0.1, gamma=1.0, lam=0.95,
    kl_coefficient=0.05, kl_estimator='k1', whiten_rewards=False,
    whiten_advantages=True, kl_target=6.0, kl_horizon=100.0,
)  # fmt: skip
# Two epochs of 8 sequences: 4 updates of 4 rows.
ROLLOUT = dict(
    prompts=2, group=4, prompt_tokens=5, max_tokens=7, temperature=1.0, top_k=0,
    top_p=1.0, epochs=2,
)  # fmt: skip
SHARE = dict(name='share', weight=1.0)


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
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp('raw') / 'lines.jsonl'
    lines = tiny_config.text().splitlines()[:60]
    path.write_text('\n'.join(json.dumps({'text': line}) for line in lines))
    return path


def config(raw, **settings):
    made = tiny_config.get_config()
    made.model.update(D=16, F=32, L=1, T=16)
    made.data.update(path=str(raw), batch_size=4)
    made.data.build.held_out = dict(fraction=0.2, by='document')
    made.steps = 7
    made.checkpoint.every = 6
    made.eval.update(every=7, rows=5)
    made.objective, made.rollout, made.rewards = PPO, ROLLOUT, (SHARE,)
    for name, value in settings.items():
        *sections, last = name.split('__')
        node = made
        for section in sections:
            node = node[section]
        node[last] = value
    return made


def run(raw, workdir, **settings):
    return loop.train(build.build(config(raw, **settings), workdir))


def arrays(workdir):
    return checkpoint.Checkpoints(workdir, keep=1).newest()['arrays']


def told(workdir):
    """What metrics.jsonl says but for the time."""
    timed = ('tokens_per_second', 'mfu', 'seconds')
    return [
        {k: v for k, v in record.items() if k not in timed}
        for record in log.read(workdir)
    ]


@pytest.fixture(scope='module')
def straight(raw, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(rollouts.rewards_table.REWARDS, 'share', share)
        workdir = tmp_path_factory.mktemp('straight')
        assert run(raw, workdir)
    return workdir


@pytest.mark.parametrize('objective', [PPO, GROUP], ids=['ppo', 'group'])
def test_a_run_killed_within_a_rollout_goes_on_to_the_same_bits(
    raw, straight, tmp_path, monkeypatch, objective
):
    """As if after update 2 of 4 of the second rollout: its rows lie in the state."""
    if objective is not PPO:
        straight = tmp_path / 'straight'
        assert run(raw, straight, objective=objective)
    half = tmp_path / 'half'
    shutil.copytree(straight, half)
    shutil.rmtree(half / 'checkpoints' / '00000007')
    # What is not in the state would be drawn anew from other weights.
    monkeypatch.setattr(rollouts.Rollouts, '_roll', None)
    assert run(raw, half, objective=objective)
    assert arrays(half) == arrays(straight)
    assert told(half) == told(straight)
    assert log.read(half, log.SAMPLES) == log.read(straight, log.SAMPLES)


def test_what_a_run_tells(straight):
    records, lines = log.read(straight), log.read(straight, log.SAMPLES)
    trained = [r for r in records if r['step']]
    assert [r['step'] for r in trained] == list(range(1, 8))
    for name in ('reward', 'reward_share', 'kl', 'length', 'ended', 'kl_coefficient'):
        assert len({r[name] for r in trained}) <= 2, name  # one for each rollout
        if name != 'kl_coefficient':
            assert f'eval_{name}' in records[-1]
    assert records[-1]['eval_loss'] == -records[-1]['eval_reward']
    assert trained[0]['kl'] == pytest.approx(0, abs=1e-6)
    assert trained[0]['approx_kl'] == pytest.approx(0, abs=1e-6)
    assert trained[0]['importance'] == pytest.approx(1, abs=1e-5)
    assert [(r['step'], r['held_out']) for r in lines] == [
        *[(1, False)] * 4, *[(5, False)] * 4, *[(7, True)] * 4,
    ]  # fmt: skip
    for line in lines:
        assert set(line) == {
            'step', 'held_out', 'prompt', 'completion', 'reward', 'rewards',
            'reference',
        }  # fmt: skip
        assert line['rewards'] == {'share': line['reward']}
        assert len(line['prompt']) == 4  # and <|endoftext|>


def test_batches_microbatches_and_devices_follow_one_trajectory(
    raw, straight, tmp_path
):
    """Two microbatches of a row on each of two devices."""
    assert run(raw, tmp_path, compute__accumulate=2, mesh__data=2)
    ours, expected = (
        np.array([[r['loss'], r['reward'], r['kl']] for r in log.read(w) if r['step']])
        for w in (tmp_path, straight)
    )
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert abs(np.mean(ours - expected)) < 1e-6


def test_rewards_that_are_no_numbers_are_counted_and_not_learned_from(
    raw, tmp_path, monkeypatch
):
    """Of odd lengths, everything: a run on the others alone has the same weights."""
    calls = []

    def some(samples):
        calls.append([s.tokens for s in samples])
        values = share()(samples)
        return np.where(np.arange(len(samples)) % 4 == 1, np.nan, values)

    monkeypatch.setitem(rollouts.rewards_table.REWARDS, 'share', lambda: some)
    assert run(raw, tmp_path / 'some', steps=4, eval__every=9, objective=GROUP)
    record = log.read(tmp_path / 'some')[-1]
    assert record['reward_invalid'] == 0.25
    assert all(np.isfinite([record['loss'], record['reward'], record['eval_loss']]))
    assert np.mean(calls[0]) == pytest.approx(record['length'])
    never = lambda samples: np.full(len(samples), np.nan, np.float32)  # noqa: E731
    monkeypatch.setitem(rollouts.rewards_table.REWARDS, 'share', lambda: never)
    with pytest.raises(command.UserError, match=r'none of the completions of step 1'):
        run(raw, tmp_path / 'none', steps=4, objective=GROUP)
    # No evaluation is the best one for want of rewards.
    answers = iter([0, np.nan])
    never = lambda samples: np.full(len(samples), next(answers), np.float32)  # noqa: E731
    monkeypatch.setitem(rollouts.rewards_table.REWARDS, 'share', lambda: never)
    with pytest.raises(command.UserError, match=r'none of the held-out completions'):
        run(raw, tmp_path / 'held_out', steps=4, objective=GROUP, eval__every=1)


@pytest.mark.long
def test_distillation_on_policy_needs_no_reward(raw, straight, tmp_path):
    """Rows are the student's own, or without rollouts those of the dataset."""
    made = config(
        raw,
        steps=4,
        objective=dict(name='distil', teacher=str(straight), beta=1.0, temperature=1.0),
    )
    del made.rewards
    assert loop.train(build.build(made, tmp_path))
    last = log.read(tmp_path)[-1]
    assert last['eval_loss'] > 0
    assert last['eval_length'] > 0
    # Off policy, the teacher of itself: nothing to learn, whatever its values are.
    del made.rollout
    made.model = dict(init_from=str(straight), dropout=0.0)
    assert loop.train(build.build(made, tmp_path / 'self'))
    first = next(r for r in log.read(tmp_path / 'self') if r['step'] == 1)
    assert abs(first['loss']) < 1e-6


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'rollout__prompts': 3}, r'has 12 sequences .* batches of 8 .* multiple of 2'),
        ({'rollout__max_tokens': 13}, r'context of the model is 16; .* at most 17'),
        ({'rollout__temperature': 0.0}, r'rollout\.temperature is 0\.0'),
        ({'rewards': ()}, r'rewards is \[\]; it needs one or more'),
        ({'rollout__group': 1, 'rollout__prompts': 8, 'objective': GROUP},
         r'rollout\.group is 1'),
        ({'objective': dict(name='next_token')}, r'take the section rollout out'),
        ({'objective__temperature': 1.0}, r'unknown option objective\.temperature'),
        ({'data__packing': 'best_fit'}, r'data\.packing is set'),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_refused(raw, tmp_path, settings, message):
    made = config(raw, data__batch_size=8)
    for name, value in settings.items():
        *sections, last = name.split('__')
        node = made
        for section in sections:
            node = node[section]
        with node.unlocked():
            node[last] = value
    with pytest.raises(command.UserError, match=message):
        rollouts.Rollouts(build.build(made, tmp_path), 0)


def test_each_sequence_is_learned_from_once_an_epoch(raw, tmp_path):
    made = build.build(config(raw), tmp_path)
    assert isinstance(made.rows, prompts.Prompts)
    source = rollouts.Rollouts(made, 0)
    orders = [
        np.concatenate([source._order(rollout, 2 * epoch + k) for k in range(2)])
        for rollout in range(2)
        for epoch in range(2)
    ]
    assert all(sorted(order.tolist()) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert [rollouts.Rollouts(made, step).row for step in (0, 1, 4, 5)] == [0, 2, 2, 4]
    assert jax.tree.all(
        jax.tree.map(
            lambda x: not x.any(), rollouts.empty(made, {'kl_factor': jnp.float32(1)})
        )
    )
