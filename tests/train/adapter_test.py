"""Runs that train adapters: what they hold, how they go on, and what they refuse."""

import dataclasses
import json
import shutil

from flax import linen as nn
import jax
import numpy as np
import pytest
import tiny
import tiny_config
import tiny_family

from gptjax import command, trees
from gptjax.data import storage
from gptjax.model import config as model_config
from gptjax.model import leaves, lora, quantise, transformer
from gptjax.objectives import next_token
from gptjax.text import bytes as bytes_lib
from gptjax.train import adapter as adapter_lib
from gptjax.train import (
    build,
    checkpoint,
    host,
    log,
    loop,
    show,
    start,
    verbs,
    zarr,
)

ADAPTER = dict(
    R=2,
    alpha=8.0,
    rank_stabilised=False,
    targets=('blocks/attention', 'blocks/mlp'),
    train=(),
    base='float32',
)


def adapter(**changes):
    return adapter_lib.Adapter(**{**ADAPTER, **changes})


HEAD = model_config.Head('tokens', tied=False)


def test_codes_lie_as_their_weights():
    place = tiny.sharding(1, 2, 2, 'fsdp_tensor')
    made = tiny_family.model('llama', place=place, L=2)
    boxed, params = transformer.abstract(made), tiny_family.params(made)
    for kind, up in (('int8', (2, 8, 12)), ('nf4', (2, 8, 1, 32))):
        attention, mlp = (
            adapter(base=kind).over(boxed, place, params)['blocks'][part]
            for part in ('attention', 'mlp')
        )
        assert mlp['up'].codes.sharding.shard_shape(mlp['up'].codes.shape) == up
        out = attention['out'].absmax  # (L, 1, 1, D), or of 4 heads two blocks each
        wanted = (2, 1, 1, 8) if kind == 'int8' else (2, 2, 2)
        assert out.sharding.shard_shape(out.shape) == wanted


def test_gradients_are_those_of_the_sum_projected():
    """dW of the merged weight W + scale A B gives dA = scale dW B', dB = scale A' dW.

    With one compiled function for two adapters: they are no constants of it.
    """
    made = tiny_family.model('llama', L=2, head=HEAD)
    params, batch = tiny_family.params(made), tiny.packed_batch(4, made.arch)
    boxed = transformer.abstract(made)
    paths = [path for path, _ in trees.paths(params) if lora.adaptable(path)]
    make = jax.jit(lambda key: nn.unbox(lora.init(boxed, paths, 3, key)))
    factors = jax.device_get(make(jax.random.key(0)))
    loss = next_token.make(made)

    def total(params):
        return loss(params, {}, batch, None).terms['loss'][0]

    of_factors = jax.jit(jax.grad(lambda f, base: total(lora.join(base, f, 0.7))))
    of_weights = jax.jit(
        lambda f, base: jax.grad(total)(lora.merge(lora.join(base, f, 0.7)))
    )
    rng = np.random.default_rng(0)
    for extra in (0.0, 0.1):
        given = jax.tree.map(
            lambda x, extra=extra: np.float32(x + extra * rng.normal(size=x.shape)),
            factors,
        )
        dense = dict(trees.paths(of_weights(given, params)))
        found = jax.device_get(dict(trees.paths(of_factors(given, params))))
        flat = dict(trees.paths(given))
        for path in paths:
            lead, n = lora.stacked(path), 2 if path.endswith('out') else 1
            dw = np.asarray(dense[path], np.float64)
            dw = dw if lead else dw.T[None]  # the unembedding is (V, D)
            L = len(dw)
            inputs = int(np.prod(dw.shape[1 : 1 + n]))
            dw = dw.reshape(L, inputs, -1)
            down = np.asarray(flat[f'{path}/down'], np.float64).reshape(L, inputs, 3)
            up = np.asarray(flat[f'{path}/up'], np.float64).reshape(L, 3, -1)
            for name, wanted in (
                ('down', 0.7 * dw @ up.transpose(0, 2, 1)),
                ('up', 0.7 * down.transpose(0, 2, 1) @ dw),
            ):
                got = found[f'{path}/{name}']
                scale = np.abs(wanted).max()
                assert (scale > 1e-3) == (name == 'up' or extra > 0), path
                np.testing.assert_allclose(
                    got.reshape(wanted.shape), wanted, atol=2e-5 * scale + 1e-12
                )


# Whole runs.


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp('raw') / 'text.txt'
    path.write_text(tiny_config.text())
    return path


def write_base(workdir, seed=0):
    """A workdir of random weights."""
    section = tiny_config.get_config().model.to_dict()
    arch = model_config.architecture('model', **section)
    made = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    rng = np.random.default_rng(seed)
    shapes = trees.paths(nn.unbox(transformer.abstract(made)))
    zarr.write_params(
        workdir / 'checkpoints' / '00000000',
        ((path, rng.normal(0, 0.1, x.shape).astype(np.float32)) for path, x in shapes),
        dataclasses.asdict(host.Host(model_config.plain(arch))),
    )
    bytes_lib.Bytes().save(workdir / 'tokenizer')
    storage.write_json(workdir / 'config.json', {'imported': {}})
    return workdir


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp('base'))


