r"""The demo's fine-tuning: one-sentence answers to questions about CPython's library.

    python -m gptjax.data --config=configs/data/python_qa.py --output=runs/demo/chat
    python -m gptjax.train --config=configs/demo/sft.py --workdir=runs/demo/sft

Loss falls on the assistant's tokens alone; documents are packed and do not see each
other. For your own conversations set data.path to a file of {"messages": [...]} lines.

Expected: the loss on held-out answers falls from 3.81 to 2.15 nats a token, and 97 of
100 answers stop by themselves; 40 s on two cores.
"""

from ml_collections import ConfigDict

from configs.demo import pretrain


def get_config() -> ConfigDict:
    config = pretrain.get_config()
    del config.steps
    config.epochs = 2.5

    config.model = dict(init_from='runs/demo/pretrain', dropout=0.0)
    config.data = dict(
        path='runs/demo/chat',
        batch_size=8,
        loader='tfdata',
        build=dict(
            corpus=dict(name='chat', licence='unknown'),
            tokenizer=dict(name='folder', path='runs/demo/pretrain'),
            held_out=dict(fraction=0.05, by='document'),
            shard_tokens=2**20,
        ),
    )
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 20
    config.optimizer.final_learning_rate = 1e-5
    config.eval.every = 100
    return config
