"""Steps of training on a mesh, to compare with the same on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tiny_family

from gptjax.model import transformer
from gptjax.objectives import next_token
from gptjax.train import state as state_lib
from gptjax.train import step as step_lib


def once(model, batch, change=lambda params: params):
    """(a number, its gradients, text of the compiled program): quicker than a step."""

    def number(params):
        x_BTD, router = transformer.hidden(model, params, batch)
        waves = jnp.cos(jnp.arange(x_BTD.size)).reshape(x_BTD.shape)
        losses = sum(total / weight for total, weight in router.values())
        return jnp.mean(x_BTD * waves * (batch['segments'] > 0)[..., None]) + losses

    params = change(tiny_family.params(model))
    shardings = model.sharding.of_boxed(transformer.abstract(model))
    params = jax.device_put(params, shardings)
    compiled = jax.jit(jax.value_and_grad(number)).lower(params).compile()
    return *jax.tree.map(np.asarray, compiled(params)), compiled.as_text()


def train(model, batches, accumulate: int = 1, seed: int = 0, apart=None):
    """(losses, gradients of the first step, text of the compiled step).

    AdamW from random weights, which leave no branch silent. Arrays are NumPy's.
    """
    keep = optax.GradientTransformation(
        init=lambda params: params, update=lambda grads, *_: (grads, grads)
    )
    optimizer = optax.chain(keep, optax.adamw(1e-3, eps=1e-3))
    boxed = transformer.abstract(model)
    _, shardings = state_lib.shardings_of(boxed, optimizer, model.sharding)
    params = jax.device_put(tiny_family.params(model), shardings.params)
    state = state_lib.create(params, optimizer, seed, shardings)
    place = model.sharding.named(('batch', None))

    def step(state, batch):
        loss_fn = next_token.make(model)
        return step_lib.train_step(
            state, {}, batch, loss_fn=loss_fn, optimizer=optimizer,
            accumulate=accumulate, apart=apart,
        )  # fmt: skip

    batches = [jax.device_put(batch, place) for batch in batches]
    compiled = (
        jax.jit(step, out_shardings=(shardings, None))
        .lower(state, batches[0])
        .compile()
    )
    losses, gradients = [], None
    for batch in batches:
        state, metrics = compiled(state, batch)
        losses.append(float(metrics['loss']))
        if gradients is None:
            gradients = jax.tree.map(np.asarray, state.opt_state[0])
    return np.array(losses), gradients, compiled.as_text()


def check(ours, one_device, near: float = 1e-5):
    """Losses within 1e-5 relative, and gradients within 1e-5 of the largest number.

    That is rounding: sums of float32 in another order. Biases of keys have gradients
    that cancel to 0: of a small leaf, 0.05 of the largest number of all counts.
    """
    np.testing.assert_allclose(ours[0], one_device[0], rtol=1e-5)
    wanted = jax.tree.leaves(one_device[1])
    least = 0.05 * max(np.abs(want).max() for want in wanted)
    for got, want in zip(jax.tree.leaves(ours[1]), wanted, strict=True):
        largest = max(np.abs(want).max(), least)
        np.testing.assert_allclose(got, want, rtol=0, atol=near * largest)
