r"""An encoder-decoder for translation or summaries, in sizes (Vaswani et al., 2017).

    python -m gptjax.train --config=configs/translate.py:opus \
        --config.data.path=PAIRS.jsonl --workdir=runs/translate

A line of the data is {"source": ..., "target": ...}. opus and big have the shapes of
the paper's base and big, as Marian has them, so that their weights can leave; nano is
for a laptop.
"""

from ml_collections import ConfigDict

from gptjax import command
from gptjax.model import table as model_table

# size: (steps, rows of T source and T target tokens, peak learning rate, vocabulary)
SIZES = {
    'nano': (2_000, 16, 1e-3, 2_048),
    'opus': (100_000, 256, 7e-4, 37_120),
    'big': (300_000, 256, 5e-4, 37_120),
}


def get_config(size: str = 'opus') -> ConfigDict:
    known = 'size of the Transformer'
    steps, batch_size, learning_rate, V = command.lookup(SIZES, size, known)
    nano = size == 'nano'
    config = ConfigDict()
    config.seed = 0
    config.steps = steps

    config.model = model_table.preset(
        f'marian-{size}', T=128, V=V, dropout=0.3 if size == 'big' else 0.1
    )

    config.data = dict(
        path='data/pairs.jsonl',
        batch_size=batch_size,
        loader='tfdata',
        build=dict(
            corpus=dict(name='translation', licence='unknown'),
            tokenizer=dict(name='sentencepiece', model_type='bpe', vocab_size=V),
            held_out=dict(fraction=0.05, by='document'),
            shard_tokens=2**24,
        ),
    )
    config.objective = dict(name='seq2seq', label_smoothing=0.1)
    config.optimizer = dict(
        name='adamw',
        learning_rate=learning_rate,
        warmup_steps=steps // 25,
        final_learning_rate=0.0,
        b1=0.9,
        b2=0.98,
        eps=1e-9,
        weight_decay=0.0,
        clip_norm=1.0,
        freeze=(),
    )
    config.mesh = dict(data=1, fsdp=1 if nano else -1, tensor=1, rules='fsdp')
    config.compute = dict(
        dtype='float32' if nano else 'bfloat16',
        remat='none',
        scan_unroll=1,
        accumulate=1,
    )
    config.checkpoint = dict(every=1_000, keep=2)
    config.eval = dict(every=500, rows=512, patience=0)
    config.run = dict(log_every=50)
    return config
