"""GPT-2 (Radford et al., 2019): transformers' GPT2 classes."""

from typing import Any

from gptjax.exchange import tables
from gptjax.exchange.families import family
from gptjax.model import config

_BLOCK = 'transformer.h.{l}'
TABLE = (
    tables.Entry('transformer.wte.weight', ('tokens',), 'V D', 'V D'),
    tables.Entry('transformer.wpe.weight', ('positions',), 'P D', 'P D'),
    *family.norm(f'{_BLOCK}.ln_1', 'blocks/attention_norm'),
    tables.Entry(
        f'{_BLOCK}.attn.c_attn.weight',
        tuple(f'blocks/attention/{name}' for name in ('query', 'key', 'value')),
        'D (3 N H)',
        'D N H',
    ),
    tables.Entry(
        f'{_BLOCK}.attn.c_attn.bias',
        tuple(f'blocks/attention/{name}_bias' for name in ('query', 'key', 'value')),
        '(3 N H)',
        'N H',
    ),
    *family.dense(
        f'{_BLOCK}.attn.c_proj', 'blocks/attention/out', '(N H) D', 'N H D', ('D', 'D')
    ),
    *family.norm(f'{_BLOCK}.ln_2', 'blocks/mlp_norm'),
    *family.dense(f'{_BLOCK}.mlp.c_fc', 'blocks/mlp/up', 'D F', 'D F', ('F', 'F')),
    *family.dense(f'{_BLOCK}.mlp.c_proj', 'blocks/mlp/down', 'F D', 'F D', ('D', 'D')),
    *family.norm('transformer.ln_f', 'norm'),
    tables.Entry('lm_head.weight', ('head/unembed',), 'V D', 'V D'),
    tables.Entry('score.weight', ('head/classes',), 'C D', 'D C'),
    tables.Entry('score.weight', ('head/reward',), '1 D', 'D 1'),
)
KINDS = {
    'GPT2LMHeadModel': 'tokens',
    'GPT2Model': 'none',
    'GPT2ForSequenceClassification': 'classes',
}


def to_architecture(
    settings: family.Settings, names: frozenset[str]
) -> config.Architecture:
    settings.only('scale_attn_weights', True)
    settings.only('scale_attn_by_inverse_layer_idx', False)
    settings.only('add_cross_attention', False)
    D, N = settings.take('n_embd', int), settings.take('n_head', int)
    head = family.head(
        settings,
        settings.architecture(KINDS),
        tied=settings.take('tie_word_embeddings', bool, True),
        pooler=False,
    )
    return config.Architecture(
        family='gpt2',
        T=settings.take('n_positions', int),
        V=settings.take('vocab_size', int),
        D=D,
        F=settings.take('n_inner', int, 4 * D),
        N=N,
        K=N,
        H=family.head_width(D, N),
        L=settings.take('n_layer', int),
        dropout=settings.take('resid_pdrop', float, 0.1),
        init_std=settings.take('initializer_range', float, 0.02),
        norms=config.Norms('layer', settings.take('layer_norm_epsilon', float, 1e-5)),
        positions=config.Positions('learned'),
        head=head,
        activation=settings.activation('activation_function', 'gelu_new'),
        attention_bias='all',
        mlp_bias=True,
    )


def to_config(arch: config.Architecture) -> dict[str, Any]:
    return {
        'model_type': 'gpt2',
        'architectures': [family.class_of(KINDS, arch.head.kind)],
        'n_positions': arch.T,
        'n_ctx': arch.T,
        'vocab_size': arch.V,
        'n_embd': arch.D,
        'n_inner': arch.F,
        'n_head': arch.N,
        'n_layer': arch.L,
        'embd_pdrop': arch.dropout,
        'attn_pdrop': arch.dropout,
        'resid_pdrop': arch.dropout,
        'initializer_range': arch.init_std,
        'layer_norm_epsilon': arch.norms.eps,
        'activation_function': family.activation_name(arch.activation),
        'scale_attn_weights': True,
        'scale_attn_by_inverse_layer_idx': False,
        'reorder_and_upcast_attn': False,
        'add_cross_attention': False,
        'tie_word_embeddings': arch.head.tied,
        **family.labels(arch),
    }


FAMILY = family.Family(
    kinds=KINDS,
    table=lambda arch: TABLE,
    to_architecture=to_architecture,
    to_config=to_config,
    prefix='transformer.',
    copies=(('lm_head.weight', 'transformer.wte.weight'),),
    # The causal mask and its filler, in files of old versions.
    ignored=(r'transformer\.h\.\d+\.attn\.(bias|masked_bias)',),
)
