"""The optimizers by name."""

from gptjax.train import muon, optim

OPTIMIZERS = {
    'adamw': optim.adamw,
    'adam_tf': optim.adam_tf,
    'adafactor': optim.adafactor,
    'lion': optim.lion,
    'sgd': optim.sgd,
    'muon': muon.muon,
    'normuon': muon.normuon,
}
