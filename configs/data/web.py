r"""The web: WARC, ARC, WET or HTML files to clean text with a licence, once each.

    python -m gptjax.data --config=configs/data/web.py --config.path=FOLDER \
        --output=data/web

Pages that name no licence are left out: most of the web. Where you have the right to
use all of it, say so by --config.read.licence=CC-BY-4.0, or what it is.
The filters and their order are those of FineWeb (Penedo et al., 2024). An argument
names evaluation sets, --config=configs/data/web.py:FOLDER: pages that hold a piece of
them are left out.

Expected, of the test files of WARC readers: of 73 pages 69 have text, 13 are English, 3
are long enough, and one is an article. It names no licence: without read.licence the
command ends with code 2, for no document is left. It ends so before, with everything
written, because 5 of 78 pieces are broken, and run.most_bad allows 0.05; the same
command with --config.run.most_bad=0.1 goes on from there.
"""

from ml_collections import ConfigDict

NEAR = dict(name='minhash', ngram=5, permutations=112, bands=14, rows=8, seed=1)
PRIVACY = dict(
    name='privacy',
    kinds=('email', 'phone', 'ip', 'card', 'iban', 'ssn', 'national', 'key'),
    action='replace',
    most=20,
)


def get_config(evaluation: str = '') -> ConfigDict:
    find = ('query', 'answer', 'overlap')
    config = ConfigDict()
    config.path = ''
    config.read = dict(
        name='files', licence='unknown', kind='text', books='chapter', verify=True
    )
    config.steps = (
        dict(name='licence'),
        dict(name='opt_out', unknown='keep'),
        dict(name='extract', by='trafilatura'),
        dict(name='normalise', ftfy=True, form='NFC', spaces=True),
        dict(name='boilerplate', gutenberg=False, edges=5, repeated=3),
        dict(name='language', keep=('en',), least=0.65, characters=2000),
        dict(name='gopher_repetition', variant='datatrove'),
        dict(name='gopher', variant='datatrove'),
        dict(name='c4_paper', variant='fineweb'),
        dict(name='fineweb'),
        *(
            [dict(name='decontaminate', path=evaluation, find=find, ngram=13,
                  shortest=4)]
            if evaluation else []
        ),
        dict(name='exact', unit='document', normalise='words', keep='id'),
        dict(**NEAR, jaccard=0.7),
        PRIVACY,
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
