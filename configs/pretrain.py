r"""Any decoder from scratch, by the name of its preset: FAMILY-SIZE.

    python -m gptjax.train --config=configs/pretrain.py:modern-small \
        --config.data.path=DATASET --workdir=runs/modern_small

Batches and learning rates are those of configs/gpt2.py for its small size: change them
for larger ones, and model.V to the vocabulary of the data. What it would take tells
`python -m gptjax.train show --config=configs/pretrain.py:mixtral-8x7b`. On Tiny
Shakespeare families compare at one size: configs/shakespeare_char.py:modern-nano.
"""

from ml_collections import ConfigDict

from configs import gpt2
from gptjax.model import table as model_table


def get_config(preset: str = 'modern-small') -> ConfigDict:
    config = gpt2.get_config('small')
    config.model = model_table.preset(preset)
    return config
