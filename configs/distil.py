r"""A small model learns the distributions of a large one of the same tokenizer.

    python -m gptjax.train --config=configs/distil.py:off \
        --config.data.path=DATASET --config.model.init_from=STUDENT \
        --config.objective.teacher=TEACHER --workdir=runs/distil

off: on the rows of a dataset of text or conversations. on: on the student's own
answers to its prompts (Agarwal et al., 2024), for which no reward is needed.
STUDENT and TEACHER are workdirs. beta is 0 for the forward KL, 1 for the reverse, and a
mixture between them.
"""

from ml_collections import ConfigDict

from configs.demo import sft
from gptjax import command

POLICIES = {'off': 0.0, 'on': 1.0}  # and the beta of each


def get_config(policy: str = 'off') -> ConfigDict:
    beta = command.lookup(POLICIES, policy, 'policy')
    config = sft.get_config()
    del config.epochs
    config.steps = 1_000

    config.model = dict(init_from='runs/student', dropout=0.0)
    config.data = dict(path='data/chat', batch_size=16, loader='tfdata')
    config.objective = dict(
        name='distil', teacher='runs/teacher', beta=beta, temperature=1.0
    )
    if policy == 'on':
        config.rollout = dict(
            prompts=16,
            group=1,
            prompt_tokens=64,
            max_tokens=64,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            epochs=1,
        )
    config.optimizer.learning_rate = 1e-4
    config.optimizer.final_learning_rate = 1e-6
    return config
