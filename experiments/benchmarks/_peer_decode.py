"""Greedy decoding by others, for _speed_decode.py, in the Python of GPTJAX_PEERS.

Standard input: a JSON line with `folder` (the weights and the tokenizer, as
transformers reads them), `gguf` (the same weights for llama.cpp, or ''), `prompt`
(ids) and `new_tokens`; then a line for each turn: a kind of KINDS and a batch size.
Standard output, for each turn: the tokens of the first row, and seconds; or null, where
that kind is not there, with why.
"""

import functools
import json
import pathlib
import sys
import time
from typing import Any

import torch
import transformers


@functools.cache
def hugging_face(folder, dtype='float32'):
    model = transformers.GPT2LMHeadModel.from_pretrained(
        folder, dtype=getattr(torch, dtype)
    )
    return model.eval()


def torch_generate(given, batch, dtype='float32', **settings):
    prompt = torch.tensor([given['prompt']] * batch)
    with torch.no_grad():
        tokens = hugging_face(given['folder'], dtype).generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            min_new_tokens=given['new_tokens'],
            max_new_tokens=given['new_tokens'],
            pad_token_id=0,
            **settings,
        )
    return tokens[0, len(given['prompt']) :].tolist()


@functools.cache
def generator(folder):
    import ctranslate2

    target = f'{folder}/ctranslate2'
    converter = ctranslate2.converters.TransformersConverter(folder)
    converter.convert(target)
    # The converter writes null for what a model lacks, and then refuses it.
    file = pathlib.Path(target, 'config.json')
    settings = json.loads(file.read_text())
    for name in [name for name, value in settings.items() if value is None]:
        settings.pop(name)
        if name.endswith('_token'):
            settings[name] = '<|endoftext|>'
    file.write_text(json.dumps(settings))
    return ctranslate2.Generator(target, intra_threads=torch.get_num_threads())


def ctranslate2_generate(given, batch):
    model = generator(given['folder'])
    words = transformers.AutoTokenizer.from_pretrained(given['folder'])
    prompt = words.convert_ids_to_tokens(given['prompt'])
    found = model.generate_batch(
        [prompt] * batch,
        min_length=given['new_tokens'],
        max_length=given['new_tokens'],
        sampling_topk=1,
        include_prompt_in_result=False,
        end_token=[],
    )
    return found[0].sequences_ids[0]


@functools.cache
def llama(path):
    import llama_cpp

    return llama_cpp.Llama(
        path, n_ctx=256, verbose=False, n_threads=torch.get_num_threads()
    )


def llama_generate(given, batch):
    if batch > 1 or not given['gguf']:
        raise ValueError('one row alone, of a model written as GGUF')
    tokens = []
    model = llama(given['gguf'])
    model.reset()
    for token in model.generate(given['prompt'], temp=0.0, repeat_penalty=1.0):
        tokens.append(token)
        if len(tokens) == given['new_tokens']:
            return tokens


KINDS: dict[str, Any] = {
    'dynamic': torch_generate,
    'static': functools.partial(torch_generate, cache_implementation='static'),
    'bfloat16': functools.partial(torch_generate, dtype='bfloat16'),
    'ctranslate2': ctranslate2_generate,
    'llama.cpp': llama_generate,
}


def main() -> None:
    given = json.loads(input())
    transformers.logging.set_verbosity_error()
    for line in sys.stdin:
        kind, batch = line.split()
        start = time.perf_counter()
        try:
            tokens = KINDS[kind](given, int(batch))
            print(json.dumps([tokens, time.perf_counter() - start]), flush=True)
        except (ImportError, ValueError, RuntimeError) as error:
            print(json.dumps([None, str(error)]), flush=True)


if __name__ == '__main__':
    main()
