"""Slices by their names, and what they cost."""

import json

import pytest

from gptjax import command
from gptjax.plan import targets


@pytest.mark.parametrize(
    ('name', 'chips', 'shape', 'slices'),
    [
        ('v5e-16', 16, (4, 4), 1),
        ('v5p-128', 64, (4, 4, 4), 1),  # its names count cores
        ('v5p-256', 128, (4, 4, 8), 1),
        ('v6e-256', 256, (16, 16), 1),
        ('v5e-256x4', 1024, (16, 16), 4),
        ('h100-8', 8, (8,), 1),
        ('h100-32', 32, (8,), 4),  # four nodes
    ],
)
def test_names(name, chips, shape, slices):
    target = targets.parse(name)
    assert (target.chips, target.shape, target.slices) == (chips, shape, slices)


@pytest.mark.parametrize(
    ('name', 'says'),
    [
        ('v5x-16', "did you mean 'v5"),
        ('a-16', 'known: cpu, h100, '),
        ('cpu-4', 'cpu is this machine'),
        ('v5e-17', '1, 4, 8, 16, 32'),
        ('v5e', 'v5e-16'),
        ('v5e-16x0', 'v5e-16'),
        ('v5e-16x', 'is no size'),
        ('v5e-²', 'is no size'),
        ('h100-12', '1, 2, 4, 8'),
    ],
)
def test_a_name_that_is_none_is_told_what_there_is(name, says):
    with pytest.raises(command.UserError, match=says):
        targets.parse(name)


def test_each_price_has_its_date_and_source():
    for kind, price in json.loads(targets.PRICES.read_bytes()).items():
        assert kind in targets.CHIPS
        assert price['usd'] > 0
        assert price['source']
        assert price['date'][:2] == '20'


def test_larger_slices_come_in_order():
    larger = targets.larger(targets.parse('v5p-128'))
    assert [one.name for one in larger[:2]] == ['v5p-256', 'v5p-512']
    assert larger[-1].chips == 4096
