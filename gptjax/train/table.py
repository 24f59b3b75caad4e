"""The optimizers by name."""

from collections.abc import Callable
import functools

import optax

from gptjax.train import muon, optim

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    'adamw': optim.adamw,
    'adam_tf': optim.adam_tf,
    'adafactor': optim.adafactor,
    'lion': optim.lion,
    'sgd': optim.sgd,
    'muon': muon.muon,
    'normuon': functools.partial(muon.muon, neuron_b2=0.95),
}
# Those of which an update is of one size in any weight: muP scales it.
SCALED = ('adamw', 'adam_tf', 'lion', 'muon', 'normuon')
