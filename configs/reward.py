r"""A reward model from pairs of answers, one better and one worse.

    python -m gptjax.train --config=configs/reward.py \
        --config.data.path=PAIRS.jsonl --config.model.init_from=runs/sft \
        --workdir=runs/reward
    python -m gptjax.evals --workdir=runs/reward

A line of the data is {"prompt": ..., "chosen": ..., "rejected": ...}, perhaps with a
"margin", by how much the chosen answer is better. The model begins from one that was
fine-tuned on chats; its head is new. The second command prints on held-out pairs how
many it ranks right and how far its certainty is from the truth, and writes the mean and
the deviation of its rewards, which normalise=True below needs.

As a reward of rollouts, or of configs/sample/best_of_n.py:

    config.rewards = (
        dict(name='reward_model', weight=1.0, workdir='runs/reward', normalise=True),
    )

Measured (experiments/benchmarks/_post_rewards.py): of planted utilities it ranks as
many pairs right as their own order does, within 0.1 %, with a calibration error of
0.008; a model of 0.17M parameters ranks 58.0 % of 1,720 unseen pairs of hh-rlhf right,
6.6 standard errors above chance, two minutes of two cores.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.epochs = 1.0

    config.model = dict(init_from='runs/sft', dropout=0.0, head=dict(kind='reward'))
    config.data = dict(
        path='data/pairs.jsonl',
        batch_size=32,  # pairs
        loader='tfdata',
        build=dict(
            corpus=dict(name='pairs', licence='unknown'),
            held_out=dict(fraction=0.1, by='document'),
            shard_tokens=2**24,
        ),
    )
    # Keeps the mean of the rewards at 0; more of it makes them too small.
    config.objective = dict(name='reward', centre=0.001)
    config.optimizer = dict(
        name='adamw',
        learning_rate=1e-5,
        warmup_steps=20,
        final_learning_rate=0.0,
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        weight_decay=0.0,
        clip_norm=1.0,
        freeze=(),
    )
    config.mesh = dict(data=1, fsdp=1, tensor=1, rules='data')
    config.compute = dict(dtype='float32', remat='none', scan_unroll=1, accumulate=1)
    config.checkpoint = dict(every=500, keep=1)
    config.eval = dict(every=100, rows=0, patience=0)
    config.run = dict(log_every=10)
    return config
