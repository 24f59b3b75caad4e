"""What an encoder-decoder reads and what its decoder begins with."""

from collections.abc import Sequence

from gptjax.text import tokenizer as tokenizer_lib


def source(tokenizer: tokenizer_lib.Tokenizer, ids: Sequence[int]) -> list[int]:
    """The encoder's input for the `ids` of a text: they end with an end token.

    Tokenizers of others have their own frame: `<s> text </s>` for BART.
    """
    if tokenizer.suffix:
        return [*tokenizer.prefix, *ids, *tokenizer.suffix]
    return [*ids, end(tokenizer)]


def start(tokenizer: tokenizer_lib.Tokenizer) -> int:
    """The token that every target begins behind."""
    control = tokenizer.control
    return control.get(tokenizer_lib.START, control[tokenizer_lib.BEGIN])


def end(tokenizer: tokenizer_lib.Tokenizer) -> int:
    """The token that every target ends with."""
    control = tokenizer.control
    return control.get(tokenizer_lib.END, control[tokenizer_lib.BEGIN])
