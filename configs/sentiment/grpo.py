r"""Books that sound pleased, by GRPO (Shao et al., 2024): no values, but groups.

    python -m gptjax.train --config=configs/sentiment/grpo.py \
        --workdir=runs/sentiment/grpo

The task of configs/sentiment/ppo.py; each prompt is continued eight times.

Expected: the mean probability of 'pos' from 0.49 to 0.92, 20 nats from the base, in
three and a half minutes on two cores.
"""

from ml_collections import ConfigDict

from configs.sentiment import ppo


def get_config() -> ConfigDict:
    config = ppo.get_config()
    config.steps = 200

    config.rollout.prompts = 16
    config.rollout.group = 8
    config.rollout.epochs = 2
    config.objective = dict(
        name='group',
        method='grpo',
        kl_coefficient=0.15,
        kl_in='loss',
        kl_estimator='k3',
    )
    return config
