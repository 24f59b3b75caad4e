"""Qwen3 (Yang et al., 2025): Llama with normalised queries and keys."""

from typing import Any

from gptjax.exchange.families import family, llama, qwen2
from gptjax.model import config

KINDS = llama.kinds('Qwen3')


def to_architecture(
    settings: family.Settings, names: frozenset[str]
) -> config.Architecture:
    bias = settings.take('attention_bias', bool, False)
    settings.default('head_dim', 128)
    return llama.common(
        settings,
        'qwen3',
        KINDS,
        query_key=True,
        attention_bias='all' if bias else 'none',
        mlp_bias=False,
        windows=qwen2.windows(settings),
    )


def to_config(arch: config.Architecture) -> dict[str, Any]:
    return (
        llama.common_config(arch, KINDS)
        | qwen2.window_config(arch)
        | {'attention_bias': arch.attention_bias == 'all'}
    )


FAMILY = llama.made(KINDS, to_architecture, to_config)
