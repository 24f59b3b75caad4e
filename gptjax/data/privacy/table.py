"""The steps of this package by name."""

from gptjax.data import steps
from gptjax.data.privacy import hide

STEPS: steps.Table = {'privacy': hide.privacy, 'names': hide.names}
