"""The steps of this package by name."""

from gptjax.data import steps

STEPS: steps.Table = {}
