r"""Which reviews of films are pleased: the reward of configs/sentiment/ppo.py, grpo.py.

    python -m gptjax.train --config=configs/sentiment/classifier.py \
        --workdir=runs/sentiment/classifier

The base with a head of two classes, on two sentences of a review at a time.

Expected: 60 % of held-out pieces right (naive Bayes over their words: 68 %). They are
short, and carry the label of their whole review.
"""

from ml_collections import ConfigDict

from configs.sentiment import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.steps = 1_000

    config.model = dict(
        init_from='runs/sentiment/base',
        dropout=0.2,
        head=dict(kind='classes', classes=2),
    )
    config.data.path = 'runs/sentiment/reviews.jsonl'
    config.data.build = dict(
        corpus=dict(name='labelled', licence='CC-BY-4.0'),
        held_out=dict(fraction=0.1, by='document'),
        shard_tokens=2**22,
    )
    config.objective = dict(name='classification')
    config.optimizer.learning_rate = 1e-3
    config.optimizer.final_learning_rate = 0.0
    config.eval = dict(every=100, rows=0, patience=4)
    config.checkpoint.every = 100
    return config
