"""Every family alike: making a model, its parameters, and what it computes.

Everything is a pure function of the parameters. A batch has `tokens`, `positions` and
`segments`, perhaps `types`, and for encoder-decoders `source`, `source_positions` and
`source_segments` too, all int32 and (B, T).
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gptjax import core
from gptjax import sharding as sharding_lib
from gptjax.model import config, gpt, low, seq2seq

Model = gpt.GPT | seq2seq.Seq2Seq


def make(
    arch: config.Architecture,
    compute: config.Compute,
    sharding: sharding_lib.Sharding,
) -> Model:
    """The module of an architecture: with an encoder beside the decoder, or alone."""
    kind = seq2seq.Seq2Seq if arch.encoder_L else gpt.GPT
    return kind(arch, compute, sharding)


def abstract(model: Model) -> Any:
    """The boxed shapes of the parameters: shapes, types and logical axes, no memory."""
    row = jax.ShapeDtypeStruct((model.sharding.batch_shards, model.arch.T), jnp.int32)
    inputs = [row] * _inputs(model)
    boxed = jax.eval_shape(_initialise(model), jax.random.key(0), *inputs)
    return boxed['params']


def init(model: Model, key: Array) -> core.Params:
    """Fresh parameters, born with the shardings of their logical axes."""
    shardings = model.sharding.of_boxed(abstract(model))
    row = jnp.zeros((model.sharding.batch_shards, model.arch.T), jnp.int32)

    def make(key: Array) -> core.Params:
        return nn.unbox(_initialise(model)(key, *[row] * _inputs(model))['params'])

    return jax.jit(make, out_shardings=shardings)(key)


def _inputs(model: Model) -> int:
    return 6 if model.arch.encoder_L else 3


def _initialise(model: Model) -> Any:
    return lambda key, *inputs: model.init(key, *inputs, method='everything')


def hidden(
    model: Model, params: core.Params, batch: core.Batch, key: Array | None = None
) -> tuple[Float[Array, 'B T D'], core.Metrics]:
    """Hidden states after the last layer, and the router's losses.

    The losses are terms to add to the objective's ({} without experts), coefficients
    in. A key turns dropout on.
    """
    names = ['tokens', 'positions', 'segments']
    if model.arch.encoder_L:
        names += ['source', 'source_positions', 'source_segments']
    elif 'types' in batch:
        names += ['types']
    return _apply(model, params, 'hidden', *(batch[n] for n in names), key=key)


def forward(
    model: Model, params: core.Params, batch: core.Batch, key: Array | None = None
) -> Float[Array, 'B T V']:
    """Logits of tokens, in float32; a key turns dropout on."""
    x_BTD, _ = hidden(model, params, batch, key)
    return logits(model, params, x_BTD)


def logits(
    model: Model, params: core.Params, x_BTD: Float[Array, 'B T D']
) -> Float[Array, 'B T V']:
    """Logits of tokens from hidden states, in float32."""
    return _apply(model, params, 'logits', x_BTD)


def scores(
    model: Model, params: core.Params, x_BTD: Float[Array, 'B T D']
) -> Float[Array, 'B T W']:
    """`logits` in the type of activations, for losses: W is V, or padded from it."""
    return _apply(model, params, 'scores', x_BTD)


def classify(
    model: Model,
    params: core.Params,
    x_BTD: Float[Array, 'B T D'],
    segments_BT: Int[Array, 'B T'],
    key: Array | None = None,
) -> Float[Array, 'B C']:
    """Logits of classes from hidden states, one document a row, in float32."""
    return _apply(model, params, 'classify', x_BTD, segments_BT, key=key)


def rewards(
    model: Model,
    params: core.Params,
    x_BTD: Float[Array, 'B T D'],
    segments_BT: Int[Array, 'B T'],
) -> Float[Array, 'B']:
    """One number for each row from hidden states, one document a row, in float32."""
    return _apply(model, params, 'rewards', x_BTD, segments_BT)


def values(
    model: Model, params: core.Params, x_BTD: Float[Array, 'B T D']
) -> Float[Array, 'B T']:
    """One number for each token from hidden states, in float32."""
    return _apply(model, params, 'values', x_BTD)


def unstack(model: Model, params: core.Params) -> core.Params:
    """Parameters with a list of layers that `decode` goes through; do it once."""
    module = seq2seq if model.arch.encoder_L else gpt
    return module.unstack(params)


def decode(
    model: Model,
    params: core.Params,
    tokens_BT: Int[Array, 'B T'],
    positions_BT: Int[Array, 'B T'],
    cache: Any,
    last_B: Int[Array, 'B'] | None = None,
) -> tuple[Array, Any]:
    """`gpt.decode` or `seq2seq.decode`, with the cache that belongs to it."""
    step: Any = seq2seq.decode if model.arch.encoder_L else gpt.decode
    logits, cache = step(model, params, tokens_BT, positions_BT, cache, last_B)
    return logits, cache


def _apply(
    model: Model, params: core.Params, method: str, *inputs: Any, key: Any = None
) -> Any:
    if method == 'hidden':  # which all products of layers are in
        # Evaluations, references and teachers are plain: they go without a key.
        products = 'plain' if key is None else model.compute.products
        params = low.tree(params, products, model.compute.dtype)
    return model.clone(train=key is not None).apply(
        {'params': params},
        *inputs,
        method=method,
        rngs={} if key is None else {'dropout': key},
    )
