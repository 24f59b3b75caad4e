r"""Questions and answers of CPython's docstrings: conversations, or preference pairs.

    python -m gptjax.data --config=configs/data/python_qa.py \
        --output=runs/demo/chat
    python -m gptjax.data --config=configs/data/python_qa.py:pairs \
        --output=runs/demo/pairs

Expected: 4,230 of either kind (CPython 3.11), about the same objects, and 231 of them
held out: whole modules, the same as in python_docs while the fractions are the same.
They take the tokenizer that the model was pretrained with: build python_docs first.
"""

from ml_collections import ConfigDict


def get_config(kind: str = 'chat') -> ConfigDict:
    config = ConfigDict()
    config.corpus = dict(name='python_qa', kind=kind)
    config.tokenizer = dict(name='folder', path='runs/demo/docs')
    config.held_out = dict(fraction=0.05, by='document')
    config.shard_tokens = 2**20
    return config
