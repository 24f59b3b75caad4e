r"""Articles of a wiki: a dump of MediaWiki (pages-articles.xml.bz2) to plain text.

    python -m gptjax.data --config=configs/data/wiki.py --config.path=DUMP.xml.bz2 \
        --output=data/wiki

The text of Wikipedia is under CC-BY-SA-4.0; others: --config.read.licence.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.path = ''
    config.read = dict(
        name='files', licence='CC-BY-SA-4.0', kind='text', books='whole', verify=True
    )
    config.steps = (
        dict(name='normalise', ftfy=True, form='NFC', spaces=True),
        dict(name='length', least=200, most=None),
        dict(name='language', keep=None, least=0.3, characters=5000),
        dict(name='signals', sets=('gopher', 'gopher_repetition')),
        dict(name='exact', unit='document', normalise='words', keep='id'),
        dict(
            name='minhash', ngram=5, permutations=112, bands=14, rows=8, seed=1,
            jaccard=0.8,
        ),
    )  # fmt: skip
    config.licences = (
        'CC0-1.0', 'LicenseRef-Public-Domain', 'PDDL-1.0', 'Unlicense', 'CC-BY-3.0',
        'CC-BY-4.0', 'CC-BY-SA-3.0', 'CC-BY-SA-4.0', 'GFDL-1.3-or-later', 'MIT',
        'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause', 'PSF-2.0',
    )  # fmt: skip
    config.run = dict(workers=2, shards=16, most_bad=0.05)
    config.tokenizer = dict(name='sentencepiece', model_type='bpe', vocab_size=16384)
    config.held_out = dict(fraction=0.01, by='document')
    config.shard_tokens = 2**26
    return config
