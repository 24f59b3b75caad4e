"""Pipelines of the tokenizers library, from the files of before `tokenizer.json`.

BERT's `vocab.txt` has a word piece a line (Devlin et al., 2019); RoBERTa and BART have
the byte-level BPE of GPT-2 with other ids (Liu et al., 2019).
"""

from collections.abc import Mapping
import json

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from gptjax import command
from gptjax.text import settings

WORDS, VOCAB, MERGES = 'vocab.txt', 'vocab.json', 'merges.txt'
BERT = {
    'unk_token': '[UNK]',
    'sep_token': '[SEP]',
    'pad_token': '[PAD]',
    'cls_token': '[CLS]',
    'mask_token': '[MASK]',
}
ROBERTA = {
    'cls_token': '<s>',
    'pad_token': '<pad>',
    'sep_token': '</s>',
    'unk_token': '<unk>',
    'mask_token': '<mask>',
}


def wordpiece(
    files: Mapping[str, bytes], found: settings.Settings
) -> tokenizers.Tokenizer:
    """BERT's: clean, lower case, words and punctuation, longest pieces first."""
    try:
        lines = files[WORDS].decode().split('\n')
    except UnicodeDecodeError as error:
        raise settings.damaged(WORDS, error) from error
    lines = [line.removesuffix('\r') for line in lines]
    if lines and not lines[-1]:
        lines.pop()
    vocab = {line: i for i, line in enumerate(lines)}
    if len(vocab) != len(lines):
        twice = next(line for i, line in enumerate(lines) if vocab[line] != i)
        raise settings.damaged(WORDS, f'{twice!r} is in it twice')
    named = BERT | dict(found.words)
    _check(vocab, named, WORDS)
    accents = found.config.get('strip_accents')
    if accents is not None and not isinstance(accents, bool):
        raise settings.damaged(settings.CONFIG, f'strip_accents is {accents!r}')
    made = tokenizers.Tokenizer(
        models.WordPiece(
            vocab, unk_token=named['unk_token'], max_input_chars_per_word=100
        )
    )
    made.normalizer = normalizers.BertNormalizer(
        lowercase=_flag(found, 'do_lower_case', True),
        strip_accents=accents,
        handle_chinese_chars=_flag(found, 'tokenize_chinese_chars', True),
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    first, last = named['cls_token'], named['sep_token']
    made.post_processor = processors.TemplateProcessing(
        single=f'{first}:0 $A:0 {last}:0',
        pair=f'{first}:0 $A:0 {last}:0 $B:1 {last}:1',
        special_tokens=[(first, vocab[first]), (last, vocab[last])],
    )
    made.add_special_tokens(sorted(set(named.values()), key=vocab.__getitem__))
    return made


def byte_bpe(
    files: Mapping[str, bytes], found: settings.Settings
) -> tokenizers.Tokenizer:
    """RoBERTa's and BART's: `<s>` and `</s>` around byte-level BPE."""
    vocab = settings.numbered(files, VOCAB)
    named = ROBERTA | dict(found.words)
    _check(vocab, named, VOCAB)
    try:
        lines = files[MERGES].decode().split('\n')
    except UnicodeDecodeError as error:
        raise settings.damaged(MERGES, error) from error
    lines = [line for line in lines if line and not line.startswith('#version')]
    pairs = []
    for line in lines:
        left, _, right = line.partition(' ')
        if not {left, right, left + right} <= vocab.keys():
            raise settings.damaged(
                MERGES, f'{line!r} does not merge two tokens of {VOCAB}'
            )
        pairs.append((left, right))
    before = _flag(found, 'add_prefix_space', False)
    made = tokenizers.Tokenizer(models.BPE(vocab, pairs))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=before)
    made.decoder = decoders.ByteLevel()
    first, last = named['cls_token'], named['sep_token']
    made.post_processor = processors.RobertaProcessing(
        (last, vocab[last]), (first, vocab[first]), add_prefix_space=before
    )
    made.add_special_tokens(
        [
            # The space before a mask belongs to it, as transformers has it.
            tokenizers.AddedToken(word, lstrip=word == named['mask_token'])
            for word in sorted(set(named.values()), key=vocab.__getitem__)
        ]
    )
    return made


def _check(vocab: Mapping[str, int], named: Mapping[str, str], file: str) -> None:
    for key, word in named.items():
        if word not in vocab:
            raise command.UserError(
                f'{file} has no {word}, the {key}; name the token that the model has '
                f'for it in {settings.CONFIG}.'
            )


def _flag(found: settings.Settings, key: str, default: bool) -> bool:
    value = found.config.get(key, default)
    if not isinstance(value, bool):
        raise settings.damaged(settings.CONFIG, f'{key} is {json.dumps(value)}')
    return value
