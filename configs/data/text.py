r"""Your own text: a file or a folder of .txt, .md and .jsonl.

    python -m gptjax.data --config=configs/data/text.py \
        --config.corpus.path=DIR --config.corpus.licence=CC-BY-4.0 --output=data/mine

For less than about 1 MB of text, take a smaller --config.tokenizer.vocab_size; for one
long text, hold out its end with --config.held_out.by=tail.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.corpus = dict(name='text', path='', licence='unknown')
    config.tokenizer = dict(name='sentencepiece', model_type='bpe', vocab_size=8192)
    config.held_out = dict(fraction=0.01, by='document')
    config.shard_tokens = 2**26
    return config
