r"""A curriculum: documentation first, then conversations about it among the rest.

python -m gptjax.data --config=configs/data/python_docs.py --output=runs/demo/docs
python -m gptjax.data --config=configs/data/python_qa.py --output=runs/demo/chat
python -m gptjax.train --config=configs/mixture.py --workdir=runs/mixture

Each source has weights by step. The stream is a pure function of datasets, seed and
step: a source or a phase that is added later (--allow_config_change) changes nothing
before it. The demo's pretraining with a fifth of conversations in the last quarter.
Expected: four minutes on two cores.
"""

from ml_collections import ConfigDict

from configs.demo import pretrain


def get_config() -> ConfigDict:
    config = pretrain.get_config()
    config.data = dict(
        mixture=(
            dict(path='runs/demo/docs', weights=((0, 1.0), (3_000, 0.8))),
            dict(path='runs/demo/chat', weights=((0, 0.0), (3_000, 0.2))),
        ),
        licences=('PSF-2.0',),
        batch_size=4,
        loader='tfdata',
        packing='best_fit',
    )
    return config
