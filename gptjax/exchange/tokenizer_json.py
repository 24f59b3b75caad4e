"""Our tokenizers as pipelines of the tokenizers library, with equal ids.

Ours that keep every space have the space itself in their pieces, where SentencePiece
writes U+2581: a real U+2581 then falls back to its bytes, as it does with us.
"""

from collections.abc import Mapping, Sequence
import re

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from gptjax import command
from gptjax.text import bytes as byte_level
from gptjax.text import gpt2, llama2c, proto
from gptjax.text import sentencepiece as own
from gptjax.text import tokenizer as text_tokenizer

Merges = list[tuple[str, str]]


def of_bytes(made: byte_level.Bytes) -> tokenizers.Tokenizer:
    """A byte-level BPE without merges: ids 0 to 255 are the bytes."""
    vocab = gpt2.printable()
    return _finished(_byte_level(vocab, [], words=False), made)


def of_gpt2(made: gpt2.GPT2) -> tokenizers.Tokenizer:
    """GPT-2's: its words, merges and ids."""
    merges = [tuple(line.split(' ')) for line in made.merges]
    written = {byte: character for character, byte in gpt2.printable().items()}
    vocab = {}
    for token in range(made.vocab_size):
        piece = made.token_bytes(token)
        if piece:
            vocab[''.join(written[byte] for byte in piece)] = token
    return _finished(_byte_level(vocab, [(a, b) for a, b in merges], words=True), made)


def of_llama2c(made: llama2c.Llama2C) -> tokenizers.Tokenizer:
    """llama2.c's: a space first, then merges by score."""
    entries = [(piece.decode(), score) for score, piece in made.entries]
    entries[:3] = [('<unk>', 0.0), ('<s>', 0.0), ('</s>', 0.0)]
    vocab = {piece: token for token, (piece, _) in reversed([*enumerate(entries)])}
    scores = dict(entries[llama2c.FIXED :])
    built = _merging(vocab, scores)
    built.normalizer = normalizers.Prepend(' ')
    built.decoder = decoders.Sequence([*_spoken(), decoders.Strip(' ', 1, 0)])
    return _finished(built, made)


def of_own(made: own.SentencePiece) -> tokenizers.Tokenizer:
    """Our SentencePiece models: no normalizer, and nothing is cut before the model."""
    model = proto.model(made.files[own.FILE])
    pieces = [
        (piece.replace(own.SPACE, ' ') if kind == proto.NORMAL else piece, score, kind)
        for piece, score, kind in model.pieces
    ]
    built = _pieces(model, pieces)
    built.decoder = decoders.Sequence(_spoken())
    return _finished(built, made)


def of_published(
    made: text_tokenizer.Tokenizer, model: proto.Model
) -> tokenizers.Tokenizer:
    """A SentencePiece model of others, its normalizer included."""
    built = _pieces(model, model.pieces)
    steps: list[normalizers.Normalizer] = []
    if model.characters:
        steps.append(normalizers.Precompiled(model.characters))
    if model.remove_extra_spaces:
        # The library takes spaces away at the end once it has written them as U+2581.
        steps.append(
            normalizers.Replace(tokenizers.Regex(rf'\A +|[ {own.SPACE}]+\z'), '')
        )
        steps.append(normalizers.Replace(tokenizers.Regex(' {2,}'), ' '))
    if model.dummy_prefix:
        steps.append(normalizers.Prepend(own.SPACE))
    steps.append(normalizers.Replace(' ', own.SPACE))
    built.normalizer = normalizers.Sequence(steps)
    ending = [decoders.Strip(' ', 1, 0)] if made.dummy_prefix else []
    built.decoder = decoders.Sequence(
        [decoders.Replace(own.SPACE, ' '), *_spoken(), *ending]
    )
    return _finished(built, made)


def _byte_level(
    vocab: Mapping[str, int], merges: Merges, words: bool
) -> tokenizers.Tokenizer:
    built = tokenizers.Tokenizer(models.BPE(dict(vocab), merges))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=words
    )
    built.decoder = decoders.ByteLevel()
    return built


