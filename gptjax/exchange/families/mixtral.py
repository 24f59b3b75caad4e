"""Mixtral (Jiang et al., 2024): Mistral with experts."""

from typing import Any

from gptjax import command
from gptjax.exchange import tables
from gptjax.exchange.families import family, llama, mistral
from gptjax.model import config

KINDS = llama.kinds('Mixtral')
_MOE = 'model.layers.{l}.block_sparse_moe'
TABLE = (
    *llama.TABLE,
    tables.Entry(f'{_MOE}.gate.weight', ('blocks/experts/router',), 'E D', 'D E'),
    tables.Entry(
        f'{_MOE}.experts.{{e}}.w1.weight', ('blocks/experts/gate',), 'F D', 'D F'
    ),
    tables.Entry(
        f'{_MOE}.experts.{{e}}.w2.weight', ('blocks/experts/down',), 'D F', 'F D'
    ),
    tables.Entry(
        f'{_MOE}.experts.{{e}}.w3.weight', ('blocks/experts/up',), 'F D', 'D F'
    ),
)


def to_architecture(
    settings: family.Settings, names: frozenset[str]
) -> config.Architecture:
    experts = config.Experts(
        E=settings.take('num_local_experts', int, 8),
        k=settings.take('num_experts_per_tok', int, 2),
        balance=settings.take('router_aux_loss_coef', float, 0.001),
        z=0.0,
    )
    settings.default('num_key_value_heads', 8)
    return llama.common(
        settings,
        'mixtral',
        KINDS,
        base=1e6,
        eps=1e-5,
        attention_bias='none',
        mlp_bias=False,
        windows=(mistral.window(settings, absent=0),),
        experts=experts,
    )


def to_config(arch: config.Architecture) -> dict[str, Any]:
    experts = arch.experts
    if experts is None:
        raise command.UserError('it has no experts, and the family is of such models.')
    return llama.common_config(arch, KINDS) | {
        'sliding_window': arch.window(0) or None,
        'num_local_experts': experts.E,
        'num_experts_per_tok': experts.k,
        'router_aux_loss_coef': experts.balance,
    }


FAMILY = llama.made(KINDS, to_architecture, to_config, TABLE)
