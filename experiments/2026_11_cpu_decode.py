"""Where a token of greedy decoding goes on the CPU, and what layouts are worth.

Question: does XLA's product of one row, or of 16, with a weight reach the bandwidth of
          memory, and what does attention over a cache cost beside it?
Baseline: GPT-2 124M in float32, weights as training has them, caches (B, S, K, H).
Change:   weights first or last, stored (inputs, outputs) or the other way round, cut
          into halves or pieces; caches (B, K, S, H); slots written in other ways;
          the kernel of `native` for float32; huge pages (GLIBC_TUNABLES=
          glibc.malloc.hugetlb=1); the sum over heads and their width as over one axis.
Command:  make benchmark AREA=speed.decode
          It measures the whole loop. RESULT has parts of it, each alone, from single
          runs beside other work: rows compare within themselves, to a fifth or so, and
          no command here repeats them.
Verdict:  caches (B, K, S, H) are kept: attention of 16 rows takes a fifth. For one row
          weights stay as they lie: cut in halves or written as a reduction they are
          slower. The head as (D, V) takes 0.84 of the time, 1.4 ms of a token, and is
          not kept: the embedding is the same array, of 154 MB, and would lie in memory
          twice. For 16 rows the weight as the first operand is 1.6 times as fast for
          the head; XLA turns that round again where a transpose follows, unless a
          barrier is behind it (43 ms a token). An own kernel that lets 16 rows meet a
          block of the weight while the next is fetched reads it nearly as fast as a
          plain read does, and is what 2 to 64 rows take (`native_float32.cc`): in
          panels of 128 x 128, fetched ahead; without fetching it is slower than XLA.
          Writing by a mask is faster than by slices (1.3 ms against 2.8) alone,
          and no faster before attention. The kernel of few bits, for float32 with
          tiles of 4 outputs, is no faster than XLA for one row, and slower for 16. Huge
          pages
          are worth 3 % of products, within the noise. A trace of the loop showed what
          was: XLA transposed the weight behind attention for each token, as the sum
          was over two axes: 12 copies of 2.4 MB. That is mended in `attention`. The
          loop as a whole reads weights at 0.70 of the bandwidth of a plain read, or
          somewhat more, as the neighbours let it.
"""

# Milliseconds, the fastest of 3 to 12 (2 cores, jax 0.10.2, a shared machine, on which
# a sum over an array read 18 to 32 GB/s at the same time).
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
    'all products of layers, one row': {
        'XLA': 13.2, 'own kernel': 13.8, 'XLA, huge pages': 12.9,
        'own kernel, huge pages': 12.0,
    },
    'all products of layers, 16 rows': {
        'XLA': 28.9, 'own kernel': 36.9, 'XLA, huge pages': 27.9,
        'own kernel, huge pages': 37.1,
    },
    # The kernel alone, in C++ with two threads, nothing beside it; medians of 12.
    'products of layers, 16 rows, panels of inputs x outputs': {
        'plain read': 12.0, '128 x 128': 18.7, '64 x 256': 20.3, '256 x 128': 23.7,
        '256 x 64': 24.5, '768 x 64': 30.9, 'all x 16': 34.6,
        '256 x 64, not fetched ahead': 35.2,
    },
    'head, 16 rows, kernel with rows as lanes': {'fetched ahead': 8.0, 'not': 8.6},
    # In JAX beside other work on both cores; the fastest of 25 in turns.
    'products of layers, 16 rows, machine in use': {'XLA': 113.6, 'panels': 69.4},
    'head, 16 rows, machine in use': {'XLA': 25.3, 'rows as lanes': 13.4},
    'head, one row, in another run': {
        'XLA': 5.48, 'own kernel': 6.03, 'XLA, huge pages': 5.27,
        'own kernel, huge pages': 5.47,
    },
    'copies in a token of 28.9, in its trace': {
        'weights behind attention, 12 layers': 4.5,
    },
}  # fmt: skip
