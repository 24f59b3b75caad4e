"""The families by name, each with its sizes. Imports no JAX."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from gptjax import command
from gptjax.model import config
from gptjax.model.families import (
    bart,
    bert,
    gpt2,
    gpt3,
    llama,
    marian,
    mistral,
    mixtral,
    modern,
    qwen2,
    qwen3,
    roberta,
    transformer,
)

FAMILIES: dict[str, dict[str, config.Architecture]] = {
    'gpt2': gpt2.SIZES,
    'gpt3': gpt3.SIZES,
    'llama': llama.SIZES,
    'mistral': mistral.SIZES,
    'qwen2': qwen2.SIZES,
    'qwen3': qwen3.SIZES,
    'mixtral': mixtral.SIZES,
    'modern': modern.SIZES,
    'bert': bert.SIZES,
    'roberta': roberta.SIZES,
    'transformer': transformer.SIZES,
    'marian': marian.SIZES,
    'bart': bart.SIZES,
}


def preset(name: str, **changes: Any) -> dict[str, Any]:
    """The settings of `FAMILY-SIZE` for the section `model` of a config.

    `changes` replace fields; those of a nested section replace its fields, as in
    `preset('bert-base', head=dict(kind='classes', classes=2, pooler=True))`.
    Raises UserError for an unknown name or field.
    """
    presets = {
        f'{family}-{size}': arch
        for family, sizes in FAMILIES.items()
        for size, arch in sizes.items()
    }
    arch = command.lookup(presets, name, 'model preset')
    fields = dataclasses.asdict(arch)
    for field, value in changes.items():
        command.lookup(fields, field, 'field of Architecture')
        if isinstance(fields[field], Mapping) and isinstance(value, Mapping):
            for inner in value:
                command.lookup(fields[field], inner, f'field of {field}')
            value = fields[field] | dict(value)
        fields[field] = value
    return fields
