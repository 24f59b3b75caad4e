"""The steps of this package by name."""

from gptjax.data import steps
from gptjax.data.origin import policy

STEPS: steps.Table = {'licence': policy.licence, 'opt_out': policy.opt_out}
