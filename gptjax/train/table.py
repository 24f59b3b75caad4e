"""The optimizers by name."""

from gptjax.train import optim

OPTIMIZERS = {'adamw': optim.adamw, 'adam_tf': optim.adam_tf}
