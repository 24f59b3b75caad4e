r"""The demo's pretraining: a small GPT on the documentation inside every CPython.

python -m gptjax.data --config=configs/data/python_docs.py --output=runs/demo/docs
python -m gptjax.train --config=configs/demo/pretrain.py --workdir=runs/demo/pretrain
"""

from ml_collections import ConfigDict

from gptjax.model import config as model_config


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 800

    config.model = model_config.preset('gpt2-micro', V=2048)

    config.data = dict(path='runs/demo/docs', batch_size=16, loader='tfdata')
    config.optimizer = dict(
        name='adamw',
        learning_rate=3e-3,
        warmup_steps=50,
        final_learning_rate=1e-4,
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        weight_decay=0.1,
        clip_norm=1.0,
    )
    config.objective = dict(name='next_token')
    config.mesh = dict(data=1, fsdp=1, tensor=1, rules='data')
    config.compute = dict(dtype='float32', remat='none', scan_unroll=4, accumulate=1)
    config.checkpoint = dict(every=400, keep=1)
    config.eval = dict(every=100, rows=128, patience=0)
    config.run = dict(log_every=10)
    return config
