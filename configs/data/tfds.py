r"""Simple English Wikipedia, as an example of any text field of a TensorFlow Dataset.

    tfds build wikipedia/20230601.simple --data_dir=data/tfds
    python -m gptjax.data --config=configs/data/tfds.py --output=data/simple_wikipedia

The first command downloads; the second works offline. For another data set give
`--config.corpus.name=tfds:NAME/field`, its split and its licence.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.corpus = dict(
        name='tfds:wikipedia/20230601.simple/text',
        path='data/tfds',
        split='train',
        licence='CC-BY-SA-3.0',
    )
    config.tokenizer = dict(name='sentencepiece', model_type='bpe', vocab_size=16384)
    config.held_out = dict(fraction=0.01, by='document')
    config.shard_tokens = 2**26
    return config
