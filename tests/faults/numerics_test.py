"""Bad steps change nothing, are no false alarm, and are gone round; replay shows them.

Poison is in the batch: NaN or inf in the loss, or in the gradient alone, by rows of the
stream. Caught, as tried: what the docstring of each test says.
"""

import dataclasses
import functools

import exact
import faults
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import resume_test
import tiny_config

from gptjax import command, core, trees
from gptjax.data import pipeline
from gptjax.train import (
    begin,
    build,
    checkpoint,
    feed,
    log,
    loop,
    replay,
    source,
)

KINDS = NAN, INF, STEEP = 1.0, 2.0, 3.0
folder, known = resume_test.folder, resume_test.known


def poisonous(loss_fn):
    """The loss, which the `poison` of a batch makes bad; evaluations have none."""

    def loss(params, frozen, batch, key):
        clean = {name: array for name, array in batch.items() if name != 'poison'}
        found = loss_fn(params, frozen, clean, key)
        if 'poison' not in batch:
            return found
        kind = batch['poison'][0]
        (name, (total, weight)), *others = found.terms.items()
        more = jnp.where(kind == NAN, jnp.nan, jnp.where(kind == INF, jnp.inf, 0.0))
        # A root is 0 at 0, and its slope is not finite.
        left = jnp.where(kind == STEEP, 0.0, 1.0)
        root = jnp.sqrt(left + 0 * jnp.sum(jax.tree.leaves(params)[0])) - left
        spike = jnp.where(kind < 0, -kind * weight, 0.0)
        return core.Loss({name: (total + more + root + spike, weight), **dict(others)},
                         found.metrics)  # fmt: skip

    return loss


def poisoned(monkeypatch):
    """A dict from the first row of a batch to the poison in it, for all runs."""
    kinds, built, drawn = {}, build.build, source.Dataset.next

    def following(self, state, frozen):
        batch, *rest = drawn(self, state, frozen)
        B = self.draw
        full = np.full(B, kinds.get(self.row - B, 0.0), np.float32)
        place = self._run.model.sharding.named(('batch',))
        return {**batch, 'poison': jax.device_put(full, place)}, *rest

    def building(*given, **named):
        run = built(*given, **named)
        return dataclasses.replace(run, loss_fn=poisonous(run.loss_fn))

    monkeypatch.setattr(build, 'build', building)
    monkeypatch.setattr(source.Dataset, 'next', following)
    return kinds


@pytest.fixture
def poison(monkeypatch):
    return poisoned(monkeypatch)


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp('raw') / 'text.txt'
    path.write_text(tiny_config.text())
    return path


def config(raw, steps, every=4, **options):
    made = tiny_config.get_config()
    made.data.path, made.steps = str(raw), steps
    made.checkpoint.every = every
    made.eval.every = steps
    made.guard = options
    return made


def updated(state):
    """Digests of all that a bad step must leave as it is."""
    return trees.digest({'params': state.params, 'opt_state': state.opt_state})


