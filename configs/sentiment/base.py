r"""Ziegler et al.'s sentiment task at the size of a laptop: a small GPT on books.

    python -m experiments.benchmarks._sentiment --output=runs/sentiment
    python -m gptjax.train --config=configs/sentiment/base.py \
        --workdir=runs/sentiment/base

Then configs/sentiment/classifier.py learns from reviews of films what sounds pleased,
and configs/sentiment/ppo.py or grpo.py continue books in that tone. Paragraphs of 20
novels of Standard Ebooks, 12.7 MB.
"""

from ml_collections import ConfigDict

from gptjax.model import table as model_table


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 4_000

    config.model = model_table.preset(
        'gpt2-micro', T=64, V=2_048, L=4, D=128, init_std=0.06
    )
    config.data = dict(
        path='runs/sentiment/books.jsonl',
        batch_size=32,
        loader='tfdata',
        build=dict(
            corpus=dict(name='text', licence='LicenseRef-Public-Domain AND CC0-1.0'),
            tokenizer=dict(name='sentencepiece', model_type='bpe', vocab_size=2_048),
            held_out=dict(fraction=0.02, by='document'),
            shard_tokens=2**22,
        ),
    )
    config.optimizer = dict(
        name='adamw',
        learning_rate=3e-3,
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
    config.compute = dict(dtype='float32', remat='none', scan_unroll=4, accumulate=1)
    config.checkpoint = dict(every=500, keep=1)
    config.eval = dict(every=500, rows=256, patience=0)
    config.run = dict(log_every=50)
    return config
