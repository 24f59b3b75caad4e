"""Wrong bits that raise no error: found, and laid at the right device."""

import dataclasses

import flipped
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_config

from gptjax import command, core, trees
from gptjax.train import build, replicas
from gptjax.train import state as state_lib


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp('replicas')
    (folder / 'text.txt').write_text(tiny_config.text())
    config = tiny_config.get_config()
    config.data.path = str(folder / 'text.txt')
    return build.build(config, folder / 'run')


def squares(params, frozen, batch, key):
    """As small a loss as there is; its program takes no time to compile."""
    y_B = batch['x'] @ (params['w'] * frozen['scale'])
    return core.Loss({'loss': (jnp.sum(y_B**2), jnp.float32(y_B.size))}, {})


def made(built, sharding, loss_fn=squares):
    """(replicas, state, frozen, batch) of a loss on a mesh."""
    model = dataclasses.replace(built.model, sharding=sharding)
    run = dataclasses.replace(built, model=model, loss_fn=loss_fn)
    rng = np.random.default_rng(0)
    place = sharding.named(('embed', None))
    w = jax.device_put(rng.standard_normal((8, 3)).astype(np.float32), place)
    batch = {'x': rng.standard_normal((8, 8)).astype(np.float32)}
    rest = {
        'step': jnp.int32(3),
        'key': jax.random.key_data(jax.random.key(0)),
        'opt_state': {'mu': {'w': w.astype(jnp.bfloat16)}},
        'extra': {'running': {'count': jnp.int32(7)}},
    }
    rest, frozen = jax.device_put((rest, {'scale': jnp.int8(2)}), sharding.replicated)
    state = state_lib.State(params={'w': w}, **rest)
    batch = jax.device_put(batch, sharding.named(('batch',)))
    return replicas.Replicas(run, 0), state, frozen, batch


def test_the_odd_copy_of_four_is_named(built):
    """Fails if digests are taken outside shard_map: XLA reads one copy and sees none.

    Also where moments, statistics or frozen weights are left out.
    """
    checked, state, frozen, batch = made(built, tiny.sharding(data=4))
    device = jax.devices()[2]
    checked.check(state, frozen, batch, 10)
    w = flipped.flipped(state.params['w'], device, byte=17, bit=4)
    mu = flipped.flipped(state.opt_state['mu']['w'], device, byte=40, bit=0)
    count = flipped.flipped(state.extra['running']['count'], device, byte=1, bit=7)
    scale = flipped.flipped(frozen['scale'], device, byte=0, bit=6)
    assert trees.digest({'w': w}) == trees.digest(state.params)  # sees one copy
    for wrong, leaf in (
        ((state._replace(params={'w': w}), frozen), 'params/w'),
        ((state._replace(opt_state={'mu': {'w': mu}}), frozen), 'opt_state/mu/w'),
        ((state._replace(extra={'running': {'count': count}}), frozen), 'extra/runn'),
        ((state, {'scale': scale}), 'frozen/scale'),
    ):
        with pytest.raises(command.Failure) as found:
            checked.check(*wrong, batch, 20)
        assert found.value.code == command.NUMERICS
        message = str(found.value)
        assert f'after step 20 the copies of {leaf}' in message
        assert 'are not equal: device 2 (cpu, process 0).' in message
        assert 'checkpoints after step 10,' in message


def test_of_two_copies_both_are_named_and_their_halves_apart(built):
    """Fails if all devices are one group: halves of an array differ, and rightly."""
    sharding = tiny.sharding(data=2, fsdp=2, rules='fsdp')
    checked, state, frozen, batch = made(built, sharding)
    checked.check(state, frozen, batch, 10)
    w = flipped.flipped(state.params['w'], jax.devices()[1], byte=0, bit=0)
    named = r'equal: device 1 \(cpu, process 0\), device 3 \(cpu, process 0\)\.'
    with pytest.raises(command.Failure, match=named):
        checked.check(state._replace(params={'w': w}), frozen, batch, 20)


def test_what_is_wrong_once_is_seen_by_computing_twice(built):
    """On one device, which has no copies; fails if one result is used for both."""
    calls = []

    def host(x):
        calls.append(x)
        return np.float32(1 + 1e-6 * (len(calls) == 4))

    def wrong_once(params, *others):
        total, weight = squares(params, *others).terms['loss']
        factor = jax.pure_callback(host, jax.ShapeDtypeStruct((), jnp.float32), weight)
        return core.Loss({'loss': (total * factor, weight)}, {})

    checked, state, frozen, batch = made(built, tiny.sharding(), wrong_once)
    checked.check(state, frozen, batch, 1)
    with pytest.raises(command.Failure, match='two gradients of w and 1 more differ'):
        checked.check(state, frozen, batch, 2)
    checked.check(state, frozen, batch, 3)
    assert len(calls) == 6
