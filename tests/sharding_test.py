"""The mesh and the table of axes."""

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny

from gptjax import command, sharding


def test_axes_map_through_the_table():
    place = tiny.sharding(2, 2, 2, 'fsdp_tensor')
    batch = ('slice', 'data', 'fsdp')
    assert place.spec(('batch', 'length', None)) == P(batch, None, None)
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
    with pytest.raises(command.UserError, match="did you mean 'tensor'"):
        sharding.make(1, 1, 1, 'fsdp_tensr')


def test_minus_one_takes_the_rest():
    made = sharding.make(2, -1, 1, 'fsdp')
    assert {name: n for name, n in made.mesh.shape.items() if n > 1} == {
        'data': 2, 'fsdp': 4,
    }  # fmt: skip
    assert str(made) == 'data 2 x fsdp 4'


def test_a_mesh_takes_the_devices_that_it_is_given():
    """Programs are compiled for machines that are not here. Mutation: jax.devices()."""
    given = jax.devices()[2:6]
    made = sharding.make(1, -1, 1, 'fsdp', devices=given)
    assert set(made.mesh.devices.flat) == set(given)


def test_the_length_yields_to_heads_and_to_single_tokens():
    """Mutation: length takes its mesh axes in every array."""
    place = sharding.make(1, 1, 4, 'tensor_sequence_context', context=2)
    both = ('context', 'tensor')
    batch = ('slice', 'data')
    assert place.spec(('batch', 'length', None)) == P(batch, both, None)
    heads = place.spec(('batch', 'length', 'heads', 'head_dim'))
    assert heads == P(batch, ('context',), ('tensor',), None)
    assert place.spec(('batch', 'length', None), (2, 1, 8)) == P(batch, None, None)
    with pytest.raises(command.UserError, match=r'is 40, which 16 parts.*\(48, say'):
        place.check_length(40, 'data.T')


def test_forms_stand_in_any_order():
    """Mutation: the order in rules is that of the parts of an axis."""
    assert sharding.table('expert_fsdp') == sharding.table('fsdp_expert')
    assert sharding.table('fsdp_expert')['batch'] == (
        'slice', 'data', 'fsdp', 'expert',
    )  # fmt: skip


class _Chip:
    device_kind, core_on_chip, process_index = 'TPU v5 lite', 0, 0

    def __init__(self, number: int, platform: str = 'tpu'):
        self.id, self.slice_index, self.platform = number, number % 2, platform
        self.coords = number // 2 % 2, number // 4, 0


def test_only_the_axis_slice_crosses_slices():
    """Mutation: the devices as they come, which here takes turns between slices."""
    chips = [_Chip(i) for i in range(8)]
    made = sharding.make(1, 4, 1, 'fsdp', slice=2, devices=chips)
    for number, part in enumerate(made.mesh.devices):
        assert {chip.slice_index for chip in part.flat} == {number}
    with pytest.raises(command.UserError, match='there are 2 slices; set it to 2'):
        sharding.make(1, 8, 1, 'fsdp', devices=chips)


def test_off_tpus_hosts_are_no_slices():
    """There each host has a slice_index. Mutation: fsdp may not cross them."""
    devices = [_Chip(i, 'gpu') for i in range(8)]
    made = sharding.make(1, 4, 1, 'fsdp_stage', stage=2, devices=devices)
    np.testing.assert_array_equal(
        [device.id for device in made.mesh.devices.flat], range(8)
    )
