"""Qwen2 (Yang et al., 2024): Llama with biases on queries, keys and values."""

from typing import Any

from gptjax import command
from gptjax.exchange.families import family, llama, mistral
from gptjax.model import config

KINDS = llama.kinds('Qwen2')
_TYPES = ('full_attention', 'sliding_attention')


def to_architecture(
    settings: family.Settings, names: frozenset[str]
) -> config.Architecture:
    return llama.common(
        settings,
        'qwen2',
        KINDS,
        attention_bias='qkv',
        mlp_bias=False,
        windows=windows(settings),
    )


def windows(settings: family.Settings) -> tuple[int, ...]:
    """What each layer sees: a window in those that layer_types names, else all.

    Files of old versions have no layer_types: there the first max_window_layers see
    all.
    """
    full = settings.take('max_window_layers', int, 28, least=0)
    width = mistral.window(settings, absent=4096)
    used = settings.take('use_sliding_window', bool, False)
    L = settings.peek('num_hidden_layers', int)
    types = settings.take('layer_types', list, None)
    if types is None:
        types = [_TYPES[used and layer >= full] for layer in range(L)]
    if len(types) != L or any(kind not in _TYPES for kind in types):
        raise command.UserError(
            f'layer_types of config.json is {types!r:.80}; it is one of '
            f'{", ".join(_TYPES)} for each of {L} layers.'
        )
    if _TYPES[1] in types and not used:
        raise command.UserError(
            'layer_types of config.json has sliding windows and use_sliding_window is '
            'off; make them agree.'
        )
    return family.period([width * (kind == _TYPES[1]) for kind in types])


def window_config(arch: config.Architecture) -> dict[str, Any]:
    """The settings of the windows; all of one width."""
    seen = [arch.window(layer) for layer in range(arch.L)]
    width = max(seen)
    return {
        'use_sliding_window': width > 0,
        'sliding_window': width or None,
        'max_window_layers': seen.index(width) if width else arch.L,
        'layer_types': [_TYPES[window > 0] for window in seen],
    }


def to_config(arch: config.Architecture) -> dict[str, Any]:
    return llama.common_config(arch, KINDS) | window_config(arch)


FAMILY = llama.made(KINDS, to_architecture, to_config)
