"""BART (Lewis et al., 2020): transformers' Bart classes."""

from typing import Any

from gptjax import command
from gptjax.exchange import tables
from gptjax.exchange.families import family
from gptjax.model import config

_OUT = ('D (N H)', 'N H D', ('D', 'D'))


def _attention(name: str, path: str) -> tuple[tables.Entry, ...]:
    return (
        *family.projections(lambda part: f'{name}.{part[0]}_proj', path),
        *family.dense(f'{name}.out_proj', f'{path}/out', *_OUT),
    )


def _side(side: str) -> tuple[tables.Entry, ...]:
    """The tensors of 'encoder' or 'decoder'."""
    block, blocks = f'model.{side}.layers.{{l}}', f'{side}/blocks'
    return (
        tables.Entry(
            f'model.{side}.embed_positions.weight', (f'{side}/positions',), 'P D', 'P D'
        ),
        *family.norm(f'model.{side}.layernorm_embedding', f'{side}/embedding_norm'),
        *_attention(f'{block}.self_attn', f'{blocks}/attention'),
        *family.norm(f'{block}.self_attn_layer_norm', f'{blocks}/attention_norm'),
        *family.dense(f'{block}.fc1', f'{blocks}/mlp/up', 'F D', 'D F', ('F', 'F')),
        *family.dense(f'{block}.fc2', f'{blocks}/mlp/down', 'D F', 'F D', ('D', 'D')),
        *family.norm(f'{block}.final_layer_norm', f'{blocks}/mlp_norm'),
    )


TABLE = (
    tables.Entry('model.shared.weight', ('tokens',), 'V D', 'V D'),
    *_side('encoder'),
    *_side('decoder'),
    *_attention('model.decoder.layers.{l}.encoder_attn', 'decoder/blocks/cross'),
    *family.norm(
        'model.decoder.layers.{l}.encoder_attn_layer_norm', 'decoder/blocks/cross_norm'
    ),
    tables.Entry('final_logits_bias', ('head/bias',), '1 V', 'V'),
)
KINDS = {'BartForConditionalGeneration': 'tokens', 'BartModel': 'none'}
COPIES = tuple(
    (copy, 'model.shared.weight')
    for copy in (
        'model.encoder.embed_tokens.weight',
        'model.decoder.embed_tokens.weight',
        'lm_head.weight',
    )
)


def common(
    settings: family.Settings,
    name: str,
    kind: str,
    names: frozenset[str],
    *,
    norms: config.Norms,
    positions: config.Positions,
    T: int,
) -> config.Architecture:
    """The architecture of BART and of Marian."""
    settings.only('is_encoder_decoder', True)
    settings.only('is_decoder', False)
    settings.only('tie_word_embeddings', True)
    settings.only('normalize_before', False)
    settings.only('add_final_layer_norm', False)
    settings.only('add_bias_logits', False)
    settings.only('extra_pos_embeddings', positions.offset)
    both = {
        what: (
            settings.take(f'encoder_{what}', int),
            settings.take(f'decoder_{what}', int),
        )
        for what in ('layers', 'attention_heads', 'ffn_dim')
    }
    encoder_L, L = both.pop('layers')
    settings.only('num_hidden_layers', encoder_L)
    settings.only('num_attention_heads', both['attention_heads'][0])
    for what, (encoder, decoder) in both.items():
        if encoder != decoder:
            raise command.UserError(
                f'config.json has encoder_{what} {encoder} and decoder_{what} '
                f'{decoder}; only models where they are equal are computed here.'
            )
    D, N = settings.take('d_model', int), both['attention_heads'][0]
    settings.only('hidden_size', D)
    return config.Architecture(
        family=name,
        T=settings.take('max_position_embeddings', int, T),
        V=settings.take('vocab_size', int),
        D=D,
        F=both['ffn_dim'][0],
        N=N,
        K=N,
        H=family.head_width(D, N),
        L=L,
        encoder_L=encoder_L,
        dropout=settings.take('dropout', float, 0.1),
        init_std=settings.take('init_std', float, 0.02),
        norms=norms,
        positions=positions,
        head=family.head(
            settings,
            kind,
            tied=True,
            bias='final_logits_bias' in names,
            pooler=False,
        ),
        activation=settings.activation('activation_function', 'gelu'),
        attention_bias='all',
        mlp_bias=True,
        scale_embedding=settings.take('scale_embedding', bool, False),
    )


def common_config(arch: config.Architecture) -> dict[str, Any]:
    """The settings of BART and of Marian alike."""
    sides = {
        f'{side}_{name}': value
        for side, layers in (('encoder', arch.encoder_L), ('decoder', arch.L))
        for name, value in (
            ('layers', layers),
            ('attention_heads', arch.N),
            ('ffn_dim', arch.F),
            ('layerdrop', 0.0),
        )
    }
    return {
        'model_type': arch.family,
        'max_position_embeddings': arch.T,
        'vocab_size': arch.V,
        'd_model': arch.D,
        **sides,
        'num_hidden_layers': arch.encoder_L,
        'dropout': arch.dropout,
        'attention_dropout': arch.dropout,
        'activation_dropout': 0.0,
        'init_std': arch.init_std,
        'activation_function': family.activation_name(arch.activation),
        'scale_embedding': arch.scale_embedding,
        'is_encoder_decoder': True,
        'tie_word_embeddings': True,
    }


def to_architecture(
    settings: family.Settings, names: frozenset[str]
) -> config.Architecture:
    settings.only('static_position_embeddings', False)
    settings.only('normalize_embedding', True)
    return common(
        settings,
        'bart',
        settings.architecture(KINDS),
        names,
        norms=config.Norms('layer', 1e-5, order='post', embedding=True),
        positions=config.Positions('learned', offset=2),
        T=1024,
    )


def to_config(arch: config.Architecture) -> dict[str, Any]:
    made = family.class_of(KINDS, arch.head.kind)
    return common_config(arch) | {'architectures': [made]}


FAMILY = family.Family(
    kinds=KINDS,
    table=lambda arch: TABLE,
    to_architecture=to_architecture,
    to_config=to_config,
    prefix='model.',
    copies=COPIES,
)
