"""Small tokenizers of the kinds that others make, from made-up text."""

import io
import json
import struct

import sentencepiece
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from gptjax.text import huggingface, llama2c, marian, spm

KINDS = ('roberta', 'qwen', 'bert', 'llama', 'spm', 'llama2c', 'marian')
TEMPLATE = """\
{%- for message in messages %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def make(documents, gpt2_folder):
    """A tokenizer of ours for each of KINDS."""
    model = llama_model(documents)
    return {
        'roberta': huggingface.HuggingFace(roberta(gpt2_folder)),
        'qwen': huggingface.HuggingFace(qwen(gpt2_folder)),
        'bert': huggingface.HuggingFace(bert(documents)),
        'llama': huggingface.HuggingFace(llama(model)),
        'spm': spm.SPM({'tokenizer.model': model}),
        'llama2c': llama2c.Llama2C(tokenizer_bin(model)),
        'marian': marian.Marian(marian_files(documents)),
    }


def roberta(gpt2_folder):
    """vocab.json and merges.txt, with RoBERTa's control tokens around."""
    encoder = json.loads((gpt2_folder / 'encoder.json').read_text())
    del encoder['<|endoftext|>']
    words = ['<s>', '<pad>', '</s>', '<unk>', *sorted(encoder, key=encoder.get)]
    vocab = {word: i for i, word in enumerate([*words, '<mask>'])}
    return {
        'vocab.json': json.dumps(vocab).encode(),
        'merges.txt': (gpt2_folder / 'vocab.bpe').read_bytes(),
    }


def qwen(gpt2_folder):
    """A tokenizer.json with no BOS, and a chat template."""
    encoder = json.loads((gpt2_folder / 'encoder.json').read_text())
    lines = (gpt2_folder / 'vocab.bpe').read_text().splitlines()[1:]
    made = tokenizers.Tokenizer(models.BPE(encoder, [tuple(x.split()) for x in lines]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(['<|endoftext|>', '<|im_start|>', '<|im_end|>'])
    made.add_tokens(['<think>'])
    config = {'eos_token': '<|im_end|>', 'pad_token': '<|endoftext|>'}
    config |= {'bos_token': None, 'chat_template': TEMPLATE}
    ends = [made.token_to_id(word) for word in ('<|im_end|>', '<|endoftext|>')]
    return {
        'tokenizer.json': made.to_str().encode(),
        'tokenizer_config.json': json.dumps(config).encode(),
        'generation_config.json': json.dumps({'eos_token_id': ends}).encode(),
    }


def bert(documents):
    """vocab.txt: the control tokens, letters, and the words of the documents."""
    words = sorted({word for text in documents for word in text.lower().split()})
    letters = sorted({letter for word in words for letter in word})
    pieces = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *letters]
    pieces += [f'##{letter}' for letter in letters]
    pieces += [word for word in words if word.isalpha() and len(word) > 1]
    return {'vocab.txt': '\n'.join([*pieces, '']).encode()}


def llama_model(documents):
    """A SentencePiece model as Llama's: BPE, bytes, a space put before a text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(documents[:200]),
        model_writer=model,
        model_type='bpe',
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name='identity',
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return model.getvalue()


def llama(model):
    """The model as a tokenizer.json, the way that Llama 2's was made."""
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    size = library.get_piece_size()
    vocab = {library.id_to_piece(i): i for i in range(size)}
    learned = [library.id_to_piece(i) for i in range(259, size)]
    merges = [
        (piece[:i], piece[i:])
        for piece in sorted(learned, key=lambda p: -library.get_score(vocab[p]))
        for i in range(1, len(piece))
        if {piece[:i], piece[i:]} <= set(learned)
    ]
    bpe = models.BPE(vocab, merges, unk_token='<unk>', byte_fallback=True)
    made = tokenizers.Tokenizer(bpe)
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend('\u2581'), normalizers.Replace(' ', '\u2581')]
    )
    made.add_special_tokens(['<unk>', '<s>', '</s>'])
    made.post_processor = processors.TemplateProcessing(
        single='<s> $A', special_tokens=[('<s>', 1)]
    )
    return {'tokenizer.json': made.to_str().encode()}


def tokenizer_bin(model):
    """The model as llama2.c writes it."""
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    entries = []
    for token in range(library.get_piece_size()):
        piece = library.id_to_piece(token)
        if token in (1, 2):
            piece = f'\n{piece}\n'
        data = piece.replace('\u2581', ' ').encode()
        entries.append(struct.pack('<fi', library.get_score(token), len(data)) + data)
    longest = max(map(len, entries)) - 8
    return struct.pack('<i', longest) + b''.join(entries)


def marian_files(documents, vocab_size=300):
    """Two SentencePiece models and one vocabulary, as Marian's trainer leaves them."""
    files, pieces = {}, []
    for name, texts in (('source', documents[::2]), ('target', documents[1::2])):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in text.splitlines()),
            model_writer=model,
            model_type='unigram',
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        files[f'{name}.spm'] = model.getvalue()
        library = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        pieces += [library.id_to_piece(i) for i in range(library.get_piece_size())]
    # A few pieces of the source are not in the vocabulary, as in published ones.
    words = [p for p in dict.fromkeys(pieces) if p not in ('<unk>', '<s>', '</s>')]
    words = ['</s>', '<unk>', '>>fra<<', *words[9:], '<pad>']
    ids = {word: i for i, word in enumerate(words)}
    start = {'decoder_start_token_id': ids['<pad>']}
    return {
        **files,
        'vocab.json': json.dumps(ids).encode(),
        'tokenizer_config.json': b'{"source_lang": "en", "target_lang": "de"}',
        'generation_config.json': json.dumps(start).encode(),
    }
