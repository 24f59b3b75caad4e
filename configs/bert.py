r"""BERT from scratch, by masked language modelling, in sizes (Devlin et al., 2019).

    python -m gptjax.train --config=configs/bert.py:base \
        --config.data.path=TEXT --workdir=runs/bert_base

TEXT is a file or folder of .txt, .md and .jsonl. base and large have the paper's shape;
one step is 131,072 tokens, and there is no next-sentence task (Liu et al., 2019, found
it of no use). nano is for a laptop:

    python -m gptjax.train --config=configs/bert.py:nano \
        --config.data.path=data/tinyshakespeare/input.txt --workdir=runs/bert_nano
"""

from ml_collections import ConfigDict

from gptjax import command
from gptjax.model import table as model_table

# size: (steps, rows of T tokens in a step, peak learning rate, vocabulary)
SIZES = {
    'nano': (2_000, 16, 1e-3, 2_048),
    'base': (100_000, 256, 1e-4, 30_592),
    'large': (100_000, 256, 5e-5, 30_592),
}


def get_config(size: str = 'base') -> ConfigDict:
    steps, batch_size, learning_rate, V = command.lookup(SIZES, size, 'size of BERT')
    nano = size == 'nano'
    config = ConfigDict()
    config.seed = 0
    config.steps = steps

    config.model = model_table.preset(f'bert-{size}', V=V, dropout=0.0 if nano else 0.1)

    config.data = dict(
        path='data/text',
        batch_size=batch_size,
        loader='tfdata',
        build=dict(
            corpus=dict(name='text', licence='unknown'),
            tokenizer=dict(
                name='sentencepiece', model_type='bpe', vocab_size=V, mask=True
            ),
            held_out=dict(fraction=0.01, by='tail'),
            shard_tokens=2**26,
        ),
    )
    config.objective = dict(name='masked_lm', rate=0.15, masked=0.8, random=0.1)
    config.optimizer = dict(
        name='adamw',
        learning_rate=learning_rate,
        warmup_steps=steps // 20,
        final_learning_rate=0.0,
        b1=0.9,
        b2=0.98,
        eps=1e-6,
        weight_decay=0.01,
        clip_norm=1.0,
        freeze=(),
    )
    config.mesh = dict(data=1, fsdp=1 if nano else -1, tensor=1, rules='fsdp')
    config.compute = dict(
        dtype='float32' if nano else 'bfloat16',
        remat='none' if nano else 'dots',
        scan_unroll=2 if nano else 1,
        accumulate=1,
    )
    config.checkpoint = dict(every=1_000, keep=2)
    config.eval = dict(every=500, rows=512, patience=0)
    config.guard = dict(sigma=6.0)  # a spike of the loss is no update
    config.run = dict(log_every=50)
    return config
