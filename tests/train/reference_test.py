"""A reference that is stored is the one that goes forward beside the policy."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config

from gptjax.data import build as data_build
from gptjax.data import dataset, pipeline
from gptjax.model import transformer
from gptjax.objectives import next_token
from gptjax.train import build, checkpoint, log, loop, reference, step


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Two datasets of pairs."""
    folder = tmp_path_factory.mktemp('pairs')
    for name, count in (('a', 30), ('b', 20)):
        raw = folder / f'{name}.jsonl'
        lines = (
            {'prompt': f'{n}?', 'chosen': f'{name}{n}!', 'rejected': '-' * (n % 5 + 1)}
            for n in range(count)
        )
        raw.write_text('\n'.join(map(json.dumps, lines)))
        data_build.build(
            folder / name,
            corpus=dict(name='pairs', path=str(raw), licence='CC0-1.0'),
            tokenizer=dict(name='bytes'),
            held_out=dict(fraction=0.3, by='document'),
            shard_tokens=4000,
        )
    return folder


def config(folder, kind, **data):
    made = tiny_config.get_config()
    made.data = dict(batch_size=4, loader='threads', **data)
    if not data:
        made.data['path'] = str(folder / 'a')
    made.objective = dict(
        name='preference', loss=dict(name='sigmoid', beta=0.5), reference=kind
    )
    made.model.update(T=24, D=16, F=32, N=2, K=2, L=1)
    made.compute.update(scan_unroll=1, accumulate=2)
    return made


def fresh(folder, workdir, **data):
    return build.build(config(folder, 'stored', **data), workdir)


@pytest.fixture(scope='module')
def made(folder):
    """A run, and the same with log-probabilities in its rows."""
    run = fresh(folder, folder / 'run')
    (folder / 'run').mkdir()
    return run, reference.stored(run, {})


def test_stored_and_live_references_give_one_loss(made, folder):
    run, stored = made
    live = build.build(config(folder, 'live'), folder / 'live')
    start = run.start_params()
    moved = jax.tree.map(lambda x: 1.1 * x, start)
    batch = pipeline.batch(stored.rows, seed=0, batch_size=8, row=0)

    @jax.jit
    def both(params, start, batch):
        frozen = ({}, {'reference': start})
        losses = (run.loss_fn, live.loss_fn)
        return [
            step.means(f(params, x, batch, None))
            for f, x in zip(losses, frozen, strict=True)
        ]

    for params, ln_2 in ((start, True), (moved, False)):
        found, wanted = both(params, start, batch)
        assert (abs(found['loss'] - np.log(2)) < 1e-6) == ln_2
        for name, value in wanted.items():
            if name == 'reward_accuracy' and ln_2:
                continue  # ties, but for rounding
            assert abs(found[name] - value) < 2e-6, name


def test_a_rerun_finds_them_and_other_or_damaged_ones_are_computed_again(
    made, folder, monkeypatch
):
    computed = []

    def spy(run, params, split, rows):
        computed.append(split)
        return np.zeros((len(rows), 2), np.float32)

    monkeypatch.setattr(reference, '_computed', spy)
    run, _ = made
    held = dataclasses.replace(run, start_params=lambda: pytest.fail('loaded'))
    before = reference.stored(held, {})
    assert computed == []  # not even the parameters are loaded
    path = folder / 'run' / 'reference' / 'train.npy'
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    after = reference.stored(run, {})
    assert computed == ['train']
    index = np.arange(3)
    assert (after.rows.read(index)[reference.NAME] == 0).all()
    kept = [r.eval_rows.read(index)[reference.NAME] for r in (before, after)]
    np.testing.assert_array_equal(*kept)
    for change in (
        dict(start_digest='other weights'),
        dict(T=20),
        dict(data=dataclasses.replace(run.data, longer='drop')),
        dict(datasets=[dataset.open(folder / 'b')]),
    ):
        reference.stored(dataclasses.replace(run, **change), {})
    assert computed == ['train', *['train', 'validation'] * 4]
    (path.parent / 'train.json').write_text('{')
    reference.stored(run, {})
    assert len(computed) == 11


def test_kto_of_pairs_goes_on_to_the_same_bits(folder, tmp_path, monkeypatch):
    """With rows of a stored reference and the KL of the step before, which is kept."""
    made = config(folder, 'stored')
    loss = dict(name='kto', beta=0.5, desirable=1.0, undesirable=0.5)
    made.objective = dict(name='kto', loss=loss, reference='stored')
    made.compute.accumulate, made.steps, made.checkpoint.every = 1, 4, 2

    def run():
        assert loop.train(build.build(made, tmp_path))
        told = [(r['loss'], r['kl']) for r in log.read(tmp_path) if r['step']]
        newest = checkpoint.Checkpoints(tmp_path, keep=2).newest()
        assert any('running' in name for name in newest['arrays'])
        return newest['step'], newest['arrays'], told

    straight = run()
    assert abs(straight[2][0][1]) < 1e-5 < abs(straight[2][3][1])
    shutil.rmtree(tmp_path / 'checkpoints' / '00000004')
    monkeypatch.setattr(reference, '_computed', None)  # what it was is stored
    assert run() == straight


def test_each_row_of_a_mixture_has_its_own(folder, tmp_path):
    """Against a plain forward over what the stream reads."""
    entries = [
        dict(path=str(folder / name), weights=((0, 1.0),)) for name in ('a', 'b')
    ]
    run = fresh(folder, tmp_path, mixture=entries, licences=('CC0-1.0',))
    params = run.start_params()
    rows = reference.stored(run, {'base': params}).rows
    batch = pipeline.batch(rows, seed=0, batch_size=8, row=3)
    plain = pipeline.batch(run.rows, seed=0, batch_size=8, row=3)
    flat = {k: jnp.asarray(v.reshape(16, -1)) for k, v in plain.items()}
    logits = jax.jit(lambda p, b: transformer.forward(run.model, p, b))(params, flat)
    log_p = next_token.log_likelihood(logits, flat['targets']) * flat['weights']
    np.testing.assert_array_equal(batch['tokens'], plain['tokens'])
    np.testing.assert_allclose(
        batch[reference.NAME], log_p.sum(-1).reshape(8, 2), atol=2e-5
    )
