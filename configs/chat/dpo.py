r"""`make chat`, stage 2: whole answers to the right question, not broken-off ones.

    python -m gptjax.train --config=configs/chat/dpo.py --workdir=runs/chat/dpo

The demo's, from the model of stage 1. `objective.loss.name` may be any of the losses in
gptjax/objectives/preferences.py.

Expected: the share of held-out pairs whose better answer is the more probable one rises
from 35 to 41 %.
"""

from ml_collections import ConfigDict

from configs.demo import dpo


def get_config() -> ConfigDict:
    config = dpo.get_config()
    config.model.init_from = 'runs/chat/sft'
    config.run.log_every = 5
    return config
