"""Settings that a format has no place for: what it fixes, and where a model differs."""

from collections.abc import Mapping
from typing import Any

from gptjax import command
from gptjax.model import config as model_config

# What the Llama family of every format computes (Touvron et al., 2023).
LLAMA: dict[str, tuple[Any, ...]] = {
    'activation': ('swiglu',),
    'base_D': (0,),
    'causal': (True,),
    'encoder_L': (0,),
    'head.bias': (False,),
    'head.kind': ('tokens',),
    'head.soft_cap': (0,),
    'norms.embedding': (False,),
    'norms.kind': ('rms',),
    'norms.order': ('pre',),
    'positions.kind': ('rotary',),
    'scale_embedding': (False,),
    'types': (0,),
}


def check(
    arch: model_config.Architecture,
    fixed: Mapping[str, tuple[Any, ...]],
    what: str,
) -> None:
    """Raises UserError where a setting has another value than a format can hold.

    fixed: a field, `norms.eps` for one of a section, and the values that it may have.
    what: the format, as the message names it.
    """
    differ = []
    for name, allowed in fixed.items():
        value: Any = arch
        for part in name.split('.'):
            value = getattr(value, part)
        if value not in allowed:
            wanted = ' or '.join(str(choice) for choice in allowed)
            differ.append(f'model.{name} is {value}, not {wanted}')
    if differ:
        raise command.UserError(
            f'{what} has no place for this {arch.family} model: {"; ".join(differ)}. '
            'Try --format=huggingface, or train with what the format has.'
        )
