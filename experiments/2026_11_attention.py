"""What blocks of queries save in attention on the CPU, and whether weights are kept.

Question: how many queries make a block, and does backward find the attention weights
          kept, or compute them again?
Baseline: scores of all pairs at once, as autodiff has it: model/kernels.reference.
Change:   a gradient of its own, over blocks of queries with the keys that they can see;
          weights kept for backward ('kept', in the type of activations) or not.
Command:  python -m experiments.2026_11_attention
Verdict:  blocks: 4 to a row up to 512 tokens, 8 beyond. Kept weights are 6 % faster at
          T = 1,024 and no faster below, and they alone grow with T^2: they are not
          kept, and the code that did is gone. Without blocks, a gradient of its own
          gains 6 to 10 % in float32 and nothing in bfloat16. A barrier before the
          products of backward changes nothing here.
"""

from experiments.benchmarks import _speed_attention

# Forward and backward of two documents a row, causal: milliseconds, medians by turns
# (2 cores, jax 0.10.2). The number is that of queries in a block.
RESULT = {
    'float32, B 12, T 64, N 4, H 32': {
        'reference': 1.96, 'whole, kept': 1.73, 'whole': 1.84, '32, kept': 1.86,
        '32': 1.57,
    },
    'float32, B 16, T 256, N 6, H 64': {
        'reference': 161.2, 'whole, kept': 146.3, 'whole, kept, barrier': 146.0,
        'whole': 151.7, '128, kept': 121.9, '128': 124.9, '64, kept': 114.4,
        '64': 111.8,
    },
    'float32, B 4, T 1024, N 12, H 64': {
        'reference': 681.5, '256, kept': 382.7, '256': 406.2, '128, kept': 352.6,
        '128': 374.5, '64': 420.2,
    },
    'bfloat16, B 12, T 64, N 4, H 32': {
        'reference': 2.39, 'whole, kept': 2.15, 'whole': 2.36, '32, kept': 2.03,
        '32': 1.79,
    },
    'bfloat16, B 16, T 256, N 6, H 64': {
        'reference': 107.5, 'whole, kept': 100.9, 'whole': 112.7, '128, kept': 69.8,
        '128': 84.4, '64, kept': 58.8, '64': 60.0, '32': 72.1,
    },
    'bfloat16, B 4, T 1024, N 12, H 64': {
        'reference': 722.0, '256, kept': 405.0, '256': 420.4, '128, kept': 326.7,
        '128': 352.0, '64': 383.2,
    },
}  # fmt: skip


def main() -> None:
    """What the code has now, at the longest of these shapes and at twice its length."""
    for row in _speed_attention.rows():
        print(row['name'], round(row['peer'] * 1e3), round(row['ours'] * 1e3), 'ms')


if __name__ == '__main__':
    main()
