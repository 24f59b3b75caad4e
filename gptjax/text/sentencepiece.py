"""SentencePiece (Kudo & Richardson, 2018), set up so that it loses nothing.

No normalization, no added or removed spaces, and bytes for characters that the model
has not learned. The library writes a space as U+2581 and could not tell the two apart,
so a real U+2581 is encoded as its three bytes. A newline is a letter like any other:
pieces such as ':\\n' save 1 to 10 % of the tokens of unseen prose and Python docs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import io
import re

import sentencepiece

from gptjax import command
from gptjax.text import proto, tokenizer

MODEL_TYPES = ('bpe', 'unigram', 'char')
# The control tokens, the 256 bytes and the `<unk>` that the library insists on.
FIXED = len(tokenizer.CONTROL) + 256 + 1
# On two cores, 8.5 million characters of Python source take BPE 1.5 s, unigram 28 s.
SAMPLE_CHARACTERS = 16_000_000
# The trainer skips a sentence above a number of bytes, at most four a character.
CHUNK_CHARACTERS = 8_192
# Sums of floats depend on how many threads share them: one number for all machines.
TRAINING_THREADS = 8

FILE = 'sentencepiece.model'
SPACE = '\u2581'
# The trainer keeps these for itself, and skips or mistakes text that holds them.
RESERVED = re.compile(f'[\0{SPACE}\u2585]')


class SentencePiece(tokenizer.ByteTable):
    """A trained model; `vocab_size` counts all ids, also `<unk>`, which never occurs.

    Raises UserError for a model that is none or lacks control tokens or bytes.
    """

    name = 'sentencepiece'

    def __init__(self, model: bytes) -> None:
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, UnicodeError) as error:  # of its message, at times
            raise command.UserError(
                f'{FILE} is not a SentencePiece model ({error}); train it again.'
            ) from error
        kinds = {piece: kind for piece, _, kind in proto.model(model).pieces}
        needed = dict.fromkeys(tokenizer.CONTROL, proto.CONTROL)
        needed |= dict.fromkeys(map(_byte_name, range(256)), proto.BYTE)
        lacking = [name for name, kind in needed.items() if kinds.get(name) != kind]
        if lacking:
            raise command.UserError(
                f'the SentencePiece model has no {lacking[0]}: every byte and every '
                f"control token needs an id; train one with name='sentencepiece'."
            )
        names = [*tokenizer.CONTROL]
        if kinds.get(tokenizer.MASK) == proto.CONTROL:
            names.append(tokenizer.MASK)
        control = {name: self._model.piece_to_id(name) for name in names}
        ids = range(self._model.get_piece_size())
        pieces = [piece_bytes(self._model, token) for token in ids]
        super().__init__(pieces, control, {FILE: model})
        self._space = [
            self._model.piece_to_id(_byte_name(byte)) for byte in SPACE.encode()
        ]

    @classmethod
    def make(
        cls,
        texts: Callable[[], Iterable[str]],
        *,
        model_type: str,
        vocab_size: int,
        mask: bool = False,
    ) -> 'SentencePiece':
        """Trains on documents: the same documents and options give the same bytes.

        model_type: 'bpe' (merges the most frequent pairs), 'unigram' (prunes to the
            most likely pieces) or 'char' (the most frequent characters).
        vocab_size: all ids, the control tokens and bytes included; a text too small for
            so many gives fewer.
        mask: whether `<|mask|>` is a control token too, for masked language models.

        Raises UserError for no text, or a vocabulary too small for its characters.
        """
        if model_type not in MODEL_TYPES:
            known = command.did_you_mean(model_type, MODEL_TYPES)
            raise command.UserError(f'unknown model_type {model_type!r}; {known}')
        if vocab_size <= FIXED:
            raise command.UserError(
                f'tokenizer.vocab_size is {vocab_size}, of which {FIXED} are bytes and '
                f'control tokens; set it to 512 or more.'
            )
        sample = _sample(texts())
        if not sample:
            raise command.UserError(
                'the tokenizer has no text to train on; the corpus is empty.'
            )
        control = (*tokenizer.CONTROL, tokenizer.MASK) if mask else tokenizer.CONTROL
        return cls(_train(sample, model_type, vocab_size, control))

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> 'SentencePiece':
        """The tokenizer of saved files; UserError where the model is not among them."""
        return cls(tokenizer.file(files, FILE))

    def encode(self, text: str) -> list[int]:
        """The ids of a text; UserError for a lone surrogate."""
        data = tokenizer.utf8(text)
        if SPACE in text:
            return self._joined(map(self._model.encode, data.split(SPACE.encode())))
        return self._model.encode(data)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores."""
        split = [tokenizer.utf8(text).split(SPACE.encode()) for text in texts]
        parts = iter(self._model.encode([part for parts in split for part in parts]))
        return [self._joined(next(parts) for _ in some) for some in split]

    def _joined(self, parts: Iterable[list[int]]) -> list[int]:
        """The ids of parts of a text that U+2581 stands between."""
        parts = iter(parts)
        ids = list(next(parts))
        for part in parts:
            ids += self._space
            ids += part
        return ids


def _byte_name(byte: int) -> str:
    return f'<0x{byte:02X}>'


def piece_bytes(model: sentencepiece.SentencePieceProcessor, token: int) -> bytes:
    piece = model.id_to_piece(token)
    if model.is_control(token) or model.is_unknown(token):
        return b''
    if model.is_byte(token):
        return bytes([int(piece[1:-1], base=16)])
    return piece.replace(SPACE, ' ').encode()


def _sample(texts: Iterable[str]) -> list[bytes]:
    """At most SAMPLE_CHARACTERS of the texts, in chunks evenly spread over them."""
    kept: list[str] = []
    size, stride = 0, 1
    for i, chunk in enumerate(_chunks(texts)):
        if i % stride:
            continue
        kept.append(chunk)
        size += len(chunk)
        if size > SAMPLE_CHARACTERS:
            kept, stride = kept[::2], 2 * stride
            size = sum(map(len, kept))
    return [tokenizer.utf8(chunk) for chunk in kept]


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for part in RESERVED.split(text):
            for start in range(0, len(part), CHUNK_CHARACTERS):
                yield part[start : start + CHUNK_CHARACTERS]


def _train(
    sample: Sequence[bytes], model_type: str, vocab_size: int, control: Sequence[str]
) -> bytes:
    """The model as the library writes it: a protocol buffer."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            # A character model drops the rarest at vocab_size; the others may leave
            # some to byte fallback, so that a rare script does not fill the vocabulary.
            character_coverage=1.0 if model_type == 'char' else 0.9995,
            byte_fallback=True,
            normalization_rule_name='identity',
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,  # indentation of code
            control_symbols=list(control),
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            max_sentence_length=4 * CHUNK_CHARACTERS,
            num_threads=TRAINING_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        needed = re.search(r'required_chars\. \d+ vs (\d+)', str(error))
        if needed:
            raise command.UserError(
                f'tokenizer.vocab_size is {vocab_size}, and the characters of this '
                f'text alone need {needed[1]}; set it to well above that.'
            ) from error
        raise command.UserError(
            f'SentencePiece cannot train on this text ({error}); is there enough of it?'
        ) from error
    return model.getvalue()
