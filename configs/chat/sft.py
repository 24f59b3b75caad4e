r"""`make chat`, stage 1: the demo's fine-tuning, with a fifth of pretraining replayed.

    python -m gptjax.train --config=configs/chat/sft.py --workdir=runs/chat/sft

The rows of documentation among the conversations keep what was known: every evaluation
tells the held-out loss on each source (`eval_loss_docs`), and how far it is above that
of the first step (`forgetting_docs`).

Expected: 0.05 nats a token of the documentation are forgotten, 0.44 without the replay;
the held-out answers are learned alike, to 2.15.
"""

from ml_collections import ConfigDict

from configs.demo import sft


def get_config() -> ConfigDict:
    config = sft.get_config()
    del config.epochs
    config.steps = 400

    config.data = dict(
        mixture=(
            dict(path='runs/demo/chat', weights=((0, 0.8),)),
            dict(path='runs/demo/docs', weights=((0, 0.2),)),
        ),
        licences=('PSF-2.0',),
        batch_size=8,
        loader='tfdata',
    )
    config.eval.rows = 0
    config.run.log_every = 10
    return config
