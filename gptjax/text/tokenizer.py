"""What a tokenizer is: every id stands for a byte string, control tokens for none.

A tokenizer is therefore a table of byte strings plus an `encode`. Because bytes are all
that our own ids stand for, `decode(encode(text)) == text` holds for any text (those of
others may lose some of it: each says what), and a control token never comes out of
text: `<|end|>` typed by a user is seven characters like any others.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import hashlib
import json
import os
from pathlib import Path
import re
import types
from typing import Protocol, runtime_checkable

from gptjax import command

CONTROL = ('<|endoftext|>', '<|system|>', '<|user|>', '<|assistant|>', '<|end|>')
BEGIN, ROLES, END = CONTROL[0], CONTROL[1:4], CONTROL[4]
MASK, PAD = '<|mask|>', '<|pad|>'
START = '<|start|>'  # what the decoder of an encoder-decoder begins with
DESCRIPTION = 'tokenizer.json'
NAMES = 'control.json'  # the control tokens, where they are not CONTROL


@runtime_checkable
class Tokenizer(Protocol):
    """The protocol. `digest` is over the saved files: equal digest, equal tokenizer.

    control: ids by our words. '<|endoftext|>', which every tokenizer has, begins a
        document; '<|end|>' ends a turn; the three roles; '<|mask|>'; '<|pad|>';
        '<|start|>' where a decoder begins with another token than a document.
    special: ids by the spelling that a chat template writes them with.
    prefix, suffix: what stands before and after a text when it is a whole input.
    between: what stands between the two texts of a pair.
    ends: the ids that a model ends its answer with.
    dummy_prefix: whether `encode` puts a space before a text, and `decode` takes the
        space before the first piece away.
    template: the chat template in Jinja, '' where chats have our own format.
    words: what a template calls control tokens: {'bos_token': '<s>'}.
    """

    name: str
    vocab_size: int
    control: Mapping[str, int]
    digest: str
    special: Mapping[str, int]
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    between: tuple[int, ...]
    ends: tuple[int, ...]
    dummy_prefix: bool
    template: str
    words: Mapping[str, str]

    def encode(self, text: str) -> list[int]:
        """The ids of a text, never a control id; UserError for a lone surrogate."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`[encode(text) for text in texts]`, in parallel."""
        ...

    def encode_special(self, text: str) -> list[int]:
        """The ids of a rendered template: spellings in `special` are control tokens."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """What an id stands for: bytes, perhaps not UTF-8; b'' for control tokens."""
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of ids: their bytes joined, invalid UTF-8 replaced by U+FFFD."""
        ...

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` and the files it names into `folder`."""
        ...


class ByteTable:
    """What all tokenizers share: the table of byte strings, and how they are kept.

    `pieces[token]` are the bytes of an id and `files` the content of the files that the
    tokenizer is made from, by name.
    """

    name: str

    def __init__(
        self,
        pieces: Sequence[bytes],
        control: Mapping[str, int],
        files: Mapping[str, bytes],
    ) -> None:
        self._pieces = tuple(pieces)
        self._files = dict(files)
        self.vocab_size = len(self._pieces)
        self.control: Mapping[str, int] = types.MappingProxyType(dict(control))
        self.digest = hashlib.sha256(self._description()).hexdigest()
        self.special: Mapping[str, int] = self.control
        self.prefix: tuple[int, ...] = (control[BEGIN],)
        self.suffix: tuple[int, ...] = ()
        self.between: tuple[int, ...] = (control.get(END, control[BEGIN]),)
        self.ends = tuple(control[name] for name in (BEGIN, END) if name in control)
        self.dummy_prefix = False
        self.template = ''
        self.words: Mapping[str, str] = {}

    @property
    def files(self) -> Mapping[str, bytes]:
        """The files that the tokenizer is made from, by name."""
        return types.MappingProxyType(self._files)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; each tokenizer has its own way."""
        raise NotImplementedError

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        return [self.encode(text) for text in texts]

    def encode_special(self, text: str) -> list[int]:
        """The ids of a rendered template: spellings in `special` are control tokens."""
        ids = []
        for part in cut(text, self.special):
            ids += [self.special[part]] if part in self.special else self.encode(part)
        return ids

    def token_bytes(self, token: int) -> bytes:
        """The bytes of an id; UserError where the tokenizer has no such id."""
        if not 0 <= token < self.vocab_size:
            raise command.UserError(
                f'{token} is not an id of this tokenizer, which has 0 to '
                f'{self.vocab_size - 1}; take model and tokenizer from one workdir.'
            )
        return self._pieces[token]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of ids: their bytes joined, invalid UTF-8 replaced by U+FFFD."""
        data = b''.join(map(self.token_bytes, tokens))
        if self.dummy_prefix:
            data = data.removeprefix(b' ')
        return data.decode('utf-8', 'replace')

    def save(self, folder: Path) -> None:
        """Writes the files, then `tokenizer.json`, which holds their digests.

        Each file appears whole or not at all, and `tokenizer.json` comes last, so that
        a save that was killed is seen and can be run again.
        """
        for name, content in self._files.items():
            write(folder / name, content)
        write(folder / DESCRIPTION, self._description())

    def _description(self) -> bytes:
        digests = {
            name: hashlib.sha256(content).hexdigest()
            for name, content in self._files.items()
        }
        described = {'name': self.name, 'files': digests}
        return (json.dumps(described, indent=2, sort_keys=True) + '\n').encode()


def read(folder: Path) -> tuple[str, dict[str, bytes]]:
    """The name of a saved tokenizer and the content of its files.

    Raises UserError where `tokenizer.json` or a file is missing or does not fit.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise command.UserError(
            f'{folder} holds no {DESCRIPTION}; a tokenizer is saved in the folder '
            f'tokenizer/ of a built dataset or a workdir.'
        )
    try:
        description = json.loads(path.read_bytes())
        name, digests = description['name'], dict(description['files'])
        if not isinstance(name, str):
            raise TypeError(f'its name is {name!r}')
    except (ValueError, TypeError, KeyError) as error:
        raise command.UserError(
            f'{path} is damaged ({error}); save the tokenizer again.'
        ) from error
    files = {}
    for file, digest in digests.items():
        try:
            files[file] = (folder / file).read_bytes()
        except OSError as error:
            raise command.UserError(
                f'{path} names {file}, which cannot be read ({error.strerror}); '
                f'save the tokenizer again.'
            ) from error
        if hashlib.sha256(files[file]).hexdigest() != digest:
            raise command.UserError(
                f'{folder / file} is damaged: its sha256 is not the one in '
                f'{DESCRIPTION}; save the tokenizer again.'
            )
    return name, files


def file(files: Mapping[str, bytes], name: str) -> bytes:
    """The content of a saved file; UserError where `tokenizer.json` names no such."""
    if name not in files:
        raise command.UserError(
            f'{DESCRIPTION} names no {name}; save the tokenizer again.'
        )
    return files[name]


def named(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """The control tokens in the order of their ids; CONTROL where no file tells."""
    if NAMES not in files:
        return CONTROL
    try:
        names = json.loads(files[NAMES])
    except ValueError:
        names = None
    known = {*CONTROL, MASK, PAD}
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) and name in known for name in names)
        or BEGIN not in names
        or len(set(names)) != len(names)
    ):
        raise command.UserError(
            f'{NAMES} is damaged: it lists control tokens, {BEGIN} among them; save '
            f'the tokenizer again.'
        )
    return tuple(names)


def names(control: Sequence[str]) -> dict[str, bytes]:
    """The file that `named` reads; none for CONTROL."""
    if tuple(control) == CONTROL:
        return {}
    return {NAMES: json.dumps(list(control)).encode()}


def cut(text: str, spellings: Iterable[str]) -> list[str]:
    """The parts of a text: spellings, the longest first, and what is between them."""
    longest = sorted(spellings, key=len, reverse=True)
    if not longest:
        return [text] if text else []
    parts = re.split('(' + '|'.join(map(re.escape, longest)) + ')', text)
    return [part for part in parts if part]


def utf8(text: str) -> bytes:
    """The text in UTF-8; UserError for a lone surrogate, which is half a character."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise command.UserError(
            f'character {error.start} of the text is the lone surrogate '
            f'{text[error.start]!a}, which is not a character; read the text with '
            f"encoding='utf-8' or remove it."
        ) from error


def write(path: Path, content: bytes) -> None:
    """Writes a file that is seen whole or not at all."""
    with whole(path) as unfinished:
        unfinished.write_bytes(content)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write, which becomes `path` at the end, or vanishes at an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        yield unfinished
        with unfinished.open('rb') as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
