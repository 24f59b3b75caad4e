"""The tokenizer of llama2.c: `tokenizer.bin`, a score and a string for each id.

The file: the length of the longest string, then for each id its score (float32), the
length of its string and the string itself, all little-endian. Ids 0 to 2 are unknown,
BOS and EOS, the next 256 the bytes. A text has a space before it and is merged as
llama2.c merges: the pair whose string has the best score, the first of equals.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import heapq
from pathlib import Path
import struct

from gptjax import command
from gptjax.text import tokenizer

FILE = 'tokenizer.bin'
BOS, EOS = 1, 2
FIRST_BYTE = 3
FIXED = FIRST_BYTE + 256
# Strings are words or shorter: a longer one is a damaged length.
LONGEST = 4_096
LOWEST = -1e10  # llama2.c merges nothing of this score


class Llama2C(tokenizer.ByteTable):
    """The tokenizer of the content of a `tokenizer.bin`.

    Raises UserError for content that is damaged or lacks the bytes or the space.
    """

    name = 'llama2c'

    def __init__(self, data: bytes) -> None:
        self.entries = parse(data)
        pieces = [_said(token, piece) for token, (_, piece) in enumerate(self.entries)]
        super().__init__(
            pieces, {tokenizer.BEGIN: BOS, tokenizer.END: EOS}, {FILE: data}
        )
        self.special = {'<s>': BOS, '</s>': EOS}
        self.words = {'bos_token': '<s>', 'eos_token': '</s>'}
        self.dummy_prefix = True
        # Backwards: of equal strings the first counts.
        self._ids = {
            piece: token
            for token, (_, piece) in reversed([*enumerate(self.entries)])
            if token >= FIXED
        }
        if b' ' not in self._ids:
            raise _damaged('it has no space, which every text begins with')

    @classmethod
    def make(cls, texts: Callable[[], Iterable[str]], *, path: str | Path) -> 'Llama2C':
        """The tokenizer of the file at `path`; no text is read."""
        if not Path(path).is_file():
            raise command.UserError(
                f'{path} is no file; tokenizer.path is the tokenizer.bin of llama2.c.'
            )
        return cls(Path(path).read_bytes())

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> 'Llama2C':
        """The tokenizer of saved files; UserError where the file is not among them."""
        return cls(tokenizer.file(files, FILE))

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without BOS; UserError for a lone surrogate."""
        if not tokenizer.utf8(text):
            return []
        ids = []
        for character in ' ' + text:
            piece = character.encode()
            known = self._ids.get(piece)
            ids += [FIRST_BYTE + byte for byte in piece] if known is None else [known]
        return self._merged(ids)

    def decode(self, tokens: Iterable[int]) -> str:
        """What llama2.c prints: no space after BOS, nor at the beginning of all."""
        parts, begins = [], True
        for token in tokens:
            piece = self.token_bytes(token)
            parts.append(piece.removeprefix(b' ') if begins else piece)
            begins = token == BOS
        return b''.join(parts).decode('utf-8', 'replace')

    def _merged(self, ids: list[int]) -> list[int]:
        """The ids after all merges: a heap of pairs over a linked list of ids."""
        after = [*range(1, len(ids)), -1]
        before = [*range(-1, len(ids) - 1)]
        pairs: list[tuple[float, int, int, int, int]] = []

        def offer(left: int) -> None:
            right = after[left]
            a, b = self.entries[ids[left]][1], self.entries[ids[right]][1]
            token = self._ids.get(a + b)
            if token is not None and self.entries[token][0] > LOWEST:
                score = -self.entries[token][0]
                heapq.heappush(pairs, (score, left, ids[left], ids[right], token))

        for left in range(len(ids) - 1):
            offer(left)
        while pairs:
            _, left, a, b, token = heapq.heappop(pairs)
            right = after[left]
            if ids[left] != a or right < 0 or ids[right] != b:
                continue  # one of the two has been merged since
            ids[left], ids[right] = token, -1
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
                offer(left)
            if before[left] >= 0:
                offer(before[left])
        return [token for token in ids if token >= 0]


def parse(data: bytes) -> list[tuple[float, bytes]]:
    """The score and the string of each id; UserError for damaged content."""
    if len(data) < 4:
        raise _damaged(f'it has {len(data)} bytes')
    (longest,) = struct.unpack_from('<i', data)
    place = 4
    entries: list[tuple[float, bytes]] = []
    while place < len(data):
        if place + 8 > len(data):
            raise _damaged(f'id {len(entries)} is cut off')
        score, length = struct.unpack_from('<fi', data, place)
        place += 8
        if not 0 <= length <= min(longest, LONGEST) or place + length > len(data):
            raise _damaged(f'the string of id {len(entries)} has {length} bytes')
        if not abs(score) < float('inf'):
            raise _damaged(f'the score of id {len(entries)} is {score}')
        entries.append((score, data[place : place + length]))
        place += length
    named = [f'<0x{byte:02X}>'.encode() for byte in range(256)]
    if [piece for _, piece in entries[FIRST_BYTE:FIXED]] != named:
        raise _damaged(f'ids {FIRST_BYTE} to {FIXED - 1} are not the 256 bytes')
    return entries


def written(entries: Sequence[tuple[float, bytes]]) -> bytes:
    """The content of the file that `parse` gives these entries of."""
    longest = max((len(piece) for _, piece in entries), default=0)
    parts = [struct.pack('<fi', score, len(piece)) + piece for score, piece in entries]
    return struct.pack('<i', longest) + b''.join(parts)


def _said(token: int, piece: bytes) -> bytes:
    """What an id stands for in text."""
    if token < FIRST_BYTE:
        return b''
    if token < FIXED:
        return bytes([token - FIRST_BYTE])
    return piece


def _damaged(reason: str) -> command.UserError:
    return command.UserError(
        f'{FILE} is not a tokenizer of llama2.c ({reason}); get it again.'
    )
