r"""Conversations for fine-tuning: .jsonl, .json or .parquet in the common layouts.

    python -m gptjax.data --config=configs/data/chat.py --config.path=FOLDER \
        --config.read.licence=CC-BY-SA-3.0 --output=data/chat

--config.read.kind=pairs reads preference pairs. Take the tokenizer that the model was
pretrained with: --config.tokenizer.path=data/web.

Expected, of 175 seed tasks of self-instruct and 1,000 answers of Dolly and HH: 1,173.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.path = ''
    config.read = dict(
        name='files', licence='unknown', kind='chat', books='whole', verify=True
    )
    config.steps = (
        dict(name='normalise', ftfy=True, form='NFC', spaces=False),
        dict(name='length', least=20, most=50_000),
        dict(name='language', keep=None, least=0.3, characters=2000),
        dict(name='exact', unit='document', normalise='words', keep='id'),
        dict(
            name='minhash', ngram=5, permutations=112, bands=14, rows=8, seed=1,
            jaccard=0.8,
        ),
        dict(
            name='privacy', most=20, action='replace', kinds=(
                'email', 'phone', 'ip', 'card', 'iban', 'ssn', 'national', 'key',
            ),
        ),
    )  # fmt: skip
    config.licences = (
        'CC0-1.0', 'LicenseRef-Public-Domain', 'PDDL-1.0', 'Unlicense', 'CC-BY-3.0',
        'CC-BY-4.0', 'CC-BY-SA-3.0', 'CC-BY-SA-4.0', 'GFDL-1.3-or-later', 'MIT',
        'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause', 'PSF-2.0',
    )  # fmt: skip
    config.run = dict(workers=2, shards=16, most_bad=0.05)
    config.tokenizer = dict(name='folder', path='')
    config.held_out = dict(fraction=0.01, by='document')
    config.shard_tokens = 2**26
    return config
