"""The smallest tokenizer: an id for each of the 256 bytes, then the control tokens."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from gptjax.text import tokenizer


class Bytes(tokenizer.ByteTable):
    """Ids 0 to 255 are the bytes of UTF-8; 256 to 260 are the control tokens."""

    name = 'bytes'

    def __init__(self) -> None:
        pieces = [bytes([byte]) for byte in range(256)]
        control = {token: 256 + i for i, token in enumerate(tokenizer.CONTROL)}
        super().__init__([*pieces, *(b'' for _ in control)], control, files={})

    @classmethod
    def make(cls, texts: Callable[[], Iterable[str]]) -> 'Bytes':
        """Nothing is learned: the texts are not read."""
        return cls()

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> 'Bytes':
        """There is nothing to load."""
        return cls()

    def encode(self, text: str) -> list[int]:
        """The bytes of the text; UserError for a lone surrogate."""
        return list(tokenizer.utf8(text))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        return [self.encode(text) for text in texts]
