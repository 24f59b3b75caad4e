r"""Books: EPUB, XHTML, plain text (Project Gutenberg's too), Markdown, PDF, archives.

    python -m gptjax.data --config=configs/data/books.py --config.path=FOLDER \
        --output=data/books

A book without a licence of its own takes that of the nearest LICENSE file, or is left
out; --config.read.licence=CC0-1.0 says what all of the folder has.

Expected, of 20 books of Standard Ebooks (1,406 files, 24.9 MB of text): 1,218 documents
of 24.0 MB, 5.4 M tokens. 98 are short (title pages), 36 repeat others (imprints); the
licence of 53, one book, is not recognised. Of the 552 PEPs of Python, 525 stay.
"""

from ml_collections import ConfigDict

from configs.data import web


def get_config() -> ConfigDict:
    config = web.get_config()
    config.steps = (
        dict(name='licence'),
        dict(name='extract', by='trafilatura'),
        dict(name='normalise', ftfy=True, form='NFC', spaces=True),
        dict(name='boilerplate', gutenberg=True, edges=0, repeated=None),
        dict(name='length', least=500, most=None),
        dict(name='language', keep=('en',), least=0.5, characters=5000),
        dict(name='signals', sets=('gopher', 'gopher_repetition')),
        dict(name='exact', unit='document', normalise='words', keep='id'),
        dict(**web.NEAR, jaccard=0.7),
    )
    return config
