"""Mistral 7B (Jiang et al., 2023): Llama with a sliding window of attention."""

import dataclasses

from gptjax.model import config
from gptjax.model.families import llama


def windowed(arch: config.Architecture, window: int) -> config.Architecture:
    return dataclasses.replace(arch, family='mistral', windows=(window,))


SIZES = {
    'nano': windowed(llama.SIZES['nano'], 64),
    '7b': windowed(llama.sized(32, 4096, 14_336, 32, 8, T=32_768), 4096),
}
