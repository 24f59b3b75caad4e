"""What a weight is for, by its path; and the matrices that it holds."""

from collections.abc import Sequence
import math
from typing import Any

import jax

from gptjax import command
from gptjax.model import lora

ROLES = (
    'products', 'experts', 'router', 'embeddings', 'head', 'norms', 'biases',
    'adapters',
)  # fmt: skip


def of(path: str) -> str:
    """One of ROLES: products are attention's and the MLP's, head all of its weights."""
    *above, name = path.split('/')
    if name in ('down', 'up') and lora.adaptable('/'.join(above)):
        return 'adapters'
    if any(part.endswith('norm') for part in path.split('/')):
        return 'norms'
    for role, found in (
        ('biases', name.endswith('bias')),
        ('router', name == 'router'),
        ('experts', 'experts' in above),
        ('head', 'head' in above),
        ('products', lora.adaptable(path)),
    ):
        if found:
            return role
    return 'embeddings'


def check(setting: str, given: Any) -> None:
    """Raises UserError unless `given` is a list of roles."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise command.UserError(
            f'{setting} is {given!r}; it is a list of {", ".join(ROLES)}.'
        )
    for role in given:
        command.lookup(dict.fromkeys(ROLES), role, f'role in {setting}')


def matrices(path: str, leaf: jax.Array) -> jax.Array:
    """A weight as (..., inputs, outputs): its heads joined, layers and experts apart.

    (L, D, N, H) is (L, D, N H), an expert's (L, E, D, F) itself. Joined dimensions are
    split over a mesh as the first of them is.
    """
    lead = lora.stacked(path) + (of(path) == 'experts')
    dims = leaf.shape[lead:]
    inputs = 2 if path.endswith('/out') else 1
    sides = math.prod(dims[:inputs]), math.prod(dims[inputs:])
    return leaf.reshape(*leaf.shape[:lead], *sides)