def test_one_bad_step_in_a_hundred_changes_nothing_and_costs_no_quality(
    raw, tmp_path, poison, monkeypatch
):
    """Each of the bad steps, in turn of each kind, against the arrays before it.

    Fails where the optimizer state is not kept, where a gradient is not looked at, and
    where infinity counts as a number.
    """
    steps = max(100, faults.count(600))
    run, whole = exact.train(config(raw, steps, every=steps), tmp_path / 'clean')
    assert whole
    rng = np.random.default_rng(0)
    bad = sorted(rng.choice(np.arange(1, steps), steps // 100, replace=False).tolist())
    B = run.data.batch_size
    poison |= {step * B: KINDS[i % 3] for i, step in enumerate(bad)}
    dispatch, unchanged = loop._Loop._dispatch, []

    def dispatched(self, *given):
        at, before = self.step, updated(self.state)
        dispatch(self, *given)
        assert int(self.state.step) == at + 1
        if updated(self.state) == before:
            unchanged.append(at)

    monkeypatch.setattr(loop._Loop, '_dispatch', dispatched)
    assert exact.train(config(raw, steps, every=steps), tmp_path / 'bad')[1]
    assert unchanged == bad
    clean, found = log.read(tmp_path / 'clean'), log.read(tmp_path / 'bad')
    assert found[-1]['skipped'] == len(bad)
    for record in found:
        kind = poison.get((record['step'] - 1) * B)
        assert (record['loss'] is None) == (kind in (NAN, INF))
        assert (record['gradient_norm'] is None) == (kind == STEEP)
        assert record['skipped'] == sum(at < record['step'] for at in bad)

    def last(records):
        return np.mean([r['loss'] for r in records[-50:] if r['loss'] is not None])

    # Six updates less may end better by chance: 600 steps are some epochs of this text.
    assert last(found) <= 1.01 * last(clean)
    assert found[-1]['eval_loss'] <= 1.01 * clean[-1]['eval_loss']


def chunks(run, size):
    """(many steps as one program, the state at the start)."""
    begun = begin.begin(run, checkpoint.Checkpoints(run.workdir, keep=1), None)

    @functools.partial(jax.jit, donate_argnums=0)
    def many(state, batches):
        return jax.lax.scan(lambda s, b: begun.train_step(s, {}, b), state, batches)

    def batches(start):
        parts = [
            pipeline.batch(run.rows, seed=run.seed, batch_size=B, row=(start + i) * B)
            for i in range(size)
        ]
        return {name: np.stack([p[name] for p in parts]) for name in parts[0]}

    B = run.data.batch_size
    return many, begun.state, batches


@pytest.mark.parametrize('text', ['made', 'tinyshakespeare'])
def test_no_clean_step_is_a_spike_and_a_spike_is_one(
    raw, real_data, tmp_path, poison, text
):
    """20,000 steps of training, of which none may be skipped; then one that must be.

    Fails with the deviation of a few losses, without the floor (the losses of a text
    that is known by heart are nearly equal), and where nothing is compared.
    """
    path = raw if text == 'made' else real_data('tinyshakespeare/input.txt')
    size, total = 500, faults.count(20_000)
    made = config(path, total + 1, sigma=6.0)
    made.model.update(D=16, F=32, N=2, K=2, L=1)
    made.compute.scan_unroll = 1
    run = build.build(made, tmp_path / 'run')
    many, state, batches = chunks(run, size)
    losses = []
    for start in range(0, total, size):
        batch = batches(start)
        batch['poison'] = np.zeros(batch['tokens'].shape[:2], np.float32)
        state, metrics = many(state, batch)
        losses += metrics['loss'].tolist()
        assert int(state.extra['guard']['skipped']) == 0
    assert losses[-1] < losses[0] - 1
    before, window = updated(state), np.array(losses[-128:], np.float64)
    deviation = max(window.std(), 1e-3)
    batch = batches(total)
    for above, skipped in ((0.0, 0), (10 * deviation, 1)):
        # Poison below zero is added to the loss, which is put where it is asked for.
        kind = -(above + 1e-9)
        batch['poison'] = np.full(batch['tokens'].shape[:2], kind, np.float32)
        batch['poison'][1:] = 0
        copy = jax.tree.map(jnp.copy, state)
        after, _ = many(copy, jax.tree.map(lambda x: x[:1], batch))
        assert int(after.extra['guard']['skipped']) == skipped
        assert (updated(after) == before) == bool(skipped)


# Rows of steps 11 to 15, of a run that saves at 4, 8, ...; all later ones are good.
FIRST, LAST, B = 10, 14, 8
END = 24


def planted(poison, first=FIRST, last=LAST):
    poison |= {step * B: KINDS[step % 3] for step in range(first, last + 1)}


@pytest.fixture(scope='module')
def rolled(raw, tmp_path_factory):
    """The workdir in which such a run went to its end by itself."""
    with pytest.MonkeyPatch.context() as patch:
        planted(poisoned(patch))
        workdir = tmp_path_factory.mktemp('rolled')
        run, whole = exact.train(config(raw, END), workdir)
    assert whole
    return run


def test_bad_rows_are_gone_round_from_the_step_before_them(
    raw, rolled, tmp_path, monkeypatch, capsys
):
    """The same bits as of a run whose stream never had the rows.

    Fails where the rows are read again, where others are skipped, and where a roll back
    leaves something of the bad steps, such as the count of Adam.
    """
    saved = checkpoint.Checkpoints(rolled.workdir, keep=1).newest()
    assert saved['host']['skips'] == [[FIRST * B, (LAST + 1) * B]]
    assert saved['host']['bad'] is None
    assert saved['host']['row'] == (END + 5) * B
    records = log.read(rolled.workdir)
    assert [r['step'] for r in records] == list(range(1, END + 1))
    assert all(np.isfinite(r['loss']) and r['skipped'] == 0 for r in records)
    made = source.make

    def without(run, step, row, skips, *given, **named):
        return made(run, step, row, saved['host']['skips'], *given, **named)

    monkeypatch.setattr(source, 'make', without)
    clean, whole = exact.train(config(raw, END), tmp_path / 'clean')
    assert whole
    assert exact.digests(clean) == exact.digests(rolled)
    assert [r['loss'] for r in log.read(clean.workdir)] == [r['loss'] for r in records]


STOPS = [
    *(('asked', step) for step in range(9, 17)),
    *(('crash', step) for step in (9, 12, 14, 16)),
]


@pytest.mark.parametrize(('how', 'step'), STOPS[: faults.count(len(STOPS))])
def test_an_interrupt_anywhere_around_bad_rows_changes_nothing(
    raw, rolled, tmp_path, poison, monkeypatch, how, step
):
    """Before, among and behind the bad steps, saved by the interrupt or not.

    Fails where the bad steps that were seen are not saved with the state: the run would
    roll back to one of them, or skip rows of the wrong step.
    """
    planted(poison)
    made = config(raw, END)
    with exact.ending(monkeypatch, how, step):
        if how == 'crash':
            with pytest.raises(exact.Crash):
                exact.train(made, tmp_path)
        else:
            assert not exact.train(made, tmp_path)[1]
    run, whole = exact.train(made, tmp_path)
    assert whole
    assert exact.digests(run) == exact.digests(rolled)
    assert exact.told(tmp_path) == exact.told(rolled.workdir)


def test_more_bad_rows_than_a_window_take_more_than_one_roll_back(
    raw, tmp_path, poison
):
    planted(poison, 9, 21)
    assert exact.train(config(raw, END), tmp_path)[1]
    host = checkpoint.Checkpoints(tmp_path, keep=1).newest()['host']
    assert host['skips'] == [[9 * B, 14 * B], [14 * B, 19 * B]]
    # Three bad steps are too few to halt: they are skipped one by one.
    assert [r['skipped'] for r in log.read(tmp_path)[8:14]] == [0, 1, 2, 3, 3, 3]


def test_trouble_without_an_end_is_77_with_all_that_was_good(raw, tmp_path, poison):
    """Every batch from step 11 on is bad; fails where roll backs have no limit."""
    planted(poison, FIRST, 200)
    run = build.build(config(raw, END, rollbacks=2), tmp_path)
    with pytest.raises(SystemExit) as ended:
        command.run(lambda: loop.train(run))
    assert ended.value.code == command.NUMERICS
    saved = checkpoint.Checkpoints(tmp_path, keep=1).newest()
    assert saved['step'] == 8
    assert saved['host']['bad'] is None
    records = log.read(tmp_path)
    assert [r['step'] for r in records] == list(range(1, 16))
    # The last try read the rows behind two windows that it had given up.
    with pytest.raises(SystemExit) as again:
        command.run(lambda: loop.train(run))
    assert again.value.code == command.NUMERICS


def test_replay_shows_the_bad_rows_and_goes_round_skipped_ones(
    raw, rolled, tmp_path, poison, capsys
):
    """Of a run that gave up: the step that halted; and a step behind a roll back."""
    planted(poison)
    replay.replay(rolled.workdir, 12)
    told = capsys.readouterr().out
    first = (12 - 1 + 5) * B  # the rows of 5 steps were skipped
    assert f'rows {first} to {first + B - 1} of the stream' in told
    run = build.build(config(raw, END, rollbacks=0), tmp_path)
    with pytest.raises(command.Failure, match='after 0 rollbacks'):
        loop.train(run)
    replay.replay(tmp_path, LAST + 1)
    told = capsys.readouterr().out
    assert f'rows {LAST * B} to {LAST * B + B - 1} of the stream' in told
    assert '(recorded: None)' in told


@pytest.mark.parametrize('name', resume_test.OBJECTIVES)
def test_a_step_of_every_objective_comes_out_as_it_did(folder, tmp_path, capsys, name):
    """With dropout, two microbatches, and what the workdir holds besides."""
    made = resume_test.configured(folder, name, seed=0)
    assert exact.train(made, tmp_path)[1]
    replay.replay(tmp_path, 7)
    told = capsys.readouterr().out
    assert 'begun from step 4' in told
    assert 'CC0-1.0' in told
    assert ('reward ' in told) == ('rewards' in made)


def test_the_step_of_a_transformer_asks_no_host_and_writes_in_place(raw, tmp_path):
    """A callback that reports bad steps fails here, as does a step without donation."""
    run = build.build(config(raw, 4, sigma=6.0), tmp_path)
    saved = checkpoint.Checkpoints(run.workdir, keep=1)
    begun = begin.begin(run, saved, None)
    batch = next(feed.Feed(run.model.sharding, B).stream(run.rows, 0, 0, 'threads'))
    compiled = begun.train_step.lower(begun.state, {}, batch).compile()
    asked = ('infeed', 'outfeed', 'callback', 'send(', 'recv(', 'host-transfer')
    assert [word for word in asked if word in compiled.as_text()] == []
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(begun.state))
    assert compiled.memory_analysis().alias_size_in_bytes >= 0.99 * held
    saved.close()