def _pieces(
    model: proto.Model, pieces: Sequence[tuple[str, float, int]]
) -> tokenizers.Tokenizer:
    """The pipeline's model for (piece, score, type) of each id."""
    spoken = (proto.NORMAL, proto.USER_DEFINED)
    if model.kind == proto.UNIGRAM:
        return _likeliest(model, pieces, spoken)
    vocab = {piece: token for token, (piece, _, _) in enumerate(pieces)}
    learned = {piece: score for piece, score, kind in pieces if kind in spoken}
    if model.kind == proto.CHAR:
        learned = {}
    elif model.kind != proto.BPE:
        raise command.UserError(
            'the SentencePiece model is of words, which transformers has no pipeline '
            'for; export a model of another type.'
        )
    return _merging(vocab, learned, model.byte_fallback)


def _likeliest(
    model: proto.Model, pieces: Sequence[tuple[str, float, int]], spoken: Sequence[int]
) -> tokenizers.Tokenizer:
    """Unigram, which would find the spelling of a byte or a control token in text.

    Such a spelling is therefore cut after its first character.
    """
    scored = [(piece, score) for piece, score, _ in pieces]
    unknown = [kind for *_, kind in pieces].index(proto.UNKNOWN)
    built = tokenizers.Tokenizer(
        models.Unigram(scored, unknown, byte_fallback=model.byte_fallback)
    )
    silent = [piece for piece, _, kind in pieces if kind not in spoken]
    ends: dict[str, list[str]] = {}
    for piece in silent:
        if len(piece) > 1:
            ends.setdefault(piece[0], []).append(re.escape(piece[1:]))
    pattern = '|'.join(
        f'{re.escape(first)}(?={"|".join(rest)})' for first, rest in ends.items()
    )
    if pattern:
        built.pre_tokenizer = pre_tokenizers.Split(
            tokenizers.Regex(pattern), 'merged_with_previous'
        )
    return built


def _merging(
    vocab: Mapping[str, int], scores: Mapping[str, float], byte_fallback: bool = True
) -> tokenizers.Tokenizer:
    """BPE by scores: each way to cut a piece into two is a merge of its score."""
    merges: Merges = []
    # Stable, and the longest left half first: of equals, the first in the text merges.
    for piece in sorted(scores, key=lambda piece: -scores[piece]):
        cuts = ((piece[:i], piece[i:]) for i in range(len(piece) - 1, 0, -1))
        merges += [(a, b) for a, b in cuts if a in scores and b in scores]
    return tokenizers.Tokenizer(
        models.BPE(
            dict(vocab),
            merges,
            unk_token='<unk>',
            fuse_unk=True,
            byte_fallback=byte_fallback,
        )
    )


def _spoken() -> list[decoders.Decoder]:
    return [decoders.ByteFallback(), decoders.Fuse()]


def _finished(
    built: tokenizers.Tokenizer, made: text_tokenizer.Tokenizer
) -> tokenizers.Tokenizer:
    """With the control tokens, and what stands around a text. Checks all ids."""
    names = sorted(made.special, key=made.special.__getitem__)
    built.add_special_tokens(
        [tokenizers.AddedToken(name, special=True, normalized=False) for name in names]
    )
    moved = [name for name in names if built.token_to_id(name) != made.special[name]]
    if moved or built.get_vocab_size() != made.vocab_size:
        raise command.UserError(
            f'the tokenizer has {made.vocab_size} ids, and {moved or "others"} cannot '
            f'have theirs in a tokenizer.json.'
        )
    put_around(built, made, made.prefix, made.suffix)
    return built


def put_around(
    built: tokenizers.Tokenizer,
    made: text_tokenizer.Tokenizer,
    prefix: Sequence[int],
    suffix: Sequence[int],
) -> None:
    """Lets the pipeline put control tokens before and after every text."""
    if not prefix and not suffix:
        return
    spelled = {token: name for name, token in made.special.items()}
    before = [f'{spelled[token]}:0' for token in prefix]
    after = [f'{spelled[token]}:0' for token in suffix]
    around = dict.fromkeys([*prefix, *suffix])
    built.post_processor = processors.TemplateProcessing(
        single=[*before, '$A:0', *after],
        pair=[*before, '$A:0', *after, *before, '$B:0', *after],
        special_tokens=[(spelled[token], token) for token in around],
    )
