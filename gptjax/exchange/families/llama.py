"""Llama (Touvron et al., 2023), and what the families made after it share."""

from collections.abc import Mapping
from typing import Any

from gptjax import command
from gptjax.exchange import tables
from gptjax.exchange.families import family
from gptjax.model import config

_BLOCK = 'model.layers.{l}'
_ATTENTION = f'{_BLOCK}.self_attn'


TABLE = (
    tables.Entry('model.embed_tokens.weight', ('tokens',), 'V D', 'V D'),
    family.scale(f'{_BLOCK}.input_layernorm', 'blocks/attention_norm'),
    *family.projections(
        lambda part: f'{_ATTENTION}.{part[0]}_proj', 'blocks/attention', keys='K'
    ),
    *family.dense(
        f'{_ATTENTION}.o_proj', 'blocks/attention/out', 'D (N H)', 'N H D', ('D', 'D')
    ),
    tables.Entry(
        f'{_ATTENTION}.q_norm.weight', ('blocks/attention/query_norm',), 'H', 'H'
    ),
    tables.Entry(
        f'{_ATTENTION}.k_norm.weight', ('blocks/attention/key_norm',), 'H', 'H'
    ),
    family.scale(f'{_BLOCK}.post_attention_layernorm', 'blocks/mlp_norm'),
    *family.dense(
        f'{_BLOCK}.mlp.gate_proj', 'blocks/mlp/gate', 'F D', 'D F', ('F', 'F')
    ),
    *family.dense(f'{_BLOCK}.mlp.up_proj', 'blocks/mlp/up', 'F D', 'D F', ('F', 'F')),
    *family.dense(
        f'{_BLOCK}.mlp.down_proj', 'blocks/mlp/down', 'D F', 'F D', ('D', 'D')
    ),
    family.scale('model.norm', 'norm'),
    tables.Entry('lm_head.weight', ('head/unembed',), 'V D', 'V D'),
    tables.Entry('score.weight', ('head/classes',), 'C D', 'D C'),
    tables.Entry('score.weight', ('head/reward',), '1 D', 'D 1'),
)


def kinds(name: str) -> dict[str, str]:
    """The classes of a family and their heads."""
    return {
        f'{name}ForCausalLM': 'tokens',
        f'{name}Model': 'none',
        f'{name}ForSequenceClassification': 'classes',
    }


def common(
    settings: family.Settings,
    name: str,
    kinds: Mapping[str, str],
    *,
    base: float = 10_000.0,
    eps: float = 1e-6,
    query_key: bool = False,
    **special: Any,
) -> config.Architecture:
    """The architecture of a family like Llama; `special` are its own fields."""
    settings.only('hidden_act', 'silu', 'swish')
    settings.only('partial_rotary_factor', 1.0)
    settings.only('rope_interleaved', False)
    D, N = settings.take('hidden_size', int), settings.take('num_attention_heads', int)
    head = family.head(
        settings,
        settings.architecture(kinds),
        tied=settings.take('tie_word_embeddings', bool, False),
        pooler=False,
    )
    H = settings.take('head_dim', int, None)
    return config.Architecture(
        family=name,
        T=settings.take('max_position_embeddings', int),
        V=settings.take('vocab_size', int),
        D=D,
        F=settings.take('intermediate_size', int),
        N=N,
        K=settings.take('num_key_value_heads', int, N),
        H=H or family.head_width(D, N),
        L=settings.take('num_hidden_layers', int),
        dropout=0.0,
        init_std=settings.take('initializer_range', float, 0.02),
        norms=config.Norms(
            'rms', settings.take('rms_norm_eps', float, eps), query_key=query_key
        ),
        positions=_positions(settings, base),
        head=head,
        activation='swiglu',
        **special,
    )


