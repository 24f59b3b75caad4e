"""The smallest tokenizer: an id for each of the 256 bytes, then the control tokens."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from gptjax.text import tokenizer


class Bytes(tokenizer.ByteTable):
    """Ids 0 to 255 are the bytes of UTF-8; the control tokens follow from 256 on."""

    name = 'bytes'

    def __init__(self, control: Sequence[str] = tokenizer.CONTROL) -> None:
        pieces = [bytes([byte]) for byte in range(256)]
        ids = {token: 256 + i for i, token in enumerate(control)}
        files = tokenizer.names(control)
        super().__init__([*pieces, *(b'' for _ in ids)], ids, files)

    @classmethod
    def make(cls, texts: Callable[[], Iterable[str]], *, mask: bool = False) -> 'Bytes':
        """Nothing is learned: the texts are not read. `mask` adds `<|mask|>`."""
        return cls((*tokenizer.CONTROL, tokenizer.MASK) if mask else tokenizer.CONTROL)

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> 'Bytes':
        """The names of the control tokens are all that there is to load."""
        return cls(tokenizer.named(files))

    def encode(self, text: str) -> list[int]:
        """The bytes of the text; UserError for a lone surrogate."""
        return list(tokenizer.utf8(text))
