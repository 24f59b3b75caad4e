"""Which rewrites make a training step faster on a CPU?

Question: which of the rewrites that were known to pay (a barrier before weight
gradients, norms that keep their statistics, attention that keeps its probabilities,
products joined, losses in one pass) still do, and what else does?
Baseline: the step with the barrier and the reference attention, unrolled, float32.
Change: one rewrite at a time; and the memory of the process in huge pages.
Command: make benchmark AREA=speed.train measures what was kept, beside torch; the tries
were single runs, medians of 5 to 6 steps taken by turns, and left no code.
Verdict: huge pages gain a fifth; blocks of attention are faster by themselves
(experiments/2026_11_attention.py); the other rewrites are within the noise of 5 % on
this machine, where products take three quarters of a step and run at what two cores
can (float32: 190 to 210 GFLOP/s here, torch 151 to 192). On a CPU whose products are
faster beside its memory they may still pay. In bfloat16, weight gradients alone were
slow: XLA's library takes a product only where its left operand is contracted over its
last axis, else operands are widened to float32 (150 to 190 GFLOP/s against 350 to 395
of the forward ones, torch 393 to 444), and a transposed copy before the product is
folded back into it. In a step, with the smaller operand first and a barrier behind the
product (`layers`), it keeps its copy and runs as fast as forward: a core does 188 to
198 GFLOP/s in either. A transposition that XLA does not see through, in C++, could win
no more than what the copies take, 3 %: not tried. What was slow is elementwise work
in bfloat16, which is rounded, and written, after each operation: gradients of biases
(a sum in bfloat16 is no reduction that the library knows, and walks down columns) and
GELU. Predicted from GELU alone: 7 %; with the biases it was 22 %, and a step takes 0.89
of torch's time on one core. Attention on float32 copies is within the noise. What is
left beside the large products, a third of the step, is for one half attention, whose
products of 64 rows run at 50 to 70 GFLOP/s a core.
"""

# Milliseconds a step, by turns in one process, medians; 2 cores, EPYC of 2.6 GHz with
# AVX-512, Python 3.11, jax 0.10.2.
RESULT = {
    'width 384, 2 layers, T 256, B 16': {
        'as the system gives memory': 952,
        'huge pages (glibc.malloc.hugetlb=1)': 758,
        'one arena, nothing trimmed, no mmap': 800,
        'huge pages: baseline': 676,
        'huge pages: norms keep statistics': 686,
        'huge pages: attention keeps probabilities, heads first': 701,
        'huge pages: both': 708,
        'huge pages: both, attention in 2 blocks': 715,
        'huge pages: both, attention in 4 blocks': 707,
        'huge pages: both, 2 blocks, query, key and value joined': 728,
    },
    'width 384, 2 layers, today': {
        'baseline': 684,
        'weight gradient after that of the input': 691,
        'both before what follows': 689,
        'no barrier': 699,
    },
    'width 128, 4 layers, T 64, B 12': {
        'as the system gives memory: baseline': 59.0,
        'as the system gives memory: all rewrites': 53.1,
        'huge pages: baseline': 54.3,
        'huge pages: norms keep statistics': 49.9,
        'huge pages: norms, attention keeps probabilities': 49.6,
        'huge pages: these and a tanh that is kept': 50.5,
    },
    'page faults a step, width 384, 2 layers': {'4 KiB': 132_512, 'huge': 678},
    'GFLOP/s of 4096 x 384 x 1536': {
        'float32 forward': 197,
        'float32 weight gradient': 191,
        'float32 weight gradient, larger operand first': 146,
        'bfloat16 forward': 359,
        'bfloat16 gradient of the input': 372,
        'bfloat16 weight gradient': 171,
        'bfloat16 weight gradient, x transposed before': 164,
        'bfloat16 weight gradient, x transposed as bits before': 173,
        'torch float32': 172,
        'torch bfloat16': 419,
    },
    'bfloat16, 6 x 384, T 256, B 16: ms of CPU a step on one core': {
        'baseline': 2_766,
        'activations in float32, gradients of biases summed in it': 2_150,
        'and attention on float32 copies': 2_115,
    },
    'of the baseline': {
        'products with weights': 1_368,
        'products of attention': 295,
        'gradients of biases': 321,
        'GELU and its gradient': 250,
        'transposed copies': 62,
    },
    'of the last': {'gradients of biases': 17, 'GELU and its gradient': 57},
    'by turns with torch autocast, eager, on one core of a shared machine': {
        'what was kept': 3_067,
        'torch': 3_431,
    },
}