def common_config(
    arch: config.Architecture, kinds: Mapping[str, str]
) -> dict[str, Any]:
    """The settings of a family like Llama, in the form that all versions read."""
    positions = arch.positions
    scaling: dict[str, Any] | None = None
    if positions.scaling != 'none':
        scaling = {'rope_type': positions.scaling, 'factor': positions.factor}
    if positions.scaling == 'llama3':
        scaling = {
            **(scaling or {}),
            'low_freq_factor': positions.low,
            'high_freq_factor': positions.high,
            'original_max_position_embeddings': positions.original,
        }
    return {
        'model_type': arch.family,
        'architectures': [family.class_of(kinds, arch.head.kind)],
        'max_position_embeddings': arch.T,
        'vocab_size': arch.V,
        'hidden_size': arch.D,
        'intermediate_size': arch.F,
        'num_attention_heads': arch.N,
        'num_key_value_heads': arch.K,
        'head_dim': arch.H,
        'num_hidden_layers': arch.L,
        'attention_dropout': 0.0,
        'initializer_range': arch.init_std,
        'rms_norm_eps': arch.norms.eps,
        'rope_theta': positions.base,
        'rope_scaling': scaling,
        'hidden_act': 'silu',
        'tie_word_embeddings': arch.head.tied,
        **family.labels(arch),
    }


def _positions(settings: family.Settings, base: float) -> config.Positions:
    """Rotary positions: rope_parameters of version 5, or what stood there before."""
    base = settings.take('rope_theta', float, base)
    old = settings.take('rope_scaling', dict, {})
    rope = family.Settings(settings.take('rope_parameters', dict, old))
    base = rope.take('rope_theta', float, base)
    old_name = rope.take('type', str, 'default')
    kind = rope.take('rope_type', str, old_name)
    known = {'default': 'none', 'linear': 'linear', 'llama3': 'llama3'}
    if kind not in known:
        raise command.UserError(
            f'the rotary positions of config.json are scaled by {kind!r}, which is not '
            f'computed here; known: {", ".join(known)}.'
        )
    rope.only('partial_rotary_factor', 1.0)
    fields: dict[str, Any] = {}
    if kind != 'default':
        fields['factor'] = rope.take('factor', float)
    if kind == 'llama3':
        fields['low'] = rope.take('low_freq_factor', float)
        fields['high'] = rope.take('high_freq_factor', float)
        fields['original'] = rope.take('original_max_position_embeddings', int)
    rope.done()
    if (
        base <= 0
        or min((*fields.values(), 1)) <= 0
        or (kind == 'llama3' and fields['low'] >= fields['high'])
    ):
        raise command.UserError(
            f'the rotary positions of config.json have base {base:g} and {fields}; '
            'all are above 0, and the low factor below the high one.'
        )
    return config.Positions('rotary', base=base, scaling=known[kind], **fields)


KINDS = kinds('Llama')


def to_architecture(
    settings: family.Settings, names: frozenset[str]
) -> config.Architecture:
    bias = settings.take('attention_bias', bool, False)
    return common(
        settings,
        'llama',
        KINDS,
        attention_bias='all' if bias else 'none',
        mlp_bias=settings.take('mlp_bias', bool, False),
    )


def to_config(arch: config.Architecture) -> dict[str, Any]:
    return common_config(arch, KINDS) | {
        'attention_bias': arch.attention_bias == 'all',
        'mlp_bias': arch.mlp_bias,
    }


def made(
    kinds: Mapping[str, str],
    to_architecture: Any,
    to_config: Any,
    table: tuple[tables.Entry, ...] = TABLE,
) -> family.Family:
    """A family whose names are Llama's."""
    return family.Family(
        kinds=kinds,
        table=lambda arch: table,
        to_architecture=to_architecture,
        to_config=to_config,
        prefix='model.',
        copies=(('lm_head.weight', 'model.embed_tokens.weight'),),
        # Frequencies, in files of old versions.
        ignored=(r'model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq',),
    )


FAMILY = made(KINDS, to_architecture, to_config)
