r"""Conversations for fine-tuning: .jsonl, .json or .parquet in the common layouts.

    python -m gptjax.data --config=configs/data/chat.py --config.path=FOLDER \
        --config.read.licence=CC-BY-SA-3.0 --output=data/chat

--config.read.kind=pairs reads preference pairs. Take the tokenizer that the model was
pretrained with: --config.tokenizer.path=data/web.

Expected, of 175 seed tasks of self-instruct and 1,000 answers of Dolly and HH: 1,173.
"""

from ml_collections import ConfigDict

from configs.data import web


def get_config() -> ConfigDict:
    config = web.get_config()
    config.read.kind = 'chat'
    config.read.books = 'whole'
    config.steps = (
        dict(name='normalise', ftfy=True, form='NFC', spaces=False),
        dict(name='length', least=20, most=50_000),
        dict(name='language', keep=None, least=0.3, characters=2000),
        dict(name='exact', unit='document', normalise='words', keep='id'),
        dict(**web.NEAR, jaccard=0.8),
        web.PRIVACY,
    )
    config.tokenizer = dict(name='folder', path='')
    return config
