r"""More fine-tuning data out of some: `eda`, `back_translation` or `self_instruct`.

    python -m gptjax.data augment --config=configs/data/augment.py:eda \
        --config.corpus.path=FILE.jsonl --config.method.synonyms=FILE.txt \
        --output=data/more.jsonl
    python -m gptjax.data augment --config=configs/data/augment.py:self_instruct \
        --config.method.tasks=FILE.jsonl --output=data/new.jsonl

The last two ask an OpenAI-compatible endpoint, python -m gptjax.serve among others; its
answers are kept beside the output, so that the same command asks nothing twice.
"""

from ml_collections import ConfigDict

from gptjax import command


def get_config(method: str = 'eda') -> ConfigDict:
    config = ConfigDict()
    config.corpus = dict(name='labelled', path='', licence='unknown')
    config.originals = True
    config.endpoint = dict(
        base_url='http://127.0.0.1:8000/v1',
        model='gptjax',
        key_variable=None,
        temperature=0.7,
        max_tokens=512,
        timeout=120.0,
        retries=5,
        wait=1.0,
        at_once=4,
    )
    methods = {
        'eda': dict(
            seed=0,
            copies=4,
            rate=0.1,
            operations=('synonyms', 'insertion', 'swap', 'deletion'),
            synonyms='',
        ),
        'back_translation': dict(seed=0, language='English', through=('French',)),
        'self_instruct': dict(
            seed=0,
            tasks='',
            licence='unknown',
            count=1_000,
            rounds=500,
            novelty=0.7,
        ),
    }
    config.method = dict(name=method, **command.lookup(methods, method, 'method'))
    if method == 'eda':
        config.endpoint = None
    if method == 'self_instruct':
        config.corpus, config.originals = None, False
    return config
