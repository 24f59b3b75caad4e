"""Packages that only some steps and readers need: imported when they are used."""

from importlib import import_module
from typing import Any

from gptjax import command


def need(module: str, extra: str) -> Any:
    """The module, or a UserError that names the extra which installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise command.UserError(
            f'this needs {module}, which cannot be imported ({error}); pip install '
            f"'gptjax[{extra}]'."
        ) from None
