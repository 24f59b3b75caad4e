"""The steps of this package by name."""

from gptjax.data import steps
from gptjax.data.filters import (
    block_list,
    c4,
    fineweb,
    quality,
    refinedweb,
    repetition,
    signals,
)

STEPS: steps.Table = {
    'gopher': quality.gopher,
    'gopher_repetition': repetition.gopher_repetition,
    'c4_code': c4.c4_code,
    'c4_paper': c4.c4_paper,
    'fineweb': fineweb.fineweb,
    'refinedweb_lines': refinedweb.refinedweb_lines,
    'block_list': block_list.block_list,
    'signals': signals.signals,
    'threshold': signals.threshold,
}
