"""Marian's translation models (Junczys-Dowmunt et al., 2018): MarianMTModel."""

from typing import Any

import numpy as np

from gptjax.exchange.families import bart, family
from gptjax.model import config

KINDS = {'MarianMTModel': 'tokens', 'MarianModel': 'none'}


def to_architecture(
    settings: family.Settings, names: frozenset[str]
) -> config.Architecture:
    settings.only('static_position_embeddings', True)
    settings.only('normalize_embedding', False)
    settings.only('share_encoder_decoder_embeddings', True)
    settings.only('decoder_vocab_size', settings.peek('vocab_size', int))
    return bart.common(
        settings,
        'marian',
        settings.architecture(KINDS),
        names,
        norms=config.Norms('layer', 1e-5, order='post'),
        positions=config.Positions('sinusoidal'),
        T=1024,
    )


def to_config(arch: config.Architecture) -> dict[str, Any]:
    return bart.common_config(arch) | {
        'architectures': [family.class_of(KINDS, arch.head.kind)],
        'decoder_vocab_size': arch.V,
        'share_encoder_decoder_embeddings': True,
        'static_position_embeddings': True,
    }


def sines(arch: config.Architecture) -> np.ndarray:
    """The positions [T, D], which files of old versions hold: sines, then cosines."""
    powers = np.arange(0, arch.D, 2) / arch.D
    angles = np.outer(np.arange(arch.T), arch.positions.base**-powers)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, : arch.D]


FAMILY = family.Family(
    kinds=KINDS,
    table=lambda arch: bart.TABLE,
    to_architecture=to_architecture,
    to_config=to_config,
    prefix='model.',
    copies=bart.COPIES,
    computed=(r'model\.(encoder|decoder)\.embed_positions\.weight', sines),
)
