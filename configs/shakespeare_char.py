r"""Tiny Shakespeare by characters, at nanoGPT's published CPU setting.

    python -m gptjax.train --config=configs/shakespeare_char.py \
        --config.data.path=PATH/input.txt --workdir=runs/shakespeare_char

4 layers, 4 heads, width 128, context 64, batch 12, 2,000 steps, no dropout; the last
tenth of the text is held out. nanoGPT publishes a validation loss of 1.88 for it.
Expected: 1.76 in two minutes on two cores (make benchmark AREA=shakespeare). Another
decoder at this width and depth: configs/shakespeare_char.py:modern-nano.
"""

from ml_collections import ConfigDict

from gptjax.model import table as model_table


def get_config(preset: str = 'gpt2-micro') -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 2_000

    # V: 65 characters, 256 bytes for all others, and the control tokens.
    config.model = model_table.preset(preset, T=64, V=384, L=4, D=128)

    config.data = dict(
        path='data/tinyshakespeare/input.txt',
        batch_size=12,
        loader='tfdata',
        build=dict(
            corpus=dict(name='text', licence='public domain'),
            tokenizer=dict(name='sentencepiece', model_type='char', vocab_size=384),
            held_out=dict(fraction=0.1, by='tail'),
            shard_tokens=10_000_000,
        ),
    )
    config.optimizer = dict(
        name='adamw',
        learning_rate=4e-3,
        warmup_steps=100,
        final_learning_rate=1e-4,
        b1=0.9,
        b2=0.99,
        eps=1e-8,
        weight_decay=0.1,
        clip_norm=1.0,
        freeze=(),
    )
    config.objective = dict(name='next_token')
    config.mesh = dict(data=1, fsdp=1, tensor=1, rules='data')
    config.compute = dict(dtype='float32', remat='none', scan_unroll=0, accumulate=1)
    config.checkpoint = dict(every=500, keep=2)
    config.eval = dict(every=500, rows=0, patience=0)
    config.guard = dict(sigma=6.0)  # a spike of the loss is no update
    config.run = dict(log_every=50)
    return config
