r"""The language reference and the docstrings of the running CPython (PSF-2.0).

    python -m gptjax.data --config=configs/data/python_docs.py --output=runs/demo/docs

Expected: 528 documents of 2.7 MB, 30 of them held out (CPython 3.11); a few more or
less with other releases.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.corpus = dict(name='python_docs')
    config.tokenizer = dict(name='sentencepiece', model_type='bpe', vocab_size=512)
    config.held_out = dict(fraction=0.05, by='document')
    config.shard_tokens = 2**20
    return config
