"""What must a model of the step time know to meet MaxText's rows on three chips?

Question: which terms beside products, attention and collectives bring one set of
          constants within 15 % of the MFU of 53 published rows (v5e, v5p, v6e)?
Baseline: products at a share of the peak, attention at another, collectives of which a
          share is hidden, and bytes of elementwise work times a fitted factor.
Change:   that factor fixed at 1 (36 widths for a token and layer of GPT-2),
          and bytes for each FLOP of products, whose operands come from memory again for
          each tile; the factor fixed at 2 beside them.
Command:  PYTHONPATH=. python -m experiments.2026_11_planner
          prints the rows by the constants that are kept; the fits were single runs of
          Nelder-Mead from 6 to 10 starts on the largest and the mean error.
Verdict:  bytes for each FLOP are kept: what sets v6e apart is 560 FLOP for a byte of
          its memory, where v5e has 240 and v5p 166, and elementwise work alone would
          have to move 4.6 times what it does. Dropless experts reach 0.8 of dense
          products, from one row (Mixtral on v5p), which the others do not know. Rows
          that differ in the slice alone (128B on v5p-256x2 and v5p-512x2: 66.3 and
          59.7 %; 1024B on 1,024 and 2,048 chips: 55.4 and 64.8 %) bound what any model
          of this kind can do: about 8 %.
"""

# Of 53 rows, the largest error in MFU, and the constants of each fit.
RESULT = {
    'elementwise bytes x 4.6': {
        'worst': 0.154, 'products': 0.90, 'scores': 0.33, 'tiles': 0.0,
        'weights not hidden': 0.61, 'activations': 0.94, 'network': 1.13,
    },
    'x 2, and bytes for each FLOP': {
        'worst': 0.127, 'products': 0.94, 'scores': 0.31, 'tiles': 0.81e-3,
        'weights not hidden': 0.02, 'activations': 0.74, 'network': 1.0,
    },
    'x 1, and bytes for each FLOP': {
        'worst': 0.117, 'products': 0.95, 'scores': 0.25, 'tiles': 0.74e-3,
        'weights not hidden': 0.25, 'activations': 0.78, 'network': 0.88,
    },
    'Mixtral 8x7B on v5p-256, experts as fast as dense products': {'off': 0.175},
}  # fmt: skip

if __name__ == '__main__':
    from experiments.benchmarks import _maxtext

    for row in _maxtext.ROWS:
        forecast = 100 * _maxtext.mfu(row)
        print(f'{row.name:32} {row.mfu:6.2f} {forecast:6.2f}')
