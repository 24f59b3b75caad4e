"""BERT (Devlin et al., 2019): transformers' Bert classes."""

from typing import Any

from gptjax import command
from gptjax.exchange import tables
from gptjax.exchange.families import family
from gptjax.model import config

_TRANSFORM = ('d D', 'D d', ('D', 'D'))
_CLASSES = ('C D', 'D C', ('C', 'C'))


def trunk(prefix: str) -> tuple[tables.Entry, ...]:
    """The tensors below the head, in files of BERT and of RoBERTa."""
    block = f'{prefix}encoder.layer.{{l}}'
    embeddings = f'{prefix}embeddings'
    return (
        tables.Entry(f'{embeddings}.word_embeddings.weight', ('tokens',), 'V D', 'V D'),
        tables.Entry(
            f'{embeddings}.position_embeddings.weight', ('positions',), 'P D', 'P D'
        ),
        tables.Entry(
            f'{embeddings}.token_type_embeddings.weight', ('types',), 'Y D', 'Y D'
        ),
        *family.norm(f'{embeddings}.LayerNorm', 'embedding_norm'),
        *family.projections(
            lambda part: f'{block}.attention.self.{part}', 'blocks/attention'
        ),
        *family.dense(
            f'{block}.attention.output.dense',
            'blocks/attention/out',
            'D (N H)',
            'N H D',
            ('D', 'D'),
        ),
        *family.norm(f'{block}.attention.output.LayerNorm', 'blocks/attention_norm'),
        *family.dense(
            f'{block}.intermediate.dense', 'blocks/mlp/up', 'F D', 'D F', ('F', 'F')
        ),
        *family.dense(
            f'{block}.output.dense', 'blocks/mlp/down', 'D F', 'F D', ('D', 'D')
        ),
        *family.norm(f'{block}.output.LayerNorm', 'blocks/mlp_norm'),
    )


TABLE = (
    *trunk('bert.'),
    *family.dense('bert.pooler.dense', 'head/pooler', *_TRANSFORM),
    *family.dense('cls.predictions.transform.dense', 'head/transform', *_TRANSFORM),
    *family.norm('cls.predictions.transform.LayerNorm', 'head/transform_norm'),
    tables.Entry('cls.predictions.decoder.weight', ('head/unembed',), 'V D', 'V D'),
    tables.Entry('cls.predictions.bias', ('head/bias',), 'V', 'V'),
)
PRETRAINING = family.dense('cls.seq_relationship', 'head/classes', *_CLASSES)
CLASSES = family.dense('classifier', 'head/classes', *_CLASSES)
KINDS = {
    'BertForMaskedLM': 'masked',
    'BertLMHeadModel': 'masked',
    'BertForPreTraining': 'pretraining',
    'BertForSequenceClassification': 'classes',
    'BertModel': 'none',
}


def table(arch: config.Architecture) -> tuple[tables.Entry, ...]:
    return TABLE + (PRETRAINING if arch.head.kind == 'pretraining' else CLASSES)


def to_architecture(
    settings: family.Settings, names: frozenset[str]
) -> config.Architecture:
    kind = settings.architecture(KINDS)
    # Google's own files have more of the head than their class uses.
    if kind == 'masked' and 'cls.seq_relationship.weight' in names:
        kind = 'pretraining'
    pooler = kind in ('classes', 'pretraining') or any(
        name.endswith('pooler.dense.weight') for name in names
    )
    return common(settings, 'bert', kind, pooler=pooler)


def common(
    settings: family.Settings,
    name: str,
    kind: str,
    *,
    pooler: bool,
    offset: int = 0,
    eps: float = 1e-12,
) -> config.Architecture:
    """The architecture of BERT and RoBERTa; `offset`: unused rows of positions."""
    settings.only('position_embedding_type', 'absolute')
    settings.only('add_cross_attention', False)
    settings.only('embedding_size')
    if kind == 'classes' and settings.classes() < 2:
        raise command.UserError(
            'config.json has one label: a regression, which has no bias here; only '
            'classifiers of two labels or more are read.'
        )
    D, N = settings.take('hidden_size', int), settings.take('num_attention_heads', int)
    rows = settings.take('max_position_embeddings', int)
    if rows <= offset:
        raise command.UserError(
            f'max_position_embeddings of config.json is {rows}; it needs to be above '
            f'the {offset} rows that are not used.'
        )
    return config.Architecture(
        family=name,
        T=rows - offset,
        V=settings.take('vocab_size', int),
        D=D,
        F=settings.take('intermediate_size', int),
        N=N,
        K=N,
        H=family.head_width(D, N),
        L=settings.take('num_hidden_layers', int),
        dropout=settings.take('hidden_dropout_prob', float, 0.1),
        init_std=settings.take('initializer_range', float, 0.02),
        norms=config.Norms(
            'layer',
            settings.take('layer_norm_eps', float, eps),
            order='post',
            embedding=True,
        ),
        positions=config.Positions('learned', offset=offset),
        head=family.head(
            settings,
            kind,
            tied=settings.take('tie_word_embeddings', bool, True),
            bias=True,
            pooler=pooler,
        ),
        activation=settings.activation('hidden_act', 'gelu'),
        attention_bias='all',
        mlp_bias=True,
        causal=settings.take('is_decoder', bool, False),
        types=settings.take('type_vocab_size', int, 2),
    )


def common_config(arch: config.Architecture) -> dict[str, Any]:
    """The settings of BERT and RoBERTa alike."""
    return {
        'model_type': arch.family,
        'max_position_embeddings': arch.T + arch.positions.offset,
        'vocab_size': arch.V,
        'type_vocab_size': arch.types,
        'hidden_size': arch.D,
        'intermediate_size': arch.F,
        'num_attention_heads': arch.N,
        'num_hidden_layers': arch.L,
        'hidden_dropout_prob': arch.dropout,
        'attention_probs_dropout_prob': arch.dropout,
        'initializer_range': arch.init_std,
        'layer_norm_eps': arch.norms.eps,
        'hidden_act': family.activation_name(arch.activation),
        'position_embedding_type': 'absolute',
        'is_decoder': arch.causal,
        'tie_word_embeddings': arch.head.tied,
        **family.labels(arch),
    }


def to_config(arch: config.Architecture) -> dict[str, Any]:
    made = family.class_of(KINDS, arch.head.kind)
    if arch.causal and arch.head.kind == 'masked':
        made = 'BertLMHeadModel'
    return common_config(arch) | {'architectures': [made]}


# The names of the scale and bias of norms in files of TensorFlow's time.
RENAMED = (
    (r'LayerNorm\.gamma$', 'LayerNorm.weight'),
    (r'LayerNorm\.beta$', 'LayerNorm.bias'),
)

FAMILY = family.Family(
    kinds=KINDS,
    table=table,
    to_architecture=to_architecture,
    to_config=to_config,
    prefix='bert.',
    copies=(
        ('cls.predictions.decoder.weight', 'bert.embeddings.word_embeddings.weight'),
        ('cls.predictions.decoder.bias', 'cls.predictions.bias'),
    ),
    ignored=(r'bert\.embeddings\.position_ids', r'bert\.embeddings\.token_type_ids'),
    renamed=RENAMED,
)
