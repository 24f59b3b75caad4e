"""Greedy decoding of exported folders: our engine and `transformers` say the same."""

from golden import oracle
import numpy as np
import pytest
import tiny
import tiny_family
import torch

from gptjax import trees
from gptjax.exchange import huggingface, table
from gptjax.generate import engine as engine_lib
from gptjax.model import transformer
from gptjax.text import bytes as bytes_lib
from gptjax.text import chat

PROMPTS, LENGTH = 100, 64
NEAR = 1e-3  # two tokens whose logits are closer than this are nearly a tie
TOKENIZER = bytes_lib.Bytes()


def louder(path: str, leaf):
    """Larger weights and small biases, lest a model say one thing for ever.

    Much larger, and attention becomes so hard that float32 alone is off by 0.6.
    """
    return leaf * (0.1 if 'bias' in path else 1.3)


def prompts(longest: int) -> list[tuple[int, ...]]:
    """Of 1 to `longest` tokens, none of which is a control token."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, longest + 1, PROMPTS)
    return [tuple(rng.integers(0, 256, n).tolist()) for n in lengths]


def theirs(loaded, arch, rows) -> tuple[list[list[int]], int]:
    """(64 tokens for each prompt, how many prompts met a near tie)."""
    pad, T = 0, max(map(len, rows))
    left = not arch.encoder_L  # decoders are padded on the left to be continued
    tokens, mask = np.full((2, len(rows), T), pad)
    mask[:] = 0
    for tokens_T, mask_T, row in zip(tokens, mask, rows, strict=True):
        place = slice(T - len(row), T) if left else slice(0, len(row))
        tokens_T[place], mask_T[place] = row, 1
    unsaid = [TOKENIZER.control[n] for n in engine_lib.UNSAID if n in TOKENIZER.control]
    loaded.generation_config.eos_token_id = None
    loaded.generation_config.forced_eos_token_id = None
    with torch.no_grad():
        result = loaded.generate(
            input_ids=torch.tensor(tokens),
            attention_mask=torch.tensor(mask),
            do_sample=False,
            num_beams=1,
            max_new_tokens=LENGTH,
            suppress_tokens=unsaid,
            pad_token_id=pad,
            output_scores=True,
            return_dict_in_generate=True,
        )
    best = torch.stack(result.scores).topk(2).values  # (token, prompt, 2)
    near = ((best[..., 0] - best[..., 1]) < NEAR).any(0).sum()
    return result.sequences[:, -LENGTH:].tolist(), int(near)


def step_by_step(loaded, rows) -> list[list[int]]:
    """The likeliest tokens by the whole forward pass each time, of equal prompts.

    RoBERTa's `generate` counts positions from 0, its forward pass from 2, and leaves
    out what looks like padding (token 1).
    """
    tokens = torch.tensor(rows)
    unsaid = [TOKENIZER.control[n] for n in engine_lib.UNSAID if n in TOKENIZER.control]
    with torch.no_grad():
        for _ in range(LENGTH):
            places = torch.arange(tokens.shape[1]).expand_as(tokens) + 2
            logits = loaded(input_ids=tokens, position_ids=places).logits[:, -1]
            logits[:, unsaid] = -torch.inf
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
    return tokens[:, -LENGTH:].tolist()


@pytest.mark.parametrize('family', table.FAMILIES)
def test_greedy_tokens_are_equal(family, tmp_path, measured):
    arch = tiny_family.arch(
        family, T=96, V=TOKENIZER.vocab_size, D=24, H=6, causal=True
    )
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    params = tiny_family.params(model)
    if arch.norms.order == 'post':
        params = trees.map_with_path(louder, params)
    start = {'decoder_start_token_id': TOKENIZER.control[chat.BEGIN]}
    settings = start | {'pad_token_id': 0} if arch.encoder_L else {}
    huggingface.save(arch, params, tmp_path / 'export', settings=settings)
    auto = 'AutoModelForSeq2SeqLM' if arch.encoder_L else 'AutoModelForCausalLM'
    loaded = oracle.load(auto, tmp_path / 'export')

    # Padding on the left moves the positions of BERT: its prompts are equally long.
    rows = prompts(24)
    if family in ('bert', 'roberta'):
        rows = [(row * 9)[:9] for row in rows]
    their_tokens, near = theirs(loaded, arch, rows)
    if family == 'roberta':
        their_tokens = step_by_step(loaded, rows)

    engine = engine_lib.Engine(model, params, TOKENIZER)
    made = engine.generate(
        [
            engine_lib.Request(row, LENGTH, temperature=0.0, stop_tokens=())
            for row in rows
        ]
    )
    our_tokens = [list(completion.tokens) for completion in made]
    equal = sum(a == b for a, b in zip(our_tokens, their_tokens, strict=True))
    kinds = len({token for row in our_tokens for token in row})
    measured(
        f'{family:10} greedy: {equal} of {PROMPTS} prompts equal, {near} near a tie, '
        f'{kinds} different tokens',
        greedy=equal,
    )
    assert our_tokens == their_tokens
    assert kinds > 10
