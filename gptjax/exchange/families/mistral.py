"""Mistral (Jiang et al., 2023): Llama with a sliding window."""

from typing import Any

from gptjax.exchange.families import family, llama
from gptjax.model import config

KINDS = llama.kinds('Mistral')


def to_architecture(
    settings: family.Settings, names: frozenset[str]
) -> config.Architecture:
    settings.default('num_key_value_heads', 8)
    return llama.common(
        settings,
        'mistral',
        KINDS,
        attention_bias='none',
        mlp_bias=False,
        windows=(window(settings, absent=4096),),
    )


def window(settings: family.Settings, absent: int) -> int:
    """The tokens that every layer sees; 0 is all, which they write as null."""
    if settings.has('sliding_window'):
        return int(settings.take('sliding_window', int, 0))
    return absent


def to_config(arch: config.Architecture) -> dict[str, Any]:
    return llama.common_config(arch, KINDS) | {'sliding_window': arch.window(0) or None}


FAMILY = llama.made(KINDS, to_architecture, to_config)
