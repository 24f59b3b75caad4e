"""Tokenizers of others that the tokenizers library runs.

Their pipeline stands in `tokenizer.json`, or is built from the older files of BERT,
RoBERTa and BART. Byte-level BPE (RoBERTa, Llama 3, Qwen) loses nothing of a text, apart
from what a normalizer takes; SentencePiece-like ones put a space before it; WordPiece
(BERT) drops white space, case and accents: its `decode` reads alike, no more.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import json
from pathlib import Path
import re
from typing import Any

import tokenizers

from gptjax import command
from gptjax.text import gpt2, pipelines, settings, tokenizer

PIPELINE = 'tokenizer.json'
FILES = (PIPELINE, pipelines.WORDS, pipelines.VOCAB, pipelines.MERGES, *settings.FILES)
# A saved tokenizer has a tokenizer.json of its own, so that theirs are saved as this.
PREFIX = 'huggingface.'
_BYTE = re.compile(r'<0x([0-9A-F]{2})>')


class HuggingFace(tokenizer.ByteTable):
    """The tokenizer of `files`, by the names that they have in a folder of others.

    Either tokenizer.json, or vocab.txt, or vocab.json and merges.txt; the others of
    FILES where there are any. Raises UserError for files that are damaged or do not
    belong together.
    """

    name = 'huggingface'

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.theirs = {name: files[name] for name in FILES if name in files}
        found = settings.read(self.theirs)
        self._library = _library(self.theirs, found)
        described = json.loads(self._library.to_str())
        ids = self._library.get_vocab(with_added_tokens=True)
        if not ids or max(ids.values()) >= len(ids) + settings.HOLES:
            raise settings.damaged(PIPELINE, 'its ids are not those of a vocabulary')
        control, words = settings.control(found, ids)
        added = {entry['id']: entry for entry in described['added_tokens']}
        special = {e['content']: i for i, e in added.items() if e['special']}
        pieces = [b''] * (max(ids.values()) + 1)
        to_bytes = _writing(described)
        unknown = ids.get(words.get('unk_token', ''))
        silent = {*special.values(), *control.values()} - {unknown}
        for word, token in ids.items():
            # What is added is spelled as it is; the others as the pipeline writes them.
            plain = token in added and token != unknown
            pieces[token] = word.encode() if plain else to_bytes(word)
        for token in silent:
            pieces[token] = b''
        saved = {PREFIX + name: content for name, content in self.theirs.items()}
        super().__init__(pieces, control, saved)
        self.special = special
        self.ends = settings.ends(found, control, len(pieces))
        self.words, self.template = words, found.template
        self._library.encode_special_tokens = True
        self._rendered: tokenizers.Tokenizer | None = None
        try:
            self._surround(found)
        except BaseException as error:
            raise _fault(error) from error

    def _surround(self, found: settings.Settings) -> None:
        """Finds what the pipeline puts around a text and before it."""
        self._library.encode('\U0010ffff')  # some only then miss their unknown token
        bare = self._library.encode('a', add_special_tokens=False).ids
        whole = self._library.encode('a', add_special_tokens=True).ids
        starts = [
            i
            for i in range(len(whole) - len(bare) + 1)
            if whole[i : i + len(bare)] == bare
        ]
        if not bare or not starts:
            raise ValueError(f"'a' gives {bare} bare, and {whole} as a whole")
        self.prefix = tuple(whole[: starts[0]])
        self.suffix = tuple(whole[starts[0] + len(bare) :])
        if not self.prefix and found.config.get('add_bos_token') is True:
            self.prefix = (self.control[tokenizer.BEGIN],)
        self.dummy_prefix = self.token_bytes(bare[0]).startswith(b' ')
        end = self.between
        if (self.prefix, self.suffix) == ((self.control[tokenizer.BEGIN],), end):
            pair = self._library.encode('a', 'a', add_special_tokens=True).ids
            between = pair[len(whole) - 1 : -1 - len(bare)]
            if pair == [*whole[:-1], *between, *bare, *end]:
                self.between = tuple(between)

    @classmethod
    def make(
        cls, texts: Callable[[], Iterable[str]], *, path: str | Path
    ) -> 'HuggingFace':
        """The tokenizer of a folder with the files of others; no text is read."""
        return cls(settings.gather(Path(path), FILES))

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> 'HuggingFace':
        """The tokenizer of saved files; UserError where they are damaged."""
        return cls({name.removeprefix(PREFIX): files[name] for name in files})

    @property
    def pipeline(self) -> str:
        """The whole pipeline as the content of a tokenizer.json."""
        return self._library.to_str()

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with nothing around it; UserError for a lone surrogate."""
        tokenizer.utf8(text)
        return self._library.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores."""
        for text in texts:
            tokenizer.utf8(text)
        found = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [one.ids for one in found]

    def encode_special(self, text: str) -> list[int]:
        """The ids of a rendered template: spellings in `special` are control tokens."""
        tokenizer.utf8(text)
        if self._rendered is None:
            self._rendered = _library(self.theirs, settings.read(self.theirs))
        return self._rendered.encode(text, add_special_tokens=False).ids


def _library(
    files: Mapping[str, bytes], found: settings.Settings
) -> tokenizers.Tokenizer:
    try:
        if PIPELINE in files:
            made = tokenizers.Tokenizer.from_buffer(files[PIPELINE])
        elif pipelines.WORDS in files:
            made = pipelines.wordpiece(files, found)
        elif pipelines.VOCAB in files and pipelines.MERGES in files:
            made = pipelines.byte_bpe(files, found)
        else:
            raise command.UserError(
                f'there is no {PIPELINE}, no {pipelines.WORDS}, and no '
                f'{pipelines.VOCAB} with {pipelines.MERGES}; a tokenizer of others is '
                f'one of these.'
            )
        made.no_truncation()
        made.no_padding()
    except command.UserError:
        raise
    except BaseException as error:
        raise _fault(error) from error
    return made


def _fault(error: BaseException) -> BaseException:
    """What to raise: the library panics, beneath Exception, on some damaged files."""
    if isinstance(error, KeyboardInterrupt | SystemExit | command.UserError):
        return error
    return settings.damaged(PIPELINE, error)


def _writing(described: Mapping[str, Any]) -> Callable[[str], bytes]:
    """How the pipeline writes bytes into tokens, told by its decoder and model."""
    kinds = {
        part.get('type')
        for stage in ('decoder', 'pre_tokenizer')
        for part in stages(described.get(stage))
    }
    if 'ByteLevel' in kinds:
        written = gpt2.printable()
        return lambda word: (
            bytes(written[c] for c in word)
            if all(c in written for c in word)
            else word.encode()
        )
    model = described['model']
    if model.get('type') == 'WordPiece':
        mark = model.get('continuing_subword_prefix') or '##'
        return lambda word: (
            word.removeprefix(mark) if word.startswith(mark) else f' {word}'
        ).encode()
    return _spoken


def _spoken(word: str) -> bytes:
    """SentencePiece's writing: U+2581 is a space, <0x0A> a byte."""
    byte = _BYTE.fullmatch(word)
    return bytes.fromhex(byte[1]) if byte else word.replace('\u2581', ' ').encode()


def stages(stage: Any) -> list[Mapping[str, Any]]:
    """The stages of a sequence, or the one stage, as a list."""
    if not isinstance(stage, dict):
        return []
    for inner in ('normalizers', 'pretokenizers', 'decoders'):
        if inner in stage:
            return [part for one in stage[inner] for part in stages(one)]
    return [stage]
