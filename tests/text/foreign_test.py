"""What tokenizers of others promise: as ours, but that some text does not come back."""

import json

import foreign_tokenizers
import pytest
import sentencepiece
import tokenizers

from experiments.benchmarks import _strings
from experiments.benchmarks import tokenizers as figures
from gptjax import command
from gptjax.text import frames, huggingface, llama2c, marian, proto, spm, stream, table
from gptjax.text import tokenizer as tokenizer_lib

SILENT = ('qwen', 'roberta', 'llama', 'spm', 'llama2c')


def test_ids_are_those_of_independent_tokenizers(real_data):
    data = real_data('gpt2_tokenizer/encoder.json').parents[1]
    found = dict(figures.differences(data, _strings.make(800)))
    assert len(found) == 9
    assert not any(found.values()), found


def test_follows_the_protocol(foreigner, hard_texts):
    assert isinstance(foreigner, tokenizer_lib.Tokenizer)
    assert foreigner.encode_batch([]) == []
    ids = [foreigner.encode(text) for text in hard_texts]
    assert foreigner.encode_batch(hard_texts) == ids
    assert not set(foreigner.control.values()) & {i for one in ids for i in one}
    for text in ('ab\ud83d', '\udc00'):
        with pytest.raises(command.UserError, match='lone surrogate'):
            foreigner.encode_batch(['fine', text])
    with pytest.raises(command.UserError, match='is not an id'):
        foreigner.decode([foreigner.vocab_size])


@pytest.mark.parametrize('kind', SILENT)
def test_text_comes_back(kind, foreign, hard_texts):
    for text in hard_texts:
        if '\u2581' in text and kind in ('llama', 'spm'):
            continue  # it is a space to SentencePiece
        made = foreign[kind]
        assert made.decode(made.encode(text)) == text
        assert made.decode([*made.prefix, *made.encode(text)]) == text


def test_bert_reads_alike(foreign):
    made = foreign['bert']
    ids = made.encode('  The MODEL, and 7 [MASK]s')
    assert made.decode(ids).startswith('the model , and 7 ')
    assert made.decode(made.encode('thee')).replace(' ', '') == 'thee'


def test_saved_and_loaded_it_is_the_same(foreigner, hard_texts, tmp_path):
    foreigner.save(tmp_path)
    loaded = table.load(tmp_path)
    for name in ('digest', 'vocab_size', 'control', 'special', 'prefix', 'suffix'):
        assert getattr(loaded, name) == getattr(foreigner, name), name
    for name in ('ends', 'words', 'template', 'dummy_prefix'):
        assert getattr(loaded, name) == getattr(foreigner, name), name
    assert loaded.encode_batch(hard_texts) == foreigner.encode_batch(hard_texts)


def test_what_begins_and_ends(foreign):
    found = {
        kind: (made.prefix, made.suffix, made.ends) for kind, made in foreign.items()
    }
    qwen = foreign['qwen']
    start, end = qwen.special['<|im_start|>'], qwen.special['<|im_end|>']
    assert found == {
        'roberta': ((0,), (2,), (2,)),
        'qwen': ((), (), (end, start - 1)),
        'bert': ((2,), (3,), (3,)),
        'llama': ((1,), (), (2,)),
        'spm': ((1,), (), (2,)),
        'llama2c': ((1,), (), (1, 2)),
        'marian': ((), (0,), (0,)),
    }
    mask = foreign['roberta'].control['<|mask|>']
    assert foreign['roberta'].encode_special('<mask>') == [mask]
    assert foreign['bert'].control['<|mask|>'] == 4
    assert qwen.control == {'<|endoftext|>': end, '<|pad|>': start - 1}
    assert [kind for kind, made in foreign.items() if made.dummy_prefix] == [
        'bert', 'llama', 'spm', 'llama2c', 'marian',
    ]  # fmt: skip


@pytest.mark.parametrize('name', ['bert-base-uncased', 'roberta-base', 'made'])
def test_pairs_are_framed_as_the_model_learned(name, foreign, real_data):
    if name == 'made':
        made = foreign['roberta']  # from the files of before tokenizer.json
    else:
        path = real_data(f'bert_roberta_tokenizer/{name}')
        made = huggingface.HuggingFace.make(lambda: (), path=path)
    library = tokenizers.Tokenizer.from_str(made.pipeline)
    for pair in (('One sentence.', 'and another'), ('', 'x')):
        whole = library.encode(*pair, add_special_tokens=True)
        ids, types = frames.example(made, *made.encode_batch(pair))
        assert ids == whole.ids
        assert types == [0] * types.count(0) + [1] * types.count(1)
        assert types.count(1) == len(made.encode(pair[1])) + 1
        if name.startswith('bert'):
            assert types == whole.type_ids


