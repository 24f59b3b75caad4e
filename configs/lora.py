r"""Fine-tuning of a workdir on conversations by adapters: LoRA, or QLoRA.

    python -m gptjax.train --config=configs/lora.py \
        --config.model.init_from=runs/base --config.data.path=CHAT.jsonl \
        --workdir=runs/adapter

With --config=configs/lora.py:nf4 the base is held in 4 bits, with :int8 in 8. A line of
the data is {"messages": [{"role": ..., "content": ...}, ...]}. `python -m gptjax.train
show` tells what is trained, and the bytes of base, adapters and optimizer. The workdir
holds adapters alone: keep that of the base as it is. The base is read in float32 and
then put into few bits, so that the start needs room for both.

The learning rate is that of Hu et al. (2022, table 11) for GPT-2; all products of a
layer are adapted, as by Dettmers et al. (2023, section 4).
"""

from ml_collections import ConfigDict

from gptjax import command
from gptjax.model import quantise


def get_config(base: str = 'float32') -> ConfigDict:
    kinds = dict.fromkeys(('float32', *quantise.KINDS))
    command.lookup(kinds, base, 'kind of weights for a base')
    config = ConfigDict()
    config.seed = 0
    config.epochs = 2.0

    config.model = dict(init_from='runs/base', dropout=0.0)
    config.adapter = dict(
        R=16,
        alpha=32.0,
        rank_stabilised=False,
        targets=('blocks/attention', 'blocks/mlp'),
        train=(),
        base=base,
    )
    config.data = dict(
        path='data/chat.jsonl',
        batch_size=16,
        loader='tfdata',
        packing=None,
        build=dict(
            corpus=dict(name='chat', licence='unknown'),
            held_out=dict(fraction=0.05, by='document'),
            shard_tokens=2**24,
        ),
    )
    config.objective = dict(name='next_token')
    config.optimizer = dict(
        name='adamw',
        learning_rate=2e-4,
        warmup_steps=50,
        final_learning_rate=0.0,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=0.0,
        clip_norm=1.0,
        freeze=(),
    )
    config.mesh = dict(data=1, fsdp=1, tensor=1, rules='data')
    config.compute = dict(dtype='float32', remat='none', scan_unroll=1, accumulate=1)
    config.checkpoint = dict(every=200, keep=1)
    config.eval = dict(every=100, rows=0, patience=0)
    config.run = dict(log_every=10)
    return config
