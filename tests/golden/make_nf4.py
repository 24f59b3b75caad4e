"""Makes tests/golden/nf4.npz: what bitsandbytes 0.50 makes of some blocks.

    .venv-parity/bin/python tests/golden/make_nf4.py

book: the 16 values of NF4. weights: 6 x 128 numbers of several sizes, a block of zeros
and one of the book's own values among them. codes: two elements a byte, absmax: one for
64 elements, dense: what both stand for.
"""

from pathlib import Path

from bitsandbytes import functional
import numpy as np
import torch

FILE = Path(__file__).with_name('nf4.npz')


def main() -> None:
    book = functional.get_4bit_type('nf4', device='cpu')
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(6, 128)) * 10.0 ** np.arange(-3, 3)[:, None]
    weights[1, :64] = 0
    weights[2, 64:] = np.tile(book.numpy(), 4) * 0.75
    tensor = torch.tensor(weights, dtype=torch.float32)
    codes, state = functional.quantize_4bit(tensor, blocksize=64, quant_type='nf4')
    np.savez(
        FILE,
        book=book.numpy(),
        weights=tensor.numpy(),
        codes=codes.numpy().reshape(6, 64),
        absmax=state.absmax.numpy().reshape(6, 2),
        dense=functional.dequantize_4bit(codes, state).numpy(),
    )


if __name__ == '__main__':
    main()
