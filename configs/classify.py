r"""Fine-tuning a classifier from a BERT in a workdir, its lower half frozen.

    python -m gptjax.train --config=configs/classify.py:1 \
        --config.data.path=LABELLED.jsonl --config.model.init_from=runs/bert \
        --workdir=runs/classes

The argument is how many of the lower layers are frozen, with the embeddings; 0 trains
everything. A line of the data is {"text": ..., "label": ...}, or {"text", "text_pair",
"label"}; set model.head.classes to the number of labels. The encoder may be one trained
with configs/bert.py or imported by `python -m gptjax.exchange import`.
"""

from ml_collections import ConfigDict

from gptjax import command


def get_config(frozen: str = '6') -> ConfigDict:
    if not frozen.isdecimal():
        raise command.UserError(
            f'the argument of configs/classify.py is {frozen!r}; it is the number of '
            'layers that are frozen.'
        )
    embeddings = ('tokens', 'positions', 'types', 'embedding_norm')
    config = ConfigDict()
    config.seed = 0
    config.epochs = 3.0

    config.model = dict(
        init_from='runs/bert',
        dropout=0.1,
        head=dict(kind='classes', classes=2, pooler=True),
    )
    config.data = dict(
        path='data/labelled.jsonl',
        batch_size=32,
        loader='tfdata',
        T=128,
        build=dict(
            corpus=dict(name='labelled', licence='unknown'),
            held_out=dict(fraction=0.1, by='document'),
            shard_tokens=2**24,
        ),
    )
    config.objective = dict(name='classification')
    config.optimizer = dict(
        name='adamw',
        learning_rate=5e-5,
        warmup_steps=100,
        final_learning_rate=0.0,
        b1=0.9,
        b2=0.999,
        eps=1e-6,
        weight_decay=0.01,
        clip_norm=1.0,
        freeze=(*embeddings, f'blocks[:{frozen}]') if int(frozen) else (),
    )
    config.mesh = dict(data=1, fsdp=1, tensor=1, rules='data')
    config.compute = dict(dtype='float32', remat='none', scan_unroll=1, accumulate=1)
    # The newest checkpoint, and the one that was right most often.
    config.checkpoint = dict(every=500, keep=1, best=True)
    config.eval = dict(every=100, rows=0, patience=0, metric='accuracy', higher=True)
    config.run = dict(log_every=20)
    return config