@pytest.mark.parametrize('kind', ['qwen', 'llama', 'spm', 'llama2c'])
def test_decoders_keep_their_frame_and_have_one_end_between(kind, foreign):
    made = foreign[kind]
    before, after, end = [*made.prefix], [*made.suffix], frames.end(made)
    assert frames.example(made, [7]) == (
        [*before, 7, *after],
        [0] * (1 + len(before + after)),
    )
    ids, types = frames.example(made, [7], [8, 9])
    assert ids == [*before, 7, end, 8, 9, *after]
    assert types == [0] * (2 + len(before)) + [1] * (2 + len(after))
    if not before:  # nothing to read is still a token
        assert frames.example(made, []) == ([made.control['<|endoftext|>']], [0])


def test_streams_of_a_beginning_and_of_a_rest(foreign):
    made = foreign['llama2c']
    ids = made.encode('The model')
    for begins, text in ((True, 'The model'), (False, ' The model')):
        out = stream.TextStream(made, begins=begins)
        assert ''.join(out.push([token]) for token in ids) + out.finish() == text


def test_llama2c_prints_no_space_after_bos(foreign):
    made = foreign['llama2c']
    assert made.decode([1, *made.encode('a b'), 1, *made.encode('c')]) == 'a bc'
    assert made.encode('') == []


def _run_c(text, entries):
    """llama2.c's loop: each time the best of all pairs, the first of equals."""
    ids = {piece: i for i, (_, piece) in reversed([*enumerate(entries)])}
    tokens = []
    for character in ' ' + text:
        piece = character.encode()
        tokens += [ids[piece]] if piece in ids else [byte + 3 for byte in piece]
    while True:
        best, place = -1e10, None
        for i in range(len(tokens) - 1):
            pair = entries[tokens[i]][1] + entries[tokens[i + 1]][1]
            if pair in ids and entries[ids[pair]][0] > best:
                best, place = entries[ids[pair]][0], i
        if place is None:
            return tokens
        pair = entries[tokens[place]][1] + entries[tokens[place + 1]][1]
        tokens[place : place + 2] = [ids[pair]]


def test_llama2c_merges_as_its_loop_does(foreign, documents, real_data):
    real = real_data('stories260K/tok512.bin')
    for made in (foreign['llama2c'], llama2c.Llama2C.make(lambda: [], path=real)):
        for text in [*documents[:20], 'aaaaaaa  bbb\n\n', *_strings.make(50)]:
            assert made.encode(text) == _run_c(text, made.entries)
        assert llama2c.written(made.entries) == made.files['tokenizer.bin']


def test_a_sentencepiece_model_is_what_the_library_says(foreign):
    model = proto.model(foreign['spm'].files['tokenizer.model'])
    made = foreign['spm']
    assert (model.kind, model.byte_fallback) == (proto.BPE, True)
    assert (model.dummy_prefix, model.remove_extra_spaces) == (True, False)
    assert len(model.pieces) == made.vocab_size
    said = [piece.replace('\u2581', ' ').encode() for piece, _, _ in model.pieces[259:]]
    assert said == [made.token_bytes(token) for token in range(259, made.vocab_size)]


def test_added_tokens_of_a_config_are_control_tokens(foreign):
    size = foreign['spm'].vocab_size
    config = b'{"pad_token": "<pad>", "bos_token": {"content": "<s>"}, "eos_token": '
    config += b'"</s>", "added_tokens_decoder": {"%d": {"content": "<pad>"}}}' % size
    files = {**foreign['spm'].files, 'tokenizer_config.json': config}
    made = spm.SPM(files)
    assert made.vocab_size == size + 1
    assert made.control['<|pad|>'] == size
    assert made.encode_special('<pad>') == [size]
    assert size not in made.encode('<pad>')


