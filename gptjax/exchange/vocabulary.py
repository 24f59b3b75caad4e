"""Tokenizers as llama.cpp has them: pieces with their kinds, and scores or merges.

'llama' is BPE over characters where the pair with the best score merges first, a space
written as U+2581; 'gpt2' is BPE over bytes, written as printable characters, with a
list of merges and one of the patterns that llama.cpp knows by name.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import re
from typing import Any

from gptjax import command
from gptjax.text import bytes as byte_level
from gptjax.text import gpt2, huggingface, llama2c, proto, spm, tokenizer
from gptjax.text import sentencepiece as own

NORMAL, UNKNOWN, CONTROL = proto.NORMAL, proto.UNKNOWN, proto.CONTROL
USER_DEFINED, UNUSED, BYTE = proto.USER_DEFINED, proto.UNUSED, proto.BYTE
# The split patterns of published tokenizers, as their tokenizer.json writes them.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
PATTERNS = {
    _WORDS + r'\p{N}{1,3}' + _REST: 'llama-bpe',
    _WORDS + r'\p{N}' + _REST: 'qwen2',
}
_BYTE = re.compile(r'<0x[0-9A-F]{2}>')


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What a tokenizer is to llama.cpp; one piece and kind for each id of the model."""

    model: str  # 'llama' or 'gpt2'
    pre: str
    pieces: tuple[str, ...]
    kinds: tuple[int, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()


def of(tokens: tokenizer.Tokenizer, V: int) -> Vocabulary:
    """The vocabulary of a model with V rows; rows beyond the tokenizer are unused.

    Raises UserError for a tokenizer that llama.cpp has no equal of.
    """
    if tokens.vocab_size > V:
        raise command.UserError(
            f'the tokenizer has {tokens.vocab_size} ids, and the model {V}; take model '
            'and tokenizer from one workdir.'
        )
    made = _of(tokens)
    rest = range(len(made.pieces), V)
    return dataclasses.replace(
        made,
        pieces=(*made.pieces, *(f'[PAD{token}]' for token in rest)),
        kinds=made.kinds + (UNUSED,) * len(rest),
        scores=made.scores + (0.0,) * len(rest) if made.scores else (),
    )


def _of(tokens: tokenizer.Tokenizer) -> Vocabulary:
    match tokens:
        case llama2c.Llama2C():
            return _llama2c(tokens.entries)
        case spm.SPM():
            return _sentencepiece(tokens, tokens.files[spm.MODEL])
        case own.SentencePiece():
            return _sentencepiece(tokens, tokens.files[own.FILE])
        case gpt2.GPT2():
            return _gpt2(tokens)
        case huggingface.HuggingFace():
            return _huggingface(tokens)
        case byte_level.Bytes():
            raise _unlike('it has no merges')
        case _:
            raise _unlike(f'{tokens.name!r} is not known to it')


def _llama2c(entries: Sequence[tuple[float, bytes]]) -> Vocabulary:
    pieces, kinds = ['<unk>', '<s>', '</s>'], [UNKNOWN, CONTROL, CONTROL]
    for token, (_, piece) in enumerate(entries[3:], 3):
        pieces.append(piece.decode('utf-8', 'replace').replace(' ', own.SPACE))
        kinds.append(BYTE if token < llama2c.FIXED else NORMAL)
    scores = tuple(score for score, _ in entries)
    return Vocabulary('llama', 'default', tuple(pieces), tuple(kinds), scores)


def _sentencepiece(tokens: tokenizer.Tokenizer, data: bytes) -> Vocabulary:
    model = proto.model(data)
    if model.kind not in (proto.BPE, proto.CHAR):  # of characters: nothing merges
        raise _unlike("it is of SentencePiece's unigram kind, not BPE")
    pieces, scores, kinds = map(list, zip(*model.pieces, strict=True))
    added = {token: piece for piece, token in tokens.special.items()}
    for token in range(len(pieces), tokens.vocab_size):
        pieces.append(added.get(token, f'[PAD{token}]'))
        kinds.append(CONTROL if token in added else UNUSED)
        scores.append(0.0)
    return Vocabulary('llama', 'default', tuple(pieces), tuple(kinds), tuple(scores))


def _gpt2(tokens: gpt2.GPT2) -> Vocabulary:
    encoder = json.loads(tokens.files[gpt2.ENCODER])
    pieces = {token: piece for piece, token in encoder.items()}
    pieces |= {token: name for name, token in tokens.control.items()}
    control = set(tokens.control.values())
    ids = range(tokens.vocab_size)
    return Vocabulary(
        'gpt2',
        'gpt-2',
        tuple(pieces[token] for token in ids),
        tuple(CONTROL if token in control else NORMAL for token in ids),
        merges=tokens.merges,
    )


def _huggingface(tokens: huggingface.HuggingFace) -> Vocabulary:
    described = json.loads(tokens.pipeline)
    model = described['model']
    if model.get('type') != 'BPE':
        raise _unlike(f'its kind is {model.get("type")}')
    before = huggingface.stages(described.get('normalizer'))
    stages = huggingface.stages(described.get('pre_tokenizer'))
    pairs = [
        tuple(pair.split(' ', 1) if isinstance(pair, str) else pair)
        for pair in model['merges']
    ]
    pieces, kinds = _pieces(tokens, described)
    if any(stage['type'] == 'ByteLevel' for stage in stages):
        # llama.cpp leaves out NFC, which Qwen has, and which changes little text.
        if any(stage['type'] != 'NFC' for stage in before):
            raise _unlike('it changes text before it cuts it')
        merges = tuple(' '.join(pair) for pair in pairs)
        pre = _pattern(stages, model)
        return Vocabulary('gpt2', pre, pieces, kinds, merges=merges)
    if not model.get('byte_fallback'):
        raise _unlike('it is BPE of neither bytes nor characters with bytes')
    _check_spaces(before, stages)
    spelled = tuple(
        BYTE if kind == NORMAL and _BYTE.fullmatch(piece) else kind
        for piece, kind in zip(pieces, kinds, strict=True)
    )
    return Vocabulary(
        'llama',
        'default',
        tuple(piece.replace(' ', own.SPACE) for piece in pieces),
        spelled,
        _scores(pieces, [''.join(pair) for pair in pairs]),
    )


def _check_spaces(
    before: Sequence[Mapping[str, Any]], stages: Sequence[Mapping[str, Any]]
) -> None:
    """Raises UserError where more happens to a text than a space before it."""
    for stage in before:
        replaced = stage.get('pattern'), stage.get('content')
        spaces = stage['type'] == 'Replace' and replaced == ({'String': ' '}, own.SPACE)
        if not spaces and stage['type'] != 'Prepend':
            raise _unlike('it changes text before it cuts it')
    if any(stage['type'] != 'Metaspace' for stage in stages):
        raise _unlike('it cuts text by a pattern that llama.cpp has no name for')


def _pieces(
    tokens: huggingface.HuggingFace, described: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    added = {entry['id']: entry for entry in described['added_tokens']}
    written = {token: piece for piece, token in described['model']['vocab'].items()}
    unknown = described['model'].get('unk_token')
    pieces, kinds = [], []
    for token in range(tokens.vocab_size):
        piece, kind = written.get(token), NORMAL
        if token in added:
            piece = added[token]['content']
            kind = CONTROL if added[token]['special'] else USER_DEFINED
        elif piece is None:
            piece, kind = f'[PAD{token}]', UNUSED
        if piece == unknown:
            kind = UNKNOWN
        pieces.append(piece)
        kinds.append(kind)
    return tuple(pieces), tuple(kinds)


def _scores(pieces: Sequence[str], merged: Sequence[str]) -> tuple[float, ...]:
    """Scores that merge in the order of a list: the earlier, the higher."""
    ranks = {piece: rank for rank, piece in reversed([*enumerate(merged)])}
    return tuple(float(-ranks.get(piece, len(merged))) for piece in pieces)


def _pattern(stages: Sequence[Mapping[str, Any]], model: Mapping[str, Any]) -> str:
    """llama.cpp's name of how a tokenizer cuts text into words."""
    levels = [stage for stage in stages if stage['type'] == 'ByteLevel']
    if any(stage.get('add_prefix_space') for stage in levels):
        raise _unlike('it puts a space before a text')
    splits = [stage for stage in stages if stage['type'] == 'Split']
    if len(stages) == 1 and levels[0].get('use_regex', True):
        return 'gpt-2'
    pattern = None
    if len(splits) == 1 and splits[0]['behavior'] == 'Isolated':
        pattern = splits[0]['pattern'].get('Regex')
    name = PATTERNS.get(pattern or '')
    known = len(stages) == 2 and name is not None and not levels[0].get('use_regex')
    # By that name llama.cpp looks a whole word up before it merges, as Llama 3 does.
    if not known or bool(model.get('ignore_merges')) != (name == 'llama-bpe'):
        raise _unlike('it cuts text by a pattern that llama.cpp has no name for')
    return str(name)


def _unlike(reason: str) -> command.UserError:
    return command.UserError(
        f'llama.cpp has no tokenizer like this one: {reason}; export the model with '
        '--format=huggingface.'
    )
