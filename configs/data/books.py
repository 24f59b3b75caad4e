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


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.path = ''
    config.read = dict(
        name='files', licence='unknown', kind='text', books='chapter', verify=True
    )
    config.steps = (
        dict(name='licence'),
        dict(name='extract', by='trafilatura'),
        dict(name='normalise', ftfy=True, form='NFC', spaces=True),
        dict(name='boilerplate', gutenberg=True, edges=0, repeated=None),
        dict(name='length', least=500, most=None),
        dict(name='language', keep=('en',), least=0.5, characters=5000),
        dict(name='signals', sets=('gopher', 'gopher_repetition')),
        dict(name='exact', unit='document', normalise='words', keep='id'),
        dict(
            name='minhash', ngram=5, permutations=112, bands=14, rows=8, seed=1,
            jaccard=0.7,
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