def test_marian_numbers_the_pieces_of_the_source(foreign):
    made = foreign['marian']
    files = made.files
    ids = json.loads(files['vocab.json'])
    library = sentencepiece.SentencePieceProcessor(model_proto=files['source.spm'])
    text = 'The model reads a page, and 7 tokens. \u4e2d'
    pieces = library.encode(text, out_type=str)
    expected = [ids.get(piece, ids['<unk>']) for piece in pieces]
    assert ids['<unk>'] in expected
    assert made.encode(text) == expected
    assert made.encode(f'>>fra<<{text}') == [ids['>>fra<<'], *expected]
    assert made.encode(f'>>xx<<{text}') == [ids['<unk>'], *expected]
    assert frames.start(made) == ids['<pad>']
    assert frames.source(made, expected) == [*expected, ids['</s>']]
    known = [piece for piece in pieces if piece in ids]
    said = made.decode([*(ids[piece] for piece in known), *made.suffix])
    assert said == library.decode(known)
    for name, data, message in (
        ('vocab.json', b'{"</s>": 0, "<pad>": 1}', "'<unk>', which the vocabulary"),
        ('vocab.json', b'{"</s>": 0, "<unk>": "1"}', 'not a whole number'),
        ('vocab.json', b'{"</s>": 0, "<unk>": 99999}', 'not those of a vocab'),
        ('source.spm', b'\x0a\xff', r'source\.spm is damaged'),
        ('target.spm', files['target.spm'][:-9], r'target\.spm is damaged'),
    ):
        with pytest.raises(command.UserError, match=message):
            marian.Marian({**files, name: data})


def test_damaged_files_are_named(foreign, gpt2_folder):
    qwen, roberta = foreign['qwen'].theirs, foreign['roberta'].theirs
    bert, data = foreign['bert'].theirs, foreign['llama2c'].files['tokenizer.bin']
    config = 'tokenizer_config.json'
    for make, files, message in (
        (huggingface.HuggingFace, {}, r'there is no tokenizer\.json'),
        (huggingface.HuggingFace, {'tokenizer.json': b'{}'}, r'tokenizer\.json is dam'),
        (
            huggingface.HuggingFace,
            {**qwen, 'tokenizer.json': qwen['tokenizer.json'][:-9]},
            r'tokenizer\.json is damaged',
        ),
        (huggingface.HuggingFace, {**qwen, config: b'[]'}, 'not an object'),
        (huggingface.HuggingFace, {**qwen, config: b'{'}, 'config.json is damaged'),
        (
            huggingface.HuggingFace,
            {**qwen, config: b'{"eos_token": "<eos>"}'},
            'vocabulary does not have',
        ),
        (
            huggingface.HuggingFace,
            {**qwen, 'generation_config.json': b'{"eos_token_id": 9999}'},
            'has the token 9999',
        ),
        (
            huggingface.HuggingFace,
            {**qwen, 'generation_config.json': b'{"eos_token_id": "x"}'},
            'is damaged',
        ),
        (
            huggingface.HuggingFace,
            {**roberta, 'merges.txt': b'#version\nq qqq'},
            "'q qqq' does not merge",
        ),
        (
            huggingface.HuggingFace,
            {**roberta, 'vocab.json': b'{"a": "b"}'},
            'an id is not a whole number',
        ),
        (
            huggingface.HuggingFace,
            {**roberta, 'vocab.json': b'{"a": 1}'},
            r'has no <s>',
        ),
        (huggingface.HuggingFace, {'vocab.txt': b'[UNK]\n'}, r'has no \[SEP\]'),
        (
            huggingface.HuggingFace,
            {'vocab.txt': bert['vocab.txt'] + b'[UNK]\n'},
            'in it twice',
        ),
        (
            huggingface.HuggingFace,
            {**bert, config: b'{"do_lower_case": 1}'},
            'do_lower_case is 1',
        ),
        (spm.SPM, {'tokenizer.model': b'\x0a\xff'}, r'tokenizer\.model is damaged'),
        (spm.SPM, {}, r'names no tokenizer\.model'),
        (llama2c.Llama2C, b'', 'has 0 bytes'),
        (llama2c.Llama2C, data[:-1], 'string of id 399'),
        (llama2c.Llama2C, data[:3000], 'cut off|string of id'),
        (llama2c.Llama2C, data[:17], 'not the 256 bytes'),
    ):
        with pytest.raises(command.UserError, match=message):
            make(files)


@pytest.mark.parametrize('kind', foreign_tokenizers.KINDS)
def test_mutated_files_are_refused_or_read(kind, foreign, rng):
    """No crash: a mutated file makes a tokenizer or a UserError."""
    made = foreign[kind]
    files = dict(getattr(made, 'theirs', made.files))
    refused = 0
    for _ in range(40):
        name = rng.choice(sorted(files))
        data = bytearray(files[name])
        for _ in range(rng.choice([1, 3, 20])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        mutated = {**files, name: bytes(data)}
        load = llama2c.Llama2C.load if kind == 'llama2c' else type(made)
        try:
            load(mutated).encode('The model reads')
        except command.UserError:
            refused += 1
    assert refused > 3
