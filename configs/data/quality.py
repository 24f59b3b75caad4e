r"""A quality classifier of your own labels: lines {"text": ..., "label": 0 or 1}.

    python -m gptjax.data quality --config=configs/data/quality.py \
        --config.path=LABELS.jsonl --output=quality.npz

Prints AUC, accuracy, precision and recall of held-out labels beside the majority class.
The step dict(name='quality', path='quality.npz', least=0.5) of a pipeline judges by it.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.path = ''
    config.bits = 18  # 2**18 weights
    config.l2 = 1e-3
    config.iterations = 100
    config.folds = 5
    return config
