r"""Books that sound pleased, by PPO (Ziegler et al., 2019, section 3.1), in minutes.

    python -m gptjax.train --config=configs/sentiment/ppo.py \
        --workdir=runs/sentiment/ppo

The base of configs/sentiment/base.py continues the first 16 tokens of a paragraph by
24; the reward is the log-odds that configs/sentiment/classifier.py gives to 'pos'. The
details are those of the first RLHF: a coefficient of the KL that follows a target,
whitened rewards and advantages, clipped values.

Expected: the mean probability of 'pos' on held-out prompts from 0.49 to 0.93, 20 nats
from the base, whose perplexity on the texts is 1.5 times that on its own; 4 minutes on
two cores (make benchmark AREA=post.sentiment). At a target of 10 nats the probability
stays near 0.8, at 16 it ends at 0.90.
"""

from ml_collections import ConfigDict

from configs.sentiment import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.steps = 320

    config.model = dict(init_from='runs/sentiment/base', dropout=0.0)
    config.data = dict(path='runs/sentiment/base/data', batch_size=128, loader='tfdata')
    config.rollout = dict(
        prompts=128,
        group=1,
        prompt_tokens=16,
        max_tokens=24,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        epochs=4,
    )
    classifier = dict(
        name='classifier',
        workdir='runs/sentiment/classifier',
        label='pos',
        prompt=False,
    )
    # The first is told, the second trained on: its mean is near 0, as that of the
    # values of a fresh head, or answers that end early would seem the better ones.
    config.rewards = (
        dict(**classifier, score='probability', weight=0.0),
        dict(**classifier, score='log_odds', weight=1.0),
    )
    config.objective = dict(
        name='ppo',
        clip_low=0.2,
        clip_high=0.2,
        clip_value=0.2,
        value_coefficient=0.1,
        gamma=1.0,
        lam=0.95,
        kl_coefficient=0.05,
        kl_estimator='k1',
        kl_target=20.0,
        kl_horizon=500.0,
        whiten_rewards=True,
        whiten_advantages=True,
    )
    config.optimizer.learning_rate = 5e-4
    config.optimizer.final_learning_rate = 3e-5
    config.optimizer.warmup_steps = 10
    config.optimizer.weight_decay = 0.0
    config.checkpoint = dict(every=100, keep=1)
    config.eval = dict(every=80, rows=256, patience=0)
    config.run = dict(log_every=4)
    return config
