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
# By which power of the width muP scales an update of products: see `optim.narrowed`.
SCALED = {'adamw': 1.0, 'adam_tf': 1.0, 'lion': 1.0, 'muon': 0.5, 'normuon': 0.5}
