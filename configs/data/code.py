r"""Source code: trees of files, or archives of them, under their LICENSE files.

    python -m gptjax.data --config=configs/data/code.py --config.path=FOLDER \
        --output=data/code

A file takes the licence of the nearest LICENSE file above it; vendored and generated
folders are not read. Exact copies and near ones of 0.85 go; secrets are replaced.

Expected, of the book of Rust (Markdown, Apache-2.0 AND MIT): all 112 files of 1.2 MB.
"""

from ml_collections import ConfigDict

from configs.data import web


def get_config() -> ConfigDict:
    config = web.get_config()
    config.read.kind = 'code'
    config.read.books = 'whole'
    config.steps = (
        dict(name='licence'),
        dict(name='normalise', ftfy=False, form=None, spaces=False),
        dict(name='length', least=100, most=1_000_000),
        dict(name='exact', unit='document', normalise='none', keep='id'),
        dict(**web.NEAR, jaccard=0.85),
        dict(name='privacy', kinds=('email', 'key'), action='replace', most=None),
    )
    return config
