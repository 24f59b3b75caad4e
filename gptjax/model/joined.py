"""Products of one input as one, for decoding: query, key and value; up and gate.

Decoding reads each weight once a token, so fewer and larger products waste less.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import core

QKV, UP_GATE = 'query_key_value', 'up_gate'
# What lies side by side, and on which axis of the weight, and of its bias.
_JOINED = {QKV: (('query', 'key', 'value'), -2), UP_GATE: (('up', 'gate'), -1)}


def tree(params: core.Params) -> core.Params:
    """`params`, stacked or not, with weights side by side where those are arrays.

    What is adapted or quantised stays as it is, and so does cross-attention, whose
    products have two inputs.
    """
    return {name: _module(name, own) for name, own in params.items()}


def _module(name: str, own: Any) -> Any:
    if isinstance(own, list):
        return [tree(one) for one in own]
    if not isinstance(own, Mapping):
        return own
    made: dict[str, Any] = {key: _module(key, below) for key, below in own.items()}
    for whole, (parts, axis) in _JOINED.items():
        if name not in ('attention', 'mlp') or not all(
            isinstance(made.get(part), jax.Array) for part in parts
        ):
            continue
        for suffix in ('', '_bias'):
            if f'{parts[0]}{suffix}' in made:
                sides = [made.pop(f'{part}{suffix}') for part in parts]
                made[f'{whole}{suffix}'] = jnp.concatenate(sides, axis)
    return made
