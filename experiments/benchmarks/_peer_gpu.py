"""What _speed_gpu.py is measured beside: models of transformers in torch.

Standard input: a JSON line with `folder` (the weights, as transformers reads them),
`device`, `best` (the best settings that we know, else the defaults), `compiled`; for
training `shape` (B, T, V), `rate` and `batches`, for decoding `prompt` (ids of each
row) and `tokens` (new ones). Then a line for each turn: a number of steps, or the
tokens to score (null: its own). Standard output, for training: the losses of the steps,
and seconds; for decoding: the tokens of the first row, the mean log-probability of what
was to be scored behind the first prompt, and seconds.
"""

import contextlib
import json
import sys
import time
from typing import Any

import numpy as np


def stream(seed: int, B: int, T: int, V: int) -> np.ndarray:
    """Rows [B, T + 1] that can be learned: half of the tokens follow from the last one.

    The others are drawn by Zipf's law. The same numbers for both sides.
    """
    draw = np.random.default_rng(seed)
    likely = 1 / np.arange(1, V + 1)
    drawn = draw.choice(V, (B, T + 1), p=likely / likely.sum())
    follows = draw.random((B, T + 1)) < 0.5
    successor = np.random.default_rng(0).permutation(V)
    for t in range(1, T + 1):
        drawn[:, t] = np.where(follows[:, t], successor[drawn[:, t - 1]], drawn[:, t])
    return drawn.astype(np.int32)


def main() -> None:
    import torch
    import transformers

    given = json.loads(input())
    device = given['device']
    transformers.logging.set_verbosity_error()
    if given['best']:
        torch.set_float32_matmul_precision('high')
    dtype = torch.float32 if 'shape' in given or device == 'cpu' else torch.bfloat16
    model = transformers.AutoModelForCausalLM.from_pretrained(
        given['folder'], attn_implementation='sdpa', dtype=dtype
    ).to(device)
    make = _train if 'shape' in given else _decode
    with _attention(given):
        turn = make(given, model)
        print(json.dumps('ready'), flush=True)
        for line in sys.stdin:
            print(json.dumps(turn(json.loads(line))), flush=True)


def _attention(given: dict[str, Any]) -> Any:
    """The kernel: torch's choice, or cuDNN's first (on Hopper twice as fast)."""
    from torch.nn import attention

    if not given['best'] or given['device'] == 'cpu':
        return contextlib.nullcontext()
    kinds = attention.SDPBackend
    order = [kinds.CUDNN_ATTENTION, kinds.FLASH_ATTENTION, kinds.EFFICIENT_ATTENTION]
    return attention.sdpa_kernel([*order, kinds.MATH], set_priority=True)


def _train(given: dict[str, Any], model: Any) -> Any:
    import torch

    B, T, V = given['shape']
    device, cuda = given['device'], given['device'] == 'cuda'
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    forward = torch.compile(model) if given['compiled'] else model
    decay = [p for p in model.parameters() if p.dim() > 1]
    other = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {'params': decay, 'weight_decay': 0.1},
        {'params': other, 'weight_decay': 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=given['rate'], betas=(0.9, 0.95), fused=given['best'] or None
    )
    rows = [
        torch.from_numpy(stream(seed, B, T, V).astype(np.int64))
        for seed in range(given['batches'])
    ]
    rows = [one.pin_memory() if cuda else one for one in rows]
    done = 0

    def turn(steps: int) -> Any:
        nonlocal done
        losses = []
        start = time.perf_counter()
        for _ in range(steps):
            ids = rows[done % len(rows)].to(device, non_blocking=True)
            done += 1
            low = torch.autocast(device, torch.bfloat16)
            with low if cuda else contextlib.nullcontext():
                logits = forward(ids[:, :-1], use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(
                    logits.view(-1, logits.shape[-1]), ids[:, 1:].reshape(-1)
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        found = torch.stack(losses).tolist()  # waits for the device
        return found, time.perf_counter() - start

    return turn


def _decode(given: dict[str, Any], model: Any) -> Any:
    import torch

    prompt = torch.tensor(given['prompt'], device=given['device'])
    model.eval()
    scored = model.forward
    if given['compiled']:
        model.forward = torch.compile(
            model.forward, mode='reduce-overhead', fullgraph=True
        )

    @torch.no_grad()
    def turn(ours: list[int] | None) -> Any:
        start = time.perf_counter()
        tokens = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            min_new_tokens=given['tokens'],
            max_new_tokens=given['tokens'],
            pad_token_id=0,
            cache_implementation='static',
        )[0, prompt.shape[1] :].tolist()
        seconds = time.perf_counter() - start
        asked = torch.tensor([given['prompt'][0] + (ours or tokens)])
        asked = asked.to(given['device'])
        log_p = scored(asked[:, :-1], use_cache=False).logits.float().log_softmax(-1)
        likely = log_p[0].gather(1, asked[0, 1:, None])[prompt.shape[1] - 1 :]
        return tokens, likely.mean().item(), seconds

    return turn


if __name__ == '__main__':
    main()
