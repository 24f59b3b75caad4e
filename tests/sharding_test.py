"""The mesh and the table of axes."""

import jax
from jax.sharding import PartitionSpec as P
import pytest
import tiny

from gptjax import command, sharding


def test_axes_map_through_the_table():
    place = tiny.sharding(2, 2, 2, 'fsdp_tensor')
    assert place.spec(('batch', 'length', None)) == P(('data', 'fsdp'), None, None)
    assert place.spec(('embed', 'heads', 'head_dim')) == P(('fsdp',), ('tensor',), None)
    assert place.batch_shards == 4
    assert hash(place) == hash(sharding.make(2, 2, 2, 'fsdp_tensor'))


def test_unknown_axes_and_clashes_raise():
    place = tiny.sharding(2, 2, 2, 'fsdp_tensor')
    with pytest.raises(ValueError, match="unknown logical axis 'embd'"):
        place.spec(('embd',))
    with pytest.raises(ValueError, match='on one mesh axis'):
        place.spec(('batch', 'embed'))


def test_what_does_not_divide_raises_with_the_numbers():
    place = tiny.sharding(1, 4, 2, 'fsdp_tensor')
    with pytest.raises(command.UserError, match=r'size 50257, which 2 parts.*to 50258'):
        place.named(('vocab', 'embed'), (50257, 768))
    with pytest.raises(
        command.UserError, match=r'is 102, .* multiple of 4 \(100 or 104'
    ):
        place.check_batch(102, 'data.batch_size')


@pytest.mark.parametrize(
    ('sizes', 'message'),
    [
        ((16, 1, 1), 'there are 8'),
        ((-1, -1, 1), 'one may be -1'),
        ((0, 1, 1), 'sizes are 1 or more'),
        ((-1, 3, 1), 'there are 8'),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(sizes, message):
    with pytest.raises(command.UserError, match=message):
        sharding.make(*sizes, rules='fsdp')


def test_an_axis_that_splits_nothing_is_refused():
    with pytest.raises(command.UserError, match=r'mesh\.fsdp is 8, .* over it'):
        sharding.make(1, 8, 1, 'data')
    with pytest.raises(command.UserError, match="did you mean 'fsdp_tensor'"):
        sharding.make(1, 1, 1, 'fsdp_tensr')


def test_minus_one_takes_the_rest():
    assert dict(sharding.make(2, -1, 1, 'fsdp').mesh.shape) == {
        'data': 2, 'fsdp': 4, 'tensor': 1,
    }  # fmt: skip


def test_a_mesh_takes_the_devices_that_it_is_given():
    """Programs are compiled for machines that are not here. Mutation: jax.devices()."""
    given = jax.devices()[2:6]
    made = sharding.make(1, -1, 1, 'fsdp', devices=given)
    assert set(made.mesh.devices.flat) == set(given)
