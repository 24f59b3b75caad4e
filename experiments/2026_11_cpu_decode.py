"""Where a token of greedy decoding goes on the CPU, and what layouts are worth.

Question: does XLA's product of one row, or of 16, with a weight reach the bandwidth of
          memory, and what does attention over a cache cost beside it?
Baseline: GPT-2 124M in float32, weights as training has them, caches (B, S, K, H).
Change:   weights first or last, stored (inputs, outputs) or the other way round, cut
          into halves or pieces; caches (B, K, S, H); slots written in other ways.
Command:  make benchmark AREA=speed.decode
Verdict:  caches (B, K, S, H) are kept: attention of 16 rows takes a fifth. For one row
          XLA reaches the bandwidth with weights as they lie: transposed, cut in halves
          or written as a reduction they are slower. For 16 rows the weight as the
          first operand is 1.6 times as fast for the head; XLA turns that round again
          where a transpose follows, and it is not in the code: what it would need is a
          barrier behind each product, on CPU alone. Writing by a mask is faster than
          by slices (1.3 ms against 2.8) alone, and no faster before attention.
"""

# Milliseconds, the fastest of 3 to 5 (2 cores, jax 0.10.2, a shared machine, on which
# a sum over an array read 18 to 26 GB/s at the same time).
RESULT = {
    'head, one row (768 to 50257)': {
        '(V, D)': 8.46, '(D, V)': 7.08, 'sum of products, (V, D)': 22.8,
    },
    'head, 16 rows': {
        '(V, D)': 15.1, '(D, V)': 14.6, 'weight first, (V, D)': 9.26,
        '4 pieces, joined': 36.2, '4 pieces as a batch': 9.66,
    },
    '24 products of 768 to 3072, one row': {
        '(D, F)': 8.09, '(F, D)': 8.76, 'weight first, (F, D)': 11.2, 'halves': 26.3,
    },
    '24 products of 768 to 3072, 16 rows': {
        '(D, F)': 17.4, '(F, D)': 23.1, 'weight first, (F, D)': 14.6,
        'weight first, then transposed': 22.8,
    },
    'attention of 12 layers, one row, 128 slots': {
        '(B, S, K, H)': 1.33, '(B, K, S, H)': 0.33, 'sums of products': 12.4,
    },
    'attention of 12 layers, 16 rows, 128 slots': {
        '(B, S, K, H)': 42.6, '(B, K, S, H)': 8.0, 'sums of products': 11.7,
        'eight equal rows': 21.4,
    },
    'writing 12 layers, 16 rows': {
        'slice of each row': 2.79, 'index': 3.13, 'loop of slices': 1.74, 'mask': 1.34,
    },
    'writing and attention, 16 rows': {
        'slice of each row': 12.9, 'index': 11.8, 'loop of slices': 11.8, 'mask': 11.9,
    },
}  # fmt: skip
