r"""Preference optimisation of a model in a workdir, by any of the losses.

    python -m gptjax.train --config=configs/preference.py:simpo \
        --config.data.path=PAIRS.jsonl --config.model.init_from=runs/sft \
        --workdir=runs/simpo

The argument is a loss of gptjax/objectives/preferences.py, with the options that its
paper or TRL begins with; sigmoid is DPO. A line of the data is {"prompt", "chosen",
"rejected"}. For kto it may be {"prompt", "completion", "label"} with a label of true or
false: set data.build.corpus.name=feedback. The reference is the model at the start,
whose log-probabilities are computed once, before the first step.
"""

from ml_collections import ConfigDict

from gptjax import command

OF_PAIRS = (
    'sigmoid', 'hinge', 'ipo_sum', 'ipo_norm', 'nca', 'bco', 'sppo', 'apo_zero',
    'apo_down', 'orpo',
)  # fmt: skip
LOSSES = {
    **{key: dict(beta=0.1) for key in OF_PAIRS},
    'cdpo': dict(beta=0.1, label_smoothing=0.1),
    'robust': dict(beta=0.1, label_smoothing=0.1),
    'exo': dict(beta=0.1, label_smoothing=0.001),
    'aot': dict(beta=0.1, label_smoothing=0.0),
    'discopop': dict(beta=0.05, tau=0.05),
    'simpo': dict(beta=2.0, gamma=1.0),
    'kto': dict(beta=0.1, desirable=1.0, undesirable=1.0),
}


def get_config(loss: str = 'sigmoid') -> ConfigDict:
    options = command.lookup(LOSSES, loss, 'loss')
    config = ConfigDict()
    config.seed = 0
    config.epochs = 1.0

    config.model = dict(init_from='runs/sft', dropout=0.0)
    config.data = dict(
        path='data/pairs.jsonl',
        batch_size=32,
        loader='tfdata',
        build=dict(
            corpus=dict(name='pairs', licence='unknown'),
            held_out=dict(fraction=0.05, by='document'),
            shard_tokens=2**24,
        ),
    )
    config.objective = dict(
        name='kto' if loss == 'kto' else 'preference',
        loss=dict(name=loss, **options),
        reference='none' if loss in ('orpo', 'simpo') else 'stored',
    )
    config.optimizer = dict(
        name='adamw',
        learning_rate=8e-6 if loss == 'orpo' else 1e-6,
        warmup_steps=20,
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
    config.eval = dict(every=100, rows=512, patience=0)
    config.run = dict(log_every=10)
    return config
