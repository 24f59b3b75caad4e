"""RoBERTa (Liu et al., 2019): transformers' Roberta classes."""

from typing import Any

from gptjax.exchange import tables
from gptjax.exchange.families import bert, family
from gptjax.model import config

_TRANSFORM = ('d D', 'D d', ('D', 'D'))
_TRUNK = bert.trunk('roberta.')
_POOLER = family.dense('roberta.pooler.dense', 'head/pooler', *_TRANSFORM)
TOKENS = (
    *_TRUNK,
    *_POOLER,
    *family.dense('lm_head.dense', 'head/transform', *_TRANSFORM),
    *family.norm('lm_head.layer_norm', 'head/transform_norm'),
    tables.Entry('lm_head.decoder.weight', ('head/unembed',), 'V D', 'V D'),
    tables.Entry('lm_head.bias', ('head/bias',), 'V', 'V'),
)
CLASSES = (
    *_TRUNK,
    *family.dense('classifier.dense', 'head/pooler', *_TRANSFORM),
    *family.dense('classifier.out_proj', 'head/classes', 'C D', 'D C', ('C', 'C')),
)
KINDS = {
    'RobertaForMaskedLM': 'masked',
    'RobertaForCausalLM': 'masked',
    'RobertaForSequenceClassification': 'classes',
    'RobertaModel': 'none',
}


def table(arch: config.Architecture) -> tuple[tables.Entry, ...]:
    return CLASSES if arch.head.kind == 'classes' else TOKENS


def to_architecture(
    settings: family.Settings, names: frozenset[str]
) -> config.Architecture:
    kind = settings.architecture(KINDS)
    return bert.common(
        settings,
        'roberta',
        kind,
        pooler=kind == 'classes'
        or any(name.endswith('pooler.dense.weight') for name in names),
        offset=settings.take('pad_token_id', int, 1, least=0) + 1,
    )


def to_config(arch: config.Architecture) -> dict[str, Any]:
    made = family.class_of(KINDS, arch.head.kind)
    if arch.causal and arch.head.kind == 'masked':
        made = 'RobertaForCausalLM'
    return bert.common_config(arch) | {
        'architectures': [made],
        'pad_token_id': arch.positions.offset - 1,
    }


FAMILY = family.Family(
    kinds=KINDS,
    table=table,
    to_architecture=to_architecture,
    to_config=to_config,
    prefix='roberta.',
    copies=(
        ('lm_head.decoder.weight', 'roberta.embeddings.word_embeddings.weight'),
        ('lm_head.decoder.bias', 'lm_head.bias'),
    ),
    ignored=(
        r'roberta\.embeddings\.position_ids',
        r'roberta\.embeddings\.token_type_ids',
    ),
    renamed=bert.RENAMED,
)