def configured(raw, base, changes=None, **settings):
    config = tiny_config.get_config()
    config.data.path = str(raw)
    config.data.build.tokenizer = dict(name='bytes')
    config.model = dict(init_from=str(base), dropout=0.0)
    few = dict(targets=('blocks/attention/query', 'blocks/mlp'))  # compiles faster
    config.adapter = {**ADAPTER, **few, **(changes or {})}
    config.optimizer.learning_rate = 2e-2
    config.steps, config.checkpoint.every, config.eval.every = 6, 2, 6
    config.checkpoint.keep = 3
    for name, value in settings.items():
        *sections, last = name.split('__')
        node = config
        for section in sections:
            node = node[section]
        node[last] = value
    return config


def run(raw, base, workdir, changes=None, **settings):
    return loop.train(build.build(configured(raw, base, changes, **settings), workdir))


def arrays(workdir):
    return checkpoint.Checkpoints(workdir, keep=1).newest()['arrays']


FEW = dict(base='nf4', train=('norm',))
SPLIT = dict(data=1, fsdp=2, tensor=2, rules='fsdp_tensor')


@pytest.fixture(scope='module')
def straight(raw, base, tmp_path_factory):
    """Six steps over a base in 4 bits, all of it split over a mesh."""
    workdir = tmp_path_factory.mktemp('straight')
    assert run(raw, base, workdir, FEW, mesh=SPLIT)
    return workdir


def test_a_checkpoint_has_adapters_and_their_moments_alone(straight):
    losses = {record['step']: record['eval_loss'] for record in log.read(straight)}
    assert losses[6] < losses[0]
    found = arrays(straight)
    params = [name for name in found if name.startswith('params/')]
    whole = {'params/norm/bias', 'params/norm/scale'}
    assert whole < set(params)
    assert len(params) == 2 * 3 + 2
    assert all(name.endswith(('/down', '/up')) for name in set(params) - whole)
    sizes = sum(int(np.prod(found[name]['shape'])) for name in params)
    rest = [name for name in found if not name.startswith('extra/guard/')]
    all_of_them = sum(int(np.prod(found[name]['shape'])) for name in rest)
    assert all_of_them - 3 * sizes < 10, 'two moments each, and a few numbers'


def test_one_device_learns_what_a_mesh_does(raw, base, straight, tmp_path):
    assert run(raw, base, tmp_path, FEW)
    alone, split = (
        [record['loss'] or record['eval_loss'] for record in log.read(workdir)]
        for workdir in (tmp_path, straight)
    )
    np.testing.assert_allclose(alone, split, rtol=1e-5)


def test_a_run_goes_on_from_a_checkpoint_to_the_same_bits(
    raw, base, straight, tmp_path, capsys
):
    workdir = tmp_path / 'killed'
    shutil.copytree(straight, workdir)
    for later in ('00000004', '00000006'):
        shutil.rmtree(workdir / 'checkpoints' / later)
    assert run(raw, base, workdir, FEW, mesh=SPLIT)
    said = capsys.readouterr().err
    assert 'from step 2 to step 6: 0.03M parameters (0.00M trained)' in said
    assert arrays(workdir) == arrays(straight)
    for changes, message in (
        ({**FEW, 'R': 3}, r'other arrays \(opt_state.*freeze and ema, adapter and'),
        (None, 'holds adapters, and the section adapter says otherwise'),
    ):
        config = configured(raw, base, changes, mesh=SPLIT, steps=7)
        if changes is None:
            del config.adapter
        made = build.build(config, workdir, allow_config_change=True)
        with pytest.raises(command.UserError, match=message):
            loop.train(made)


def test_a_workdir_loads_joined_and_another_run_starts_from_it_merged(base, straight):
    loaded = build.load(straight)
    assert loaded.model.compute.attention == 'blocked'
    joined = dict(trees.paths(loaded.params))
    before = dict(trees.paths(build.load(base).params))
    path = 'blocks/attention/query'
    np.testing.assert_array_equal(joined['tokens'], before['tokens'])
    made = start.from_workdir(
        str(straight), 0.0, seed=0, sharding=tiny.sharding(), compute=tiny.COMPUTE
    )
    found = dict(trees.paths(made.params()))
    assert found.keys() == before.keys()
    down, up = joined[f'{path}/down'], joined[f'{path}/up']
    assert np.all(up != 0), 'each device has had its part of it saved'
    few = jax.jit(lambda x: quantise.quantise(path, x, 'nf4'))(before[path])
    np.testing.assert_array_equal(joined[f'{path}/base/codes'], few.codes)
    wanted = jax.jit(leaves.dense)(few) + np.einsum('ldr,lrnh->ldnh', down, up) * 8 / 2
    np.testing.assert_allclose(found[path], wanted, atol=1e-6)


