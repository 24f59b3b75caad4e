"""nanoGPT's shape in torch: the step of _speed_train.py, in the Python of GPTJAX_PEERS.

Standard input: a JSON line with `folder` (the weights, as transformers reads them),
`shape` (B, T, V), `dtype`, `compiled` and `rate`; then a line for each round, with the
number of steps. Standard output: the losses of the steps of a round, and its seconds.
"""

import contextlib
import json
import sys
import time

import numpy as np
import torch
import transformers


def main() -> None:
    given = json.loads(input())
    B, T, V = given['shape']
    model = transformers.GPT2LMHeadModel.from_pretrained(
        given['folder'], attn_implementation='sdpa'
    )
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    forward = torch.compile(model) if given['compiled'] else model
    low = given['dtype'] == 'bfloat16'
    # As nanoGPT's configure_optimizers: decay on what has two axes or more.
    groups = [
        {'params': [p for p in model.parameters() if p.dim() > 1], 'weight_decay': 0.1},
        {'params': [p for p in model.parameters() if p.dim() < 2], 'weight_decay': 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=given['rate'], betas=(0.9, 0.99), fused=True
    )
    rng = np.random.default_rng(0)
    for line in sys.stdin:
        losses = []
        start = time.perf_counter()
        for _ in range(int(line)):
            rows = torch.from_numpy(rng.integers(0, V, (B, T + 1)))
            autocast = torch.autocast('cpu', torch.bfloat16)
            with autocast if low else contextlib.nullcontext():
                logits = forward(rows[:, :-1], use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(
                    logits.view(-1, logits.shape[-1]), rows[:, 1:].reshape(-1)
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
        print(json.dumps([losses, time.perf_counter() - start]), flush=True)


if __name__ == '__main__':
    main()
