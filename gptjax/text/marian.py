"""Tokenizers of Marian's published translation models (Tiedemann & Thottingal, 2020).

`source.spm` cuts a text into pieces, and `vocab.json` numbers the pieces of both
languages; one that it lacks is `<unk>`. `target.spm` is kept, and not used: a target to
learn from is cut as a source is.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
from pathlib import Path

from gptjax.text import sentencepiece as own
from gptjax.text import settings, spm, tokenizer

VOCAB, SOURCE, TARGET = 'vocab.json', 'source.spm', 'target.spm'
FILES = (VOCAB, SOURCE, TARGET, *settings.FILES)
# What transformers names where the small files name nothing.
WORDS = {'eos_token': '</s>', 'unk_token': '<unk>', 'pad_token': '<pad>'}


class Marian(tokenizer.ByteTable):
    """The tokenizer of `files`, by the names that they have in a folder of others.

    A text may begin with a code such as `>>fra<<`, the language to translate into, as
    models of several languages have them. Raises UserError for damaged files.
    """

    name = 'marian'

    def __init__(self, files: Mapping[str, bytes]) -> None:
        kept = {name: files[name] for name in FILES if name in files}
        found = settings.read(kept)
        ids = settings.numbered(kept, VOCAB)
        self._model = spm.processor(kept, SOURCE)
        spm.processor(kept, TARGET)
        words = WORDS | dict(found.words)
        control, words = settings.control(dataclasses.replace(found, words=words), ids)
        codes = {w: i for w, i in ids.items() if w.startswith('>>') and w[-2:] == '<<'}
        self._unknown = ids[words['unk_token']]
        silent = {*control.values(), *codes.values()}
        self._spoken = {word: i for word, i in ids.items() if i not in silent}
        pieces = [b''] * (max(ids.values()) + 1)
        for word, token in self._spoken.items():
            pieces[token] = word.replace(own.SPACE, ' ').encode()
        pieces[self._unknown] = spm.UNKNOWN.encode()
        super().__init__(pieces, control, kept)
        self._codes = codes
        self.special = codes | {word: ids[word] for word in words.values()}
        self.ends = settings.ends(found, control, len(pieces))
        self.words, self.template = words, found.template
        self.prefix, self.suffix = (), self.between
        self.dummy_prefix = self._model.normalize('a').startswith(own.SPACE)

    @classmethod
    def make(cls, texts: Callable[[], Iterable[str]], *, path: str | Path) -> 'Marian':
        """The tokenizer of a folder with these files; no text is read."""
        return cls(settings.gather(Path(path), FILES))

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> 'Marian':
        """The tokenizer of saved files; UserError where they are damaged."""
        return cls(files)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without `</s>`; UserError for a lone surrogate."""
        tokenizer.utf8(text)
        ids = []
        end = text.find('<<') + 2 if text.startswith('>>') else 0
        if end > 2:
            ids, text = [self._codes.get(text[:end], self._unknown)], text[end:]
        pieces: list[str] = self._model.encode(text, out_type=str)
        return ids + [self._spoken.get(piece, self._unknown) for piece in pieces]
