"""The steps of this package by name."""

from gptjax.data import steps
from gptjax.data.dedup import exact, near, substring

STEPS: steps.Table = {
    'exact': exact.Exact,
    'minhash': near.MinHash,
    'substring': substring.Substring,
}