def test_another_base_is_refused(raw, straight, tmp_path, monkeypatch, capsys):
    other = write_base(tmp_path / 'other', seed=1)
    moved = tmp_path / 'moved'
    moved.mkdir()
    (moved / 'checkpoints').symlink_to(straight / 'checkpoints')
    settings = json.loads((straight / 'config.json').read_text())
    settings['model']['init_from'] = str(other)
    storage.write_json(moved / 'config.json', settings)
    with pytest.raises(command.UserError, match=r'for other weights than .*/other'):
        build.load(moved)
    argv = ['--config=drifted.py', f'--workdir={moved}', '--allow_config_change']
    drifted = configured(raw, other, FEW, mesh=SPLIT, steps=7)
    monkeypatch.setattr(command, 'load_config', lambda *_: drifted)
    with pytest.raises(SystemExit, match='2'):
        command.run(lambda: verbs.run(argv))
    assert 'the base of its adapters' in capsys.readouterr().err
    settings['model']['init_from'] = str(tmp_path / 'none')
    storage.write_json(moved / 'config.json', settings)
    with pytest.raises(command.UserError, match='there is no such workdir'):
        build.load(moved)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(R=0), r'adapter\.R is 0'),
        (dict(alpha=0.0), r'adapter\.alpha 0\.0'),
        (dict(targets=()), 'leaves nothing to train'),
        (dict(base='nf5'), r"'nf5'; did you mean 'nf4'"),
        (dict(rank=8), r'unknown option adapter\.rank'),
        (dict(targets=('blocks/atention',)), r'mean .*attention'),
        (dict(targets=('tokens',)), 'tokens cannot be adapted'),
        (dict(targets=('blocks[:1]/mlp',)), 'leave the brackets out'),
        (dict(targets=('*norm*',)), 'blocks/attention_norm/bias, .* cannot be adapted'),
    ],
)  # fmt: skip
def test_a_wrong_section_is_named(raw, base, changes, message):
    with pytest.raises(command.UserError, match=message):
        build.build(configured(raw, base, changes), raw.parent / 'never')


def test_the_base_is_the_reference_and_the_first_preference_loss_ln_2(base, tmp_path):
    pairs = tmp_path / 'pairs.jsonl'
    line = {'prompt': 'Which?', 'chosen': 'This one.', 'rejected': 'That.'}
    pairs.write_text('\n'.join(json.dumps(line) for _ in range(16)))
    config = configured(pairs, base, dict(base='nf4'))
    config.data.build.corpus.name = 'pairs'
    config.data.build.held_out.by = 'document'
    config.objective = dict(
        name='preference', loss=dict(name='sigmoid', beta=0.5), reference='live'
    )
    made = build.build(config, tmp_path / 'workdir')
    frozen, batch = made.frozen(), made.rows.read(np.arange(4))
    assert frozen['reference'] is frozen['base']
    total, count = jax.jit(made.loss_fn)(
        made.start_params(), frozen, batch, None
    ).terms['loss']
    assert float(total / count) == pytest.approx(np.log(2), abs=1e-7)


@pytest.mark.parametrize('targets', [ADAPTER['targets'], ('head/reward',)])
def test_a_new_head_must_be_trained(raw, base, targets):
    head = dict(kind='reward')
    config = configured(raw, base, dict(targets=targets))
    config.model = dict(init_from=str(base), dropout=0.0, head=head)
    config.objective = dict(name='reward', centre=0.0)
    with pytest.raises(command.UserError, match=r"add 'head' to adapter\.train"):
        build.build(config, raw.parent / 'never')
    # The values of PPO are one, too.
    config = configured(raw, base)
    config.objective = dict(
        name='ppo', clip_low=0.2, clip_high=0.2, value_coefficient=0.1, gamma=1.0,
        lam=0.95, kl_coefficient=0.05, kl_estimator='k1', whiten_rewards=False,
        whiten_advantages=True,
    )  # fmt: skip
    config.rollout = dict(
        prompts=4, group=1, prompt_tokens=4, max_tokens=4, temperature=1.0, top_k=0,
        top_p=1.0, epochs=1,
    )  # fmt: skip
    config.rewards = (dict(name='length', weight=1.0),)
    config.data.batch_size = 4
    with pytest.raises(command.UserError, match=r"add 'head' to adapter\.train"):
        build.build(config, raw.parent / 'never')


def test_show_counts_the_adapters_and_the_base(raw, base):
    text = show.text(
        configured(raw, base, dict(base='nf4', targets=ADAPTER['targets']))
    )
    first, _, parts, sizes = text.split('\n\n')
    assert [word for line in first.splitlines() for word in line.split()][-1] == '1,792'
    assert 'blocks/mlp/up/up             2 x 2 x 64     layers, -, mlp' in first
    assert 'embeddings' in parts
    rows = {row.split()[0]: row.split()[1] for row in sizes.splitlines()}
    floats = 4 * (26_624 - 2 * (4 * 32 * 32 + 2 * 32 * 64))
    # Rows of 32 elements of query, key, value and up are half a block, with an absmax
    # each; a head of the output is four blocks.
    blocks = 2 * (3 * 32 + 4 * 4 + 32 + 64)
    assert rows['base'] == f'{floats + 32 * blocks + 4 * blocks:,}'
    assert rows['gradients'] == f'{4 * 1792:,}'
