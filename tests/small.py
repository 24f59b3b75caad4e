"""Small models of every family in which no two sizes are equal, and random weights."""

import dataclasses

from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from gptjax.exchange import tables
from gptjax.model import config, table

SIZES = {'T': 20, 'V': 61, 'D': 24, 'F': 44, 'N': 3, 'K': 3, 'H': 8, 'L': 2}
# Llama's kind have heads whose widths do not add up to D, and fewer keys than queries.
GROUPED = SIZES | {'N': 6, 'K': 2, 'H': 10}
LLAMAS = ('llama', 'mistral', 'qwen2', 'qwen3', 'mixtral')

HEADS = {
    'gpt2': [{}, {'tied': False}, {'kind': 'none'}, {'kind': 'reward'}],
    'bert': [
        {},
        {'tied': False},
        {'pooler': True},
        {'kind': 'pretraining', 'pooler': True},
        {'kind': 'classes', 'classes': 5, 'pooler': True},
        {'kind': 'none', 'bias': False, 'pooler': True},
    ],
    'bart': [{}, {'bias': False}, {'kind': 'none', 'bias': False}],
}
HEADS['gpt2'].append({'kind': 'classes', 'classes': 5})
HEADS |= {name: [{}] for name in LLAMAS}  # their heads are Llama's
HEADS |= {'llama': HEADS['gpt2'], 'roberta': HEADS['bert'], 'marian': [{}]}
# No class of RoBERTa has two heads.
HEADS['roberta'] = [h for h in HEADS['bert'] if h.get('kind') != 'pretraining']


def arch(family: str, head=None, **changes) -> config.Architecture:
    """A small model of a family."""
    nano = table.FAMILIES[family]['nano']
    sizes = dict(GROUPED if family in LLAMAS else SIZES)
    if nano.encoder_L:
        sizes['encoder_L'] = 3
    made = dataclasses.replace(nano, **sizes | changes)
    if nano.experts:
        experts = dataclasses.replace(nano.experts, E=5)
        made = dataclasses.replace(made, experts=experts)
    return made.with_head(**head or {})


def params(of: config.Architecture, seed: int = 0):
    """Random float32 parameters, with a few that are no ordinary numbers."""
    rng = np.random.default_rng(seed)
    flat = {}
    for path, leaf in tables.leaves(of).items():
        array = rng.standard_normal(leaf.shape).astype(np.float32)
        array.reshape(-1)[:2] = [-0.0, np.inf]
        array.reshape(-1)[-1] = 1e-45
        flat[path] = jnp.asarray(array)
    return traverse_util.unflatten_dict(flat, sep='/')
