"""What stands around a text when it is the whole input of an encoder or a decoder."""

from collections.abc import Sequence

from gptjax.text import tokenizer as tokenizer_lib


def example(
    tokenizer: tokenizer_lib.Tokenizer,
    first: Sequence[int],
    second: Sequence[int] | None = None,
) -> tuple[list[int], list[int]]:
    """(ids, token types) of a text to read as a whole, or of a pair of texts.

    A begin token, and an end token after each text: `[CLS] first [SEP] second [SEP]`
    for BERT (Devlin et al., 2019, section 3), whose types are 1 in the second text.
    Tokenizers of others have their own frame, which may be none (GPT-2), and their own
    tokens between the texts (two of RoBERTa).
    """
    before, after = [tokenizer.control[tokenizer_lib.BEGIN]], [end(tokenizer)]
    if not ours(tokenizer):
        before, after = [*tokenizer.prefix], [*tokenizer.suffix]
    if second is None:
        ids = [*before, *first, *after] or [tokenizer.control[tokenizer_lib.BEGIN]]
        return ids, [0] * len(ids)
    ids = [*before, *first, *tokenizer.between]
    types = [0] * len(ids) + [1] * (len(second) + len(after))
    return [*ids, *second, *after], types


def ours(tokenizer: tokenizer_lib.Tokenizer) -> bool:
    """Whether a tokenizer was made here: those have the roles of our chats."""
    return tokenizer_lib.ROLES[0] in tokenizer.control


def source(tokenizer: tokenizer_lib.Tokenizer, ids: Sequence[int]) -> list[int]:
    """What the encoder of an encoder-decoder reads: a text that ends with an end token.

    Tokenizers of others have their own frame: `<s> text </s>` for BART.
    """
    if tokenizer.suffix:
        return [*tokenizer.prefix, *ids, *tokenizer.suffix]
    return [*ids, end(tokenizer)]


def start(tokenizer: tokenizer_lib.Tokenizer) -> int:
    """The token that every target of an encoder-decoder begins behind."""
    control = tokenizer.control
    return control.get(tokenizer_lib.START, control[tokenizer_lib.BEGIN])


def end(tokenizer: tokenizer_lib.Tokenizer) -> int:
    """The token that a text ends with."""
    control = tokenizer.control
    return control.get(tokenizer_lib.END, control[tokenizer_lib.BEGIN])
