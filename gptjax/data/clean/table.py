"""The steps of this package by name."""

from gptjax.data import steps
from gptjax.data.clean import language, quality, text

STEPS: steps.Table = {
    'normalise': text.normalise,
    'boilerplate': text.boilerplate,
    'length': text.length,
    'language': language.language,
    'quality': quality.quality,
}
