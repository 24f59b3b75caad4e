r"""GPT-2 from scratch, in its four published sizes (Radford et al., 2019).

    python -m gptjax.train --config=configs/gpt2.py:small \
        --config.data.path=DATASET --workdir=runs/gpt2_small

One step is 524,288 tokens; 19,073 steps are 10B, what Karpathy's llm.c takes to reach a
validation loss of 3.28 on FineWeb with the small size. Not yet measured here.
"""

from ml_collections import ConfigDict

from gptjax import command
from gptjax.model import table as model_table

# size: (peak learning rate, microbatches); rates of Brown et al. (2020), table 2.1.
SIZES = {
    'small': (6e-4, 1),
    'medium': (3e-4, 2),
    'large': (2.5e-4, 4),
    'xl': (2e-4, 8),
}


def get_config(size: str = 'small') -> ConfigDict:
    learning_rate, accumulate = command.lookup(SIZES, size, 'size of GPT-2')
    config = ConfigDict()
    config.seed = 0
    config.steps = 19_073

    # The vocabulary is padded from 50,257 to a multiple of 128.
    config.model = model_table.preset(f'gpt2-{size}', V=50_304)

    config.data = dict(
        path='data/fineweb',
        batch_size=512,
        batch_ramp=(),  # ((1_000, 1_024),) doubles it after a thousand steps
        loader='tfdata',
    )
    config.optimizer = dict(
        name='adamw',
        learning_rate=learning_rate,
        warmup_steps=700,
        final_learning_rate=learning_rate / 10,
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        weight_decay=0.1,
        clip_norm=1.0,
        schedule='cosine',
        decay=None,  # all but biases and norm scales
        mu_dtype='float32',
        nu_dtype='float32',
        ema=0.0,
        freeze=(),
    )
    config.objective = dict(name='next_token')
    config.mesh = dict(
        slice=1,
        data=1,
        fsdp=-1,
        tensor=1,
        context=1,
        expert=1,
        stage=1,
        rules='fsdp',  # forms joined by _, such as fsdp_tensor_context
    )
    config.compute = dict(
        dtype='bfloat16',
        remat='dots',
        scan_unroll=0,  # unrolled on one GPU where it pays, else scanned
        accumulate=accumulate,
        attention='auto',
        products='plain',
        loss_rows=0,
        pipeline_microbatches=0,
        pipeline_rounds=1,
    )
    # A Spot VM may be gone after ten seconds; a thousand steps are not lost for that.
    config.checkpoint = dict(every=1_000, keep=3, keep_every=5_000, failures=3)
    config.eval = dict(every=250, rows=2_048, patience=0)
    config.guard = dict(sigma=6.0, window=128, patience=5, rollbacks=3, replicas=100)
    # On Google's cloud, maintenance='gce' listens to its notices as well.
    config.run = dict(log_every=10, watchdog=20.0, maintenance=None)
    return config
