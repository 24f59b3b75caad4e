"""A config that trains in seconds: two layers on the bytes of a text file."""

from ml_collections import ConfigDict

from gptjax.model import table as model_table


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 12
    config.model = model_table.preset(
        'gpt2-micro', T=32, V=264, D=32, F=64, N=4, H=8, L=2
    )
    config.data = dict(
        path='',
        batch_size=8,
        loader='threads',
        build=dict(
            corpus=dict(name='text', licence='CC0-1.0'),
            tokenizer=dict(name='bytes'),
            held_out=dict(fraction=0.1, by='tail'),
            shard_tokens=4096,
        ),
    )
    config.optimizer = dict(
        name='adamw',
        learning_rate=3e-3,
        warmup_steps=4,
        final_learning_rate=3e-4,
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        weight_decay=0.1,
        clip_norm=1.0,
        freeze=(),
    )
    config.objective = dict(name='next_token')
    config.mesh = dict(data=1, fsdp=1, tensor=1, rules='data')
    config.compute = dict(dtype='float32', remat='none', scan_unroll=2, accumulate=1)
    config.checkpoint = dict(every=4, keep=2)
    config.eval = dict(every=6, rows=0, patience=0)
    config.run = dict(log_every=1)
    return config


def text() -> str:
    """Some hundred lines with something to learn in them."""
    words = ('one', 'two', 'three', 'four', 'five', 'six', 'seven')
    lines = (
        f'{n}: {words[n % 7]} and {words[n * n % 7]} are {words[(n + n * n) % 7]}.'
        for n in range(400)
    )
    return '\n'.join(lines)
