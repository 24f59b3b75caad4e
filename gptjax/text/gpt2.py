"""Byte-level BPE of GPT-2 (Radford et al., 2019), from its two published files.

Text is cut into words by a pattern, and the bytes of each word are merged, the earliest
merge first. `encoder.json` names the ids and `vocab.bpe` lists the merges; both write
bytes as printable characters.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import itertools
import json
import os
from pathlib import Path
import re

import tiktoken

from gptjax import command
from gptjax.text import tokenizer

# The published pattern is
#   's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+
# and this one cuts alike, but gives nothing back of what it has matched.
PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++"
    r'|\s++$|\s+(?!\S)|\s'
)
# Its engine remembers each white-space character of a run that it may give back, and
# fails at a million. Longer runs than this are therefore cut off before they reach it,
# in front of their last character, which is where the pattern cuts them as well.
LONG_RUN = 100_000
_WHITE = '\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000'
LONG_WHITE_SPACE = re.compile(
    f'(?<![{_WHITE}])[{_WHITE}]{{{LONG_RUN},}}(?=[{_WHITE}][^{_WHITE}])'
)

ENCODER, MERGES = 'encoder.json', 'vocab.bpe'
ALSO_CALLED = {ENCODER: 'vocab.json', MERGES: 'merges.txt'}
END = tokenizer.BEGIN
PUBLISHED = (END,)


class GPT2(tokenizer.ByteTable):
    """The merges, `<|endoftext|>` after them, then the other control tokens.

    encoder: the id of each token, `<|endoftext|>` included, bytes written as printable
        characters. merges: pairs of tokens in the same writing, earliest first.
    control: the control tokens; with PUBLISHED, `<|endoftext|>` is the only one, as the
        published model has it, and does not begin a prompt.

    Raises UserError where the files do not belong together.
    """

    name = 'gpt2'

    def __init__(
        self,
        encoder: Mapping[str, int],
        merges: Sequence[str],
        control: Sequence[str] = tokenizer.CONTROL,
    ) -> None:
        self.merges = tuple(merges)
        ranks = _ranks(encoder, merges)
        ids = {name: len(ranks) + i for i, name in enumerate(control)}
        if ids[END] != len(ranks):
            raise command.UserError(
                f'{tokenizer.NAMES} has {END} at {ids[END]}; it must come first.'
            )
        pieces = sorted(ranks, key=ranks.__getitem__)
        by_id = dict(sorted(encoder.items(), key=lambda entry: entry[1]))
        files = {
            ENCODER: json.dumps(by_id).encode(),
            MERGES: '\n'.join(['#version: 0.2', *merges, '']).encode(),
            **tokenizer.names(control),
        }
        super().__init__([*pieces, *(b'' for _ in ids)], ids, files)
        if tuple(control) == PUBLISHED:
            self.prefix = ()
        self._encoding = tiktoken.Encoding(
            'gpt2', pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}
        )

    @classmethod
    def make(cls, texts: Callable[[], Iterable[str]], *, path: str | Path) -> 'GPT2':
        """Reads `encoder.json` and `vocab.bpe` of a folder; the texts are not read.

        The names `vocab.json` and `merges.txt` do as well. Raises UserError for files
        that are missing or damaged.
        """
        files = {}
        for name, other in ALSO_CALLED.items():
            found = [
                Path(path) / n for n in (name, other) if (Path(path) / n).is_file()
            ]
            if not found:
                raise command.UserError(
                    f'{path} holds no {name} (or {other}); tokenizer.path is the '
                    f'folder with the published files of GPT-2.'
                )
            files[name] = found[0].read_bytes()
        return cls.load(files)

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> 'GPT2':
        """The tokenizer of the two files; UserError where they are damaged."""
        try:
            encoder = dict(json.loads(tokenizer.file(files, ENCODER)))
            lines = tokenizer.file(files, MERGES).decode().splitlines()
        except (ValueError, TypeError) as error:
            raise command.UserError(
                f'{ENCODER} or {MERGES} is damaged ({error}); get it again.'
            ) from error
        merges = [line for line in lines if line and not line.startswith('#version')]
        return cls(encoder, merges, tokenizer.named(files))

    def encode(self, text: str) -> list[int]:
        """The ids of a text; UserError for a lone surrogate."""
        tokenizer.utf8(text)
        parts = _parts(text)
        return [i for part in parts for i in self._encoding.encode_ordinary(part)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores."""
        split = [_parts(text) for text in texts]
        for text in texts:
            tokenizer.utf8(text)
        flat = [part for parts in split for part in parts]
        ids = iter(
            self._encoding.encode_ordinary_batch(flat, num_threads=os.cpu_count() or 1)
        )
        return [
            next(ids) if len(parts) == 1 else [i for _ in parts for i in next(ids)]
            for parts in split
        ]


def _parts(text: str) -> list[str]:
    """The text, cut where white space is too long for the pattern engine."""
    if len(text) <= LONG_RUN:
        return [text]
    ends = [found.end() for found in LONG_WHITE_SPACE.finditer(text)]
    return [text[i:j] for i, j in itertools.pairwise([0, *ends, len(text)])]


def printable() -> dict[str, int]:
    """The byte of each of the 256 characters that the files write bytes with.

    A byte that is a visible Latin-1 character is written as that; the others, in order,
    as the characters from U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    written = {chr(byte): byte for byte in visible}
    return written | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _ranks(encoder: Mapping[str, int], merges: Sequence[str]) -> dict[bytes, int]:
    """The id of each byte string: the 256 bytes first, then one for each merge."""
    written = printable()
    try:
        ranks = {
            bytes(written[c] for c in token): rank
            for token, rank in encoder.items()
            if token != END
        }
        merged = [bytes(written[c] for c in pair.replace(' ', '')) for pair in merges]
    except KeyError as error:
        raise command.UserError(
            f'{ENCODER} or {MERGES} holds the character {error}, which stands for no '
            f'byte; get the published file again.'
        ) from error
    count = 256 + len(merges)
    in_order = sorted(ranks.values()) == list(range(count))
    if not in_order or any(ranks.get(b) != 256 + i for i, b in enumerate(merged)):
        raise command.UserError(
            f'{ENCODER} has {len(ranks)} tokens and {MERGES} {len(merges)} merges, and '
            f'they do not belong together: there are 256 bytes, and merge number i '
            f'makes id 256 + i; get both files from one place.'
        )
    if encoder.get(END, count) != count:
        raise command.UserError(
            f'{ENCODER} has {END} at {encoder[END]}; it must follow the merges, at '
            f'{count}.'
        )
    return ranks
