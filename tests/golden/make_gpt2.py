"""Writes gpt2.npz: weights and logits of `transformers`' GPT2LMHeadModel.

    make golden        (in a virtual environment of its own: torch and transformers)

The weights are random and larger than at initialisation, biases and norms too, so that
every one of them moves the logits.
"""

from pathlib import Path

import numpy as np
import torch
import transformers


def main() -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=61, n_positions=24, n_embd=32, n_layer=3, n_head=4,
        attn_implementation='eager', bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        tokens = torch.randint(0, 61, (3, 24))
        logits = model(tokens).logits
        short = model(tokens[:1, :7]).logits
    weights = {
        name: parameter.detach().numpy()
        for name, parameter in model.transformer.named_parameters()
    }
    path = Path(__file__).with_name('gpt2.npz')
    np.savez_compressed(
        path,
        tokens=tokens.numpy().astype(np.int32),
        logits=logits.numpy(),
        short_logits=short.numpy(),
        version=f'torch {torch.__version__}, transformers {transformers.__version__}',
        **weights,
    )
    print(path, path.stat().st_size, 'bytes')


if __name__ == '__main__':
    main()
