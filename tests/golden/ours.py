"""The same figures as oracle.py, of gptjax, and how far they are from the truth."""

from collections.abc import Mapping
from typing import Any

from golden import weights
import jax
import jax.numpy as jnp
import numpy as np
import tiny

from gptjax import core
from gptjax.exchange import huggingface, table, tables
from gptjax.model import config, transformer

# Key biases under learned positions have no gradient but rounding, and float32 carries
# seven digits of the whole: 1e-3 of this part.
NOTHING = 1e-4


def loss(
    model: transformer.Model,
    params: core.Params,
    inputs: Mapping[str, Any],
    wanted: tuple[str, ...],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(the loss, the outputs at every token): cross-entropies of the fixed targets.

    Of hidden states it is their product with a fixed random vector.
    """
    real = inputs['segments'] > 0
    x_BTD, _ = transformer.hidden(model, params, dict(inputs))
    outputs = {'hidden': x_BTD}
    total = jnp.zeros(())
    if 'hidden' in wanted:
        total += jnp.sum(x_BTD * inputs['probe'])
    if 'logits' in wanted:
        outputs['logits'] = transformer.logits(model, params, x_BTD)
        losses = _cross_entropy(outputs['logits'], inputs['targets'])
        total += jnp.sum(losses * real) / jnp.sum(real)
    if 'classes' in wanted:
        outputs['classes'] = transformer.classify(
            model, params, x_BTD, inputs['segments']
        )
        total += jnp.mean(_cross_entropy(outputs['classes'], inputs['labels']))
    return total, {name: outputs[name] for name in wanted}


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    chosen = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
    return jax.nn.logsumexp(logits, -1) - chosen


def run(
    arch: config.Architecture,
    params: core.Params,
    inputs: Mapping[str, np.ndarray],
    wanted: tuple[str, ...],
    gradients: bool = True,
) -> tuple[dict[str, np.ndarray], core.Params]:
    """(outputs at real tokens and the loss, gradients; without them, {})."""
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    real = inputs['segments'] > 0
    fed = {name: jnp.asarray(array, jnp.int32) for name, array in inputs.items()}
    if 'hidden' in wanted:
        probe = np.zeros((*real.shape, arch.D), np.float32)
        probe[real] = weights.tensor('probe.weight', (real.sum(), arch.D), 0)
        fed['probe'] = jnp.asarray(probe)

    def both(params: core.Params) -> Any:
        if not gradients:
            return loss(model, params, fed, wanted), {}
        return jax.value_and_grad(lambda p: loss(model, p, fed, wanted), has_aux=True)(
            params
        )

    (total, outputs), slopes = jax.jit(both)(params)
    arrays = {
        name: np.asarray(array) if name == 'classes' else np.asarray(array)[real]
        for name, array in outputs.items()
    }
    return arrays | {'loss': np.asarray(total)}, slopes


def named(arch: config.Architecture, tree: core.Params) -> dict[str, np.ndarray]:
    """A tree like the parameters under the names of a Hugging Face file."""
    _, entries = huggingface.config_of(arch)
    trunk_only = arch.head.kind == 'none'
    prefix = table.FAMILIES[arch.family].prefix if trunk_only else ''
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tables.dump(arch, entries, tree)
    }


def distance(ours: Mapping[str, np.ndarray], truth: Mapping[str, Any]) -> float:
    """The largest difference of an output, the loss included."""
    return max(float(np.abs(ours[name] - truth[name]).max()) for name in ours)


def gradient_distance(
    ours: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]
) -> tuple[float, str]:
    """The largest relative difference of a gradient's summary, and whose it is.

    Relative to the tensor's norm, or NOTHING of all tensors' where it is less. `ours`
    are gradients, `truth` their summaries.
    """
    assert set(ours) == set(truth)
    everything = np.linalg.norm([summary[0] for summary in truth.values()])
    errors = []
    for name, gradient in ours.items():
        size = max(truth[name][0], NOTHING * everything)
        difference = weights.summary(name, gradient) - truth[name]
        errors.append((float(np.abs(difference).max() / size), name))
    return max(errors)
