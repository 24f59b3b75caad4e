"""SentencePiece models of others: `tokenizer.model` of Llama 2, Mistral or T5.

The ids are those of the library. What the model's normalizer changes is lost: a space
is put before a text, and some models join white space and unify characters; one without
bytes has `<unk>` for characters that it has not learned. `decode` takes the space away.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
from pathlib import Path
from typing import Any

import sentencepiece

from gptjax import command
from gptjax.text import proto, settings, tokenizer
from gptjax.text import sentencepiece as own

MODEL = 'tokenizer.model'
FILES = (MODEL, *settings.FILES)
UNKNOWN = ' \u2047 '  # what the library writes for `<unk>`


class SPM(tokenizer.ByteTable):
    """The tokenizer of `files`: tokenizer.model, and what stands beside it.

    Control tokens that `tokenizer_config.json` adds after those of the model are known
    in rendered templates. Raises UserError for files that are damaged or do not fit.
    """

    name = 'spm'

    def __init__(self, files: Mapping[str, bytes]) -> None:
        kept = {name: files[name] for name in FILES if name in files}
        found = settings.read(kept)
        self._model = processor(kept, MODEL)
        size = self._model.get_piece_size()
        pieces = [own.piece_bytes(self._model, token) for token in range(size)]
        added = _added(found.config, size)
        pieces += [b''] * (max(added.values(), default=size - 1) + 1 - size)
        ids = {self._model.id_to_piece(token): token for token in range(size)} | added
        control, words = settings.control(self._named(found), ids)
        for token in control.values():
            pieces[token] = b''
        if self._model.unk_id() not in control.values():
            pieces[self._model.unk_id()] = UNKNOWN.encode()
        super().__init__(pieces, control, kept)
        self.special = added | {
            piece: token
            for piece, token in ids.items()
            if token < size and self._model.is_control(token)
        }
        self.ends = settings.ends(found, control, len(pieces))
        self.words, self.template = words, found.template
        end = control.get(tokenizer.END, control[tokenizer.BEGIN])
        begins = found.config.get('add_bos_token', self._model.bos_id() >= 0)
        self.prefix = (control[tokenizer.BEGIN],) if begins is True else ()
        adds_end = found.config.get('add_eos_token', self._model.bos_id() < 0)
        self.suffix = (end,) if adds_end is True else ()
        self.dummy_prefix = self._model.normalize('a').startswith(own.SPACE)

    def _named(self, found: settings.Settings) -> settings.Settings:
        """The settings, with the model's own names where they name no token."""
        if found.words:
            return found
        ids = {
            'bos_token': self._model.bos_id(),
            'eos_token': self._model.eos_id(),
            'pad_token': self._model.pad_id(),
            'unk_token': self._model.unk_id(),
        }
        words = {
            key: self._model.id_to_piece(token)
            for key, token in ids.items()
            if token >= 0
        }
        return dataclasses.replace(found, words=words)

    @classmethod
    def make(cls, texts: Callable[[], Iterable[str]], *, path: str | Path) -> 'SPM':
        """The model at `path`, or in the folder `path`; no text is read."""
        folder, model = Path(path), Path(path)
        if folder.is_dir():
            model = folder / MODEL
        else:
            folder = folder.parent
        if not model.is_file():
            raise command.UserError(
                f'{path} is no SentencePiece model and holds no {MODEL}; '
                f'tokenizer.path is the model or its folder.'
            )
        files = settings.gather(folder, settings.FILES)
        return cls({MODEL: model.read_bytes(), **files})

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> 'SPM':
        """The tokenizer of saved files; UserError where they are damaged."""
        return cls(files)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with nothing around it; UserError for a lone surrogate."""
        return self._model.encode(tokenizer.utf8(text))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores."""
        return self._model.encode([tokenizer.utf8(text) for text in texts])


def processor(
    files: Mapping[str, bytes], name: str
) -> sentencepiece.SentencePieceProcessor:
    """The library's model of a file; UserError where it is damaged."""
    try:
        made = sentencepiece.SentencePieceProcessor(
            model_proto=tokenizer.file(files, name)
        )
    except (RuntimeError, UnicodeError) as error:  # of its message, at times
        raise settings.damaged(name, error) from error
    proto.model(files[name])  # the library takes pieces that are not UTF-8
    return made


def _added(config: Mapping[str, Any], size: int) -> dict[str, int]:
    """The control tokens that a config adds to a model of `size` pieces."""
    entries = config.get('added_tokens_decoder', {})
    try:
        found = {
            str(entry['content']): int(token)
            for token, entry in entries.items()
            if int(token) >= size
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise settings.damaged(settings.CONFIG, error) from error
    if max(found.values(), default=0) >= size + settings.HOLES:
        raise settings.damaged(settings.CONFIG, f'it adds id {max(found.values())}')
    return found
