"""A GRPO step by hand in torch and transformers, in the Python of GPTJAX_PEERS.

Standard input: a JSON line of shapes with `folder` (the weights, as transformers reads
them) and `tokens` (rows to score), then a line for each step to take. Standard output:
the log-probability of each row's tokens, then seconds of a step and of its generation.
"""

import json
import sys
import time

import torch
import transformers


def log_p(model, tokens, prompt, unsaid=()):
    """Of the tokens after the prompt, where some are never said."""
    logits = model(tokens[:, :-1]).logits[:, prompt - 1 :]
    logits[..., list(unsaid)] = -torch.inf
    said = tokens[:, prompt:, None]
    return logits.log_softmax(-1).gather(-1, said)[..., 0]


def main() -> None:
    given = json.loads(input())
    P, C, group = given['prompt_tokens'], given['max_tokens'], given['group']
    model = transformers.GPT2LMHeadModel.from_pretrained(given['folder'])
    reference = transformers.GPT2LMHeadModel.from_pretrained(given['folder'])
    model.eval()  # no dropout, as on the other side
    with torch.no_grad():
        rows = log_p(model, torch.tensor(given['tokens']), P, given['unsaid'])
    print(json.dumps(rows.tolist()), flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    torch.manual_seed(0)
    for _ in sys.stdin:
        prompts = torch.randint(0, 256, (given['prompts'], P))
        start = time.perf_counter()
        with torch.no_grad():
            tokens = model.generate(
                prompts.repeat_interleave(group, 0),
                attention_mask=torch.ones(given['prompts'] * group, P),
                do_sample=True,
                top_k=0,
                min_new_tokens=C,
                max_new_tokens=C,
                pad_token_id=0,
            )
            generation = time.perf_counter() - start
            before = log_p(model, tokens, P)
            base = log_p(reference, tokens, P)
        reward = (tokens[:, P:] == 101).float().mean(1).view(-1, group)
        advantage = reward - reward.mean(1, keepdim=True)
        advantage = (advantage / (reward.std(1, keepdim=True) + 1e-4)).view(-1, 1)
        now = log_p(model, tokens, P)
        ratio = (now - before).exp()
        clipped = ratio.clamp(0.8, 1.2)
        policy = -torch.minimum(ratio * advantage, clipped * advantage)
        kl = (base - now).exp() - 1 - (base - now)
        loss = (policy + 0.04 * kl).mean(1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        print(json.dumps([time.perf_counter() - start, generation]), flush=True)


if __name__ == '__main__':
    main()
