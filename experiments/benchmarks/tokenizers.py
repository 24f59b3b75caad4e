"""Tokenizers against independent ones: strings whose ids differ, of 100,000.

Needs the published files of the tokenizers: GPTJAX_DATA names the folder that holds
gpt2_tokenizer, bert_roberta_tokenizer, sentencepiece and stories260K.
"""

from collections.abc import Callable, Iterator, Sequence
import json
import os
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_proto
import tiktoken
import tokenizers

from experiments.benchmarks import _bert, _strings
from gptjax.exchange import tokenizer_json
from gptjax.exchange import tokenizers as exchange
from gptjax.text import gpt2, huggingface, llama2c, proto, spm

COUNT = 100_000
COMMAND = 'make benchmark AREA=tokenizers'
# The pattern as it was published; ours cuts alike by another one.
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# A punctuation mark and an accent of Unicode 14 and 11, which BERT's pipeline in the
# library does not take for such.
NEWER = '\u061d\u07fd'

Encode = Callable[[Sequence[str]], list[list[int]]]
# The name of a pair, how ours encodes, how the other does, and the strings for both.
Pair = tuple[str, Encode, Encode, Sequence[str]]


def measure() -> Iterator[dict[str, Any]]:
    strings = _strings.make(COUNT)
    for name, different in differences(Path(os.environ['GPTJAX_DATA']), strings):
        yield {
            'name': f'{name}, of {COUNT:,}',
            'value': different,
            'goal': 0,
            'direction': 'min',
            'unit': 'strings differ',
            'command': COMMAND,
        }


def differences(data: Path, strings: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The name of each pair, and how many strings have other ids."""
    for pairs in (_gpt2, _roberta, _bert_uncased, _sentencepiece, _llama2c):
        for name, ours, theirs, given in pairs(data, strings):
            different = zip(ours(given), theirs(given), strict=True)
            yield name, sum(a != b for a, b in different)


def _gpt2(data: Path, strings: Sequence[str]) -> Iterator[Pair]:
    folder = data / 'gpt2_tokenizer'
    made = gpt2.GPT2.make(lambda: [], path=folder)
    yield 'GPT-2: tiktoken', made.encode_batch, _tiktoken(folder), strings
    vocab = json.loads((folder / 'encoder.json').read_text())
    del vocab['<|endoftext|>']
    lines = (folder / 'vocab.bpe').read_text().split('\n')[1:]
    pairs = [(a, b) for a, _, b in (line.partition(' ') for line in lines) if b]
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, pairs))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    yield 'GPT-2: tokenizers', made.encode_batch, _library(library), strings


def _tiktoken(folder: Path) -> Encode:
    """tiktoken with the ranks that the two files give: bytes, then merges in order."""
    letters = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in letters]
    byte = {chr(code): bytes([code]) for code in letters}
    byte |= {chr(256 + i): bytes([code]) for i, code in enumerate(others)}
    ranks = {bytes([code]): rank for rank, code in enumerate([*letters, *others])}
    for line in (folder / 'vocab.bpe').read_text().split('\n')[1:]:
        if line:
            ranks[b''.join(byte[c] for c in line if c != ' ')] = len(ranks)
    encoding = tiktoken.Encoding(
        'r50k', pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}
    )
    return lambda texts: encoding.encode_ordinary_batch(list(texts))


def _roberta(data: Path, strings: Sequence[str]) -> Iterator[Pair]:
    folder = data / 'bert_roberta_tokenizer' / 'roberta-base'
    names = ('vocab.json', 'merges.txt')
    files = {name: (folder / name).read_bytes() for name in names}
    made = huggingface.HuggingFace(files)
    library = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
    library.encode_special_tokens = True  # text is text, as it always is with ours
    yield 'RoBERTa: tokenizers', made.encode_batch, _library(library), strings
    published = data / 'gpt2_tokenizer'
    vocab = json.loads(files['vocab.json'])
    encoder = json.loads((published / 'encoder.json').read_text())
    moved = {token: vocab[word] for word, token in encoder.items() if word in vocab}
    ranks = _tiktoken(published)

    def through_gpt2(texts: Sequence[str]) -> list[list[int]]:
        return [[moved[token] for token in ids] for ids in ranks(texts)]

    yield 'RoBERTa: tiktoken', made.encode_batch, through_gpt2, strings


def _bert_uncased(data: Path, strings: Sequence[str]) -> Iterator[Pair]:
    folder = data / 'bert_roberta_tokenizer' / 'bert-base-uncased'
    lines = (folder / 'vocab.txt').read_text().split('\n')
    vocab = {line: i for i, line in enumerate(lines) if line}
    made = exchange.read(folder)

    def reference(texts: Sequence[str]) -> list[list[int]]:
        return [_bert.encode(text, vocab) for text in texts]

    known = [text.replace(NEWER[0], '').replace(NEWER[1], '') for text in strings]
    yield 'BERT: the published algorithm', made.encode_batch, reference, known


def _sentencepiece(data: Path, strings: Sequence[str]) -> Iterator[Pair]:
    for name in ('sentencepiece/test_model.model', 'stories260K/tok512.model'):
        model = (data / name).read_bytes()
        made = spm.SPM({spm.MODEL: model})
        library = sentencepiece.SentencePieceProcessor(model_proto=model)
        title = name.partition('/')[2]
        yield f'{title}: sentencepiece', made.encode_batch, library.encode, strings
    built = tokenizer_json.of_published(made, proto.model(model))
    built.encode_special_tokens = True
    yield 'tok512.model: tokenizers', made.encode_batch, _library(built), strings


def _llama2c(data: Path, strings: Sequence[str]) -> Iterator[Pair]:
    """Against the library, with a model that keeps white space, as llama2.c does.

    The library takes U+2581 for a space; llama2.c does not.
    """
    folder = data / 'stories260K'
    made = llama2c.Llama2C.make(lambda: [], path=folder / 'tok512.bin')
    changed: Any = vars(model_proto)['ModelProto']()
    changed.ParseFromString((folder / 'tok512.model').read_bytes())
    changed.normalizer_spec.remove_extra_whitespaces = False
    library = sentencepiece.SentencePieceProcessor(
        model_proto=changed.SerializeToString()
    )
    plain = [text.replace('\u2581', '') for text in strings]
    yield 'tok512.bin: sentencepiece', made.encode_batch, library.encode, plain


def _library(made: tokenizers.Tokenizer) -> Encode:
    return lambda texts: [
        found.ids
        for found in made.encode_batch_fast(list(texts), add_special_tokens=False)
    ]
