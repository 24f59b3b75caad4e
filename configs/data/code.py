r"""Source code: trees of files, or archives of them, under their LICENSE files.

    python -m gptjax.data --config=configs/data/code.py --config.path=FOLDER \
        --output=data/code

A file takes the licence of the nearest LICENSE file above it; vendored and generated
folders are not read. Exact copies and near ones of 0.85 go; secrets are replaced.

Expected, of the book of Rust (Markdown, Apache-2.0 AND MIT): all 112 files of 1.2 MB.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.path = ''
    config.read = dict(
        name='files', licence='unknown', kind='code', books='whole', verify=True
    )
    config.steps = (
        dict(name='licence'),
        dict(name='normalise', ftfy=False, form=None, spaces=False),
        dict(name='length', least=100, most=1_000_000),
        dict(name='exact', unit='document', normalise='none', keep='id'),
        dict(
            name='minhash', ngram=5, permutations=112, bands=14, rows=8, seed=1,
            jaccard=0.85,
        ),
        dict(name='privacy', kinds=('email', 'key'), action='replace', most=None),
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
