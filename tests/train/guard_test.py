"""The judgement of a step, alone and inside the compiled train step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from gptjax import command, core, trees
from gptjax.train import guard, state, step

NAN, INF = float('nan'), float('inf')


def judged(losses, options, norms=None):
    """(whether each counts, what is known after the last one), by one program."""
    one = jax.jit(functools.partial(guard.judge, options=options))
    found, counts = guard.start(options), []
    for loss, norm in zip(losses, norms or [1.0] * len(losses), strict=True):
        ok, found = one(found, jnp.float32(loss), jnp.float32(norm))
        counts.append(bool(ok))
    return counts, {name: np.asarray(value) for name, value in found.items()}


@pytest.mark.parametrize(
    'wrong',
    [
        dict(sigma=-1.0), dict(sigma=INF), dict(window=1),
        dict(patience=-1), dict(rollbacks=-1), dict(replicas=-1),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(command.UserError, match=rf'guard\.{name} is'):
        guard.Options(**wrong)


def test_what_is_not_finite_is_bad_whichever_of_the_two_it_is():
    """Looking at the loss alone, or at isnan alone, fails here."""
    losses = [3, NAN, INF, -INF, 3, 3, 3, 3, 1e30]
    norms = [1.0, 1, 1, 1, NAN, INF, -INF, 1, 1]
    counts, found = judged(losses, guard.Options(patience=0), norms)
    assert counts == [True, *[False] * 6, True, True]
    assert (found['skipped'], found['in_a_row'], found['seen']) == (6, 0, 3)
    assert not found['halted']


def test_a_spike_is_above_the_deviations_of_the_accepted_window():
    """The limit of NumPy in float64, from the last `window` losses that counted.

    A limit before the window is full, one of all losses, and one that takes up bad ones
    fail.
    """
    options = guard.Options(sigma=6.0, window=16, patience=0)
    rng = np.random.default_rng(0)
    window, spikes = [], 0
    losses = 1e4 + 20 * rng.standard_normal(120)
    losses[3] = 2e4  # the window is not full
    losses[rng.choice(np.arange(30, 120), 9, replace=False)] += 400
    for loss, ok in zip(losses, judged(losses, options)[0], strict=True):
        last = np.array(window[-16:], np.float64)
        limit = last.mean() + 6 * max(last.std(), 1e-3 * last.mean()) if window else INF
        expected = len(window) < 16 or np.float32(loss) <= limit
        assert ok == expected
        spikes += not ok
        if ok:
            window.append(np.float32(loss))
    assert spikes == 9


def test_a_window_of_equal_losses_has_a_floor():
    """Without the floor the rounding of the second loss would be a spike."""
    options = guard.Options(sigma=6.0, window=8, patience=0)
    for level in (3.0, 1e-3, 0.0, -2.0):
        scale = 1e-3 * max(1.0, abs(level))
        above = [level + abs(level) * 1e-6, level + 5 * scale, level + 9 * scale]
        counts, _ = judged([level] * 8 + above[:1], options)
        assert counts == [True] * 9
        assert judged([level] * 8 + above[1:2], options)[0][-1]
        assert not judged([level] * 8 + above[2:], options)[0][-1]


def test_after_patience_every_step_is_bad_and_the_count_goes_on():
    """So what happened does not depend on when the host looked."""
    counts, found = judged(
        [3, NAN, NAN, 3, NAN, NAN, NAN, 3, 3], guard.Options(patience=3)
    )
    assert counts == [True, False, False, True, *[False] * 5]
    assert found['halted']
    assert (found['in_a_row'], found['skipped'], found['seen']) == (5, 7, 2)
    never, found = judged([NAN] * 40 + [3], guard.Options(patience=0))
    assert never[-1]
    assert not found['halted']


def test_keep_takes_one_tree_whole_bit_for_bit():
    """Also integers, keys, empty branches, and the bits of a NaN or of -0."""
    bits = jnp.uint32([0x7FC00001, 0xFFC12345, 0x80000000, 0])
    place = tiny.sharding(8).named(('batch',))
    old = {
        'bits': jax.lax.bitcast_convert_type(bits, jnp.float32),
        'count': jnp.int32(7),
        'flag': jnp.bool_(True),
        'half': jnp.ones(3, jnp.bfloat16),
        'key': jax.random.key(1),
        'spread': jax.device_put(jnp.arange(8), place),
        'empty': {},
        'none': (),
    }
    key = {'key': jax.random.key(2)}
    new = jax.tree.map(jnp.zeros_like, {k: v for k, v in old.items() if k != 'key'})
    new |= key
    for ok, expected in ((True, new), (False, old)):
        found = jax.jit(guard.keep)(jnp.bool_(ok), new, old)
        assert jax.tree.structure(found) == jax.tree.structure(old)
        assert [x.dtype for x in jax.tree.leaves(found)] == [
            x.dtype for x in jax.tree.leaves(old)
        ]
        assert trees.digest(found) == trees.digest(expected)
        assert found['spread'].sharding.is_equivalent_to(place, 1)


def loss_fn(params, frozen, batch, key):
    """A regression, to which the batch may add what is not finite, or its slope."""
    off = batch['x'] @ params['w'] + params['b'] - batch['y']
    # A root is 0 at 0, and its slope is not finite.
    left = 1 - batch['steep'][0]
    root = jnp.sqrt(left + 0 * jnp.sum(params['w'])) - left
    total = jnp.sum(jnp.square(off)) + root + batch['more'][0]
    return core.Loss({'loss': (total, jnp.float32(off.size))}, {})


@functools.cache
def program(devices, options=None):
    """(the jitted step, what makes the state at its start, batches)."""
    place = tiny.sharding(fsdp=devices, rules='fsdp')
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
    split, whole = place.named(('embed',)), place.replicated

    def begin():
        params = {'w': jnp.ones((64, 8)), 'b': jnp.zeros(8)}
        extra = {'guard': guard.start(options)} if options else {}
        key = jax.random.key_data(jax.random.key(0))
        return state.State(jnp.int32(0), key, params, optimizer.init(params), extra)

    places = jax.tree.map(lambda x: split if x.ndim == 2 else whole, begin())
    run = jax.jit(
        functools.partial(
            step.train_step,
            loss_fn=loss_fn,
            optimizer=optimizer,
            accumulate=1,
            guard=options,
        ),
        out_shardings=(places, whole),
        donate_argnums=0,
    )

    def batch(seed, **poison):
        rng = np.random.default_rng(seed)
        made = {name: np.full(8, poison.get(name, 0.0)) for name in ('more', 'steep')}
        made |= {'x': rng.standard_normal((8, 64)), 'y': rng.standard_normal((8, 8))}
        made = {name: array.astype(np.float32) for name, array in made.items()}
        return jax.device_put(made, place.named(('batch',)))

    return run, jax.jit(begin, out_shardings=places), batch


def digests(current):
    """Of all that a bad step must leave as it is."""
    return trees.digest({'params': current.params, 'opt_state': current.opt_state})


@pytest.mark.parametrize('devices', [1, 8])
def test_a_bad_step_changes_only_the_step_and_the_count(devices):
    """Keeping the parameters alone leaves Adam's moments bad, and fails here."""
    run, begin, batch = program(devices, guard.Options())
    current, _ = run(begin(), {}, batch(0))
    before = digests(current)
    for skipped, poison in enumerate(
        (dict(more=NAN), dict(more=INF), dict(steep=1)), 1
    ):
        current, metrics = run(current, {}, batch(1, **poison))
        assert digests(current) == before
        assert np.isfinite(metrics['loss']) == ('steep' in poison)
        assert int(current.extra['guard']['skipped']) == skipped
        assert int(current.step) == 1 + skipped
    current, metrics = run(current, {}, batch(1))
    assert digests(current) != before
    assert np.isfinite(metrics['loss'])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(current.params))


def test_the_compiled_step_asks_no_host_and_still_writes_in_place():
    """Every array of the state is written where it was, and good steps are the same.

    A callback that reports bad steps, or a judgement outside jit, fails here; the step
    of a transformer is looked at in tests/faults.
    """
    guarded, begin, batch = program(1, guard.Options(sigma=6.0))
    plain, begin_plain, _ = program(1)
    current, without = begin(), begin_plain()
    compiled = guarded.lower(current, {}, batch(0)).compile()
    text = compiled.as_text()
    asked = ('infeed', 'outfeed', 'callback', 'send(', 'recv(', 'host-transfer')
    assert [word for word in asked if word in text] == []
    big = {'params': current.params, 'opt_state': current.opt_state}
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(big))
    assert compiled.memory_analysis().alias_size_in_bytes >= held
    for seed in range(3):
        current, _ = guarded(current, {}, batch(seed))
        without, _ = plain(without, {}, batch(seed))
    assert digests(current) == digests(without)
