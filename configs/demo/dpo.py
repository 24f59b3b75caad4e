r"""The demo's preferences: whole answers to the right question, not broken-off ones.

    python -m gptjax.data --config=configs/data/python_qa.py:pairs \
        --output=runs/demo/pairs
    python -m gptjax.train --config=configs/demo/dpo.py --workdir=runs/demo/dpo

For your own pairs set data.path to a file of {"prompt", "chosen", "rejected"} lines.

Expected: the share of held-out pairs whose better answer is the more probable one rises
from 34 to 42 %, and 96 of 100 answers still stop; 40 s on two cores.
"""

from ml_collections import ConfigDict

from configs.demo import sft


def get_config() -> ConfigDict:
    config = sft.get_config()
    config.epochs = 0.25

    config.model = dict(init_from='runs/demo/sft', dropout=0.0)
    config.data.path = 'runs/demo/pairs'
    config.data.batch_size = 8
    config.data.build.corpus.name = 'pairs'
    loss = dict(name='sigmoid', beta=0.1)
    # Live, for only a quarter of the pairs is read: what is stored is of all of them.
    config.objective = dict(name='preference', loss=loss, reference='live')
    config.optimizer.learning_rate = 1.5e-4
    config.optimizer.final_learning_rate = 0.0
    return config
