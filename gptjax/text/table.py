"""The table of tokenizers, how one is made, and how a saved one is loaded."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gptjax import command
from gptjax.text import bytes as byte_level
from gptjax.text import (
    gpt2,
    huggingface,
    llama2c,
    marian,
    sentencepiece,
    spm,
    tokenizer,
)

TOKENIZERS: dict[str, type[Any]] = {
    'sentencepiece': sentencepiece.SentencePiece,
    'gpt2': gpt2.GPT2,
    'bytes': byte_level.Bytes,
    'huggingface': huggingface.HuggingFace,
    'spm': spm.SPM,
    'llama2c': llama2c.Llama2C,
    'marian': marian.Marian,
}


def load(folder: Path) -> tokenizer.Tokenizer:
    """A saved tokenizer; UserError where it is missing, damaged or of unknown name."""
    name, files = tokenizer.read(folder)
    return command.lookup(TOKENIZERS, name, 'tokenizer').load(files)


def make(
    texts: Callable[[], Iterable[str]], name: str, **options: Any
) -> tokenizer.Tokenizer:
    """Trains a tokenizer on documents, or finds one that exists.

    texts: gives the documents to train on, from the first one each time.
    name: an entry of TOKENIZERS with the options of its `make`, or 'folder' with
        `path`: a saved tokenizer, or a workdir or dataset that holds one.

    Raises UserError for an unknown name or option, and what the tokenizer raises.
    """
    makers = {entry: made.make for entry, made in TOKENIZERS.items()}
    maker = command.lookup(makers | {'folder': _saved}, name, 'tokenizer')
    return command.splat(maker, 'tokenizer', options, texts=texts)


def _saved(
    texts: Callable[[], Iterable[str]], *, path: str | Path
) -> tokenizer.Tokenizer:
    inside = Path(path) / 'tokenizer'
    return load(inside if inside.is_dir() else Path(path))
