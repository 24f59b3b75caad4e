r"""Articles of a wiki: a dump of MediaWiki (pages-articles.xml.bz2) to plain text.

    python -m gptjax.data --config=configs/data/wiki.py --config.path=DUMP.xml.bz2 \
        --output=data/wiki

The text of Wikipedia is under CC-BY-SA-4.0; others: --config.read.licence.
"""

from ml_collections import ConfigDict

from configs.data import web


def get_config() -> ConfigDict:
    config = web.get_config()
    config.read.licence = 'CC-BY-SA-4.0'
    config.read.books = 'whole'
    config.steps = (
        dict(name='normalise', ftfy=True, form='NFC', spaces=True),
        dict(name='length', least=200, most=None),
        dict(name='language', keep=None, least=0.3, characters=5000),
        dict(name='signals', sets=('gopher', 'gopher_repetition')),
        dict(name='exact', unit='document', normalise='words', keep='id'),
        dict(**web.NEAR, jaccard=0.8),
    )
    return config
