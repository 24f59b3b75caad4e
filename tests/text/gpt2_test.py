import ast
import itertools
import json
import random
import re

import pytest
import regex

from gptjax import command
from gptjax.text import gpt2

PUBLISHED = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)


def _bpe(word, rank):
    """Merges the neighbours of least rank until none merge, as the paper tells it."""
    parts = [bytes([byte]) for byte in word.encode()]
    while len(parts) > 1:
        ranks = [rank.get(a + b, 1e9) for a, b in itertools.pairwise(parts)]
        i = ranks.index(min(ranks))
        if ranks[i] == 1e9:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [rank[part] for part in parts]


def test_ids_follow_the_published_algorithm(tokenizers, hard_texts):
    made = tokenizers['gpt2']
    rank = {made.token_bytes(i): i for i in range(made.vocab_size - 5)}
    for text in [*hard_texts, 'in the  \n\n    hill  ', "  we'll 'tis 12ab  \t x"]:
        words = PUBLISHED.findall(text)
        assert made.encode(text) == [i for word in words for i in _bpe(word, rank)]


def test_control_tokens_follow_the_merges(tokenizers, gpt2_folder):
    encoder = json.loads((gpt2_folder / 'encoder.json').read_text())
    control = tokenizers['gpt2'].control
    assert list(control.values()) == [encoder['<|endoftext|>'] + i for i in range(5)]


def test_white_space_without_end(tokenizers):
    # Above LONG_RUN the text is cut, and at a million the pattern engine would fail.
    encode = tokenizers['gpt2'].encode
    mixed = ''.join(random.Random(0).choices(' \n\t\u3000\x85', k=100_001))
    runs = [mixed, ' ' * 100_000, '\r' * 100_002, '\n' * 99_999, ' \x1c' * 99]
    text = 'a' + 'b'.join(runs) + 'c'
    words = PUBLISHED.findall(text)
    assert max(map(len, words)) >= gpt2.LONG_RUN
    assert encode(text) == [i for word in words for i in encode(word)]
    endless = ' ' * 1_200_000 + 'x'
    expected = encode(' ' * 4) * 299_999 + encode(' ' * 3) + encode(' x')
    assert encode(endless) == expected
    assert tokenizers['gpt2'].encode_batch(['y', endless]) == [encode('y'), expected]


def test_the_other_names_give_the_same_tokenizer(tokenizers, gpt2_folder, tmp_path):
    text = json.dumps(json.loads((gpt2_folder / 'encoder.json').read_text()), indent=1)
    (tmp_path / 'vocab.json').write_text(text)
    (tmp_path / 'merges.txt').write_bytes((gpt2_folder / 'vocab.bpe').read_bytes())
    made = gpt2.GPT2.make(lambda: [], path=str(tmp_path))
    assert made.digest == tokenizers['gpt2'].digest


def test_files_that_do_not_belong_together_are_refused(gpt2_folder):
    encoder = (gpt2_folder / 'encoder.json').read_bytes()
    merges = (gpt2_folder / 'vocab.bpe').read_bytes()
    swapped = merges.replace(b'h e', b'e h')
    for files, message in (
        ({'encoder.json': encoder[:-9], 'vocab.bpe': merges}, 'damaged'),
        ({'encoder.json': b'[3]', 'vocab.bpe': merges}, 'damaged'),
        ({'encoder.json': encoder, 'vocab.bpe': b'\xff'}, 'damaged'),
        ({'encoder.json': encoder, 'vocab.bpe': swapped}, 'do not belong together'),
        ({'encoder.json': encoder, 'vocab.bpe': merges[:-4]}, 'do not belong together'),
        (
            {'encoder.json': encoder.replace(b'"A"', b'" A"'), 'vocab.bpe': merges},
            'stands for no byte',
        ),
        (
            {'encoder.json': encoder.replace(b': 266', b': 299'), 'vocab.bpe': merges},
            'must follow the merges, at 266',
        ),
        ({'vocab.bpe': merges}, r'names no encoder\.json'),
    ):
        with pytest.raises(command.UserError, match=message):
            gpt2.GPT2.load(files)


def test_published_encodings(real_data):
    folder = real_data('gpt2_tokenizer/encoder.json').parent
    made = gpt2.GPT2.make(lambda: [], path=folder)
    assert made.vocab_size == 50261
    assert list(made.control.values()) == [50256, 50257, 50258, 50259, 50260]
    plan = real_data('gpt2_tokenizer/testplans_r50k_dev.txt').read_text()
    cases = re.findall(r'Sample: (.*)\nEncoded: (\[.*\])', plan)
    assert len(cases) == plan.count('EncodingName') > 20
    for text, ids in cases:
        assert made.encode(text) == ast.literal_eval(ids), text
        assert made.decode(ast.literal_eval(ids)) == text
