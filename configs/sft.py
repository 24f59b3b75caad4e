r"""Fine-tuning on your conversations, with a share of what the model was pretrained on.

    python -m gptjax.data --config=configs/data/chat.py --config.path=FOLDER \
        --config.read.licence=LICENCE --config.tokenizer.path=BASE --output=data/chat
    python -m gptjax.train --config=configs/sft.py:0.1 \
        --config.model.init_from=BASE --config.data.licences="('LICENCE', ...)" \
        --workdir=runs/sft

BASE is the workdir of a pretrained model, data/text a dataset of its tokenizer: text
as it was pretrained on. configs/sft.py:0.1 replays that in a tenth of the rows; at 0 it
is evaluated alone. Forgetting is measured either way: a record of step 0 has the
held-out loss of both before training, and `forgetting_text` in metrics.jsonl is how
many nats a token the text has lost since. Rows of a text are full of targets, those of
conversations have the answers alone: by targets the share is larger than by rows.

Answers count by the `weight` of their message. Conversations longer than T are cut and
counted; --config.data.longer=drop leaves them out.

Expected, of the demo's model on the demo's conversations at learning rate 1e-3, 200
steps: with nothing replayed the loss of answers falls from 3.77 to 2.17 and text loses
0.38 nats a token; with a quarter replayed, 2.20 and 0.06.
"""

from ml_collections import ConfigDict

from configs.demo import sft


def get_config(replayed: str = '0.1') -> ConfigDict:
    share = float(replayed)
    config = sft.get_config()
    del config.epochs
    config.steps = 1_000

    config.model = dict(init_from='runs/pretrain', dropout=0.0)
    config.data = dict(
        mixture=(
            dict(path='data/chat', weights=((0, 1 - share),)),
            dict(path='data/text', weights=((0, share),)),
        ),
        licences=('CC0-1.0', 'MIT', 'Apache-2.0', 'CC-BY-SA-3.0'),
        batch_size=8,
        loader='tfdata',
        longer='cut',
    )
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 20
    config.optimizer.final_learning_rate = 1e-6
    return config
