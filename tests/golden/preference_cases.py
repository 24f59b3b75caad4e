"""Options of each preference loss, and log-probabilities that it is compared on."""

import numpy as np

OPTIONS = {
    'sigmoid': dict(beta=0.1),
    'hinge': dict(beta=0.2),
    'ipo_sum': dict(beta=0.1),
    'ipo_norm': dict(beta=0.3),
    'cdpo': dict(beta=0.1, label_smoothing=0.3),
    'robust': dict(beta=0.1, label_smoothing=0.2),
    'exo': dict(beta=0.2, label_smoothing=0.001),
    'nca': dict(beta=0.1),
    'bco': dict(beta=0.1),
    'sppo': dict(beta=0.1),
    'apo_zero': dict(beta=0.1),
    'apo_down': dict(beta=0.2),
    'discopop': dict(beta=0.05, tau=0.05),
    'aot': dict(beta=0.1, label_smoothing=0.1),
    'orpo': dict(beta=0.1),
    'simpo': dict(beta=2.0, gamma=1.0),
}
UNPAIRED = {'kto': dict(beta=0.1, desirable=1.0, undesirable=0.6)}


def made(seed, pairs=8, T=12):
    """Log-probabilities a token [2, 2 pairs, T], chosen before rejected; and a mask.

    The first two are policy and reference; the mask is 1 in an answer.
    """
    rng = np.random.default_rng(seed)
    begins = rng.integers(1, 4, pairs)
    lengths = rng.integers(1, T - 4, (2, pairs))
    places = np.arange(T)
    mask = (places >= begins[:, None]) & (places < (begins + lengths)[..., None])
    log_p = -rng.gamma(2.0, 0.8, (2, 2 * pairs, T))
    return log_p, mask.reshape(2 * pairs, T).astype(np.int64)


def good(answers):
    """Which of the answers are good, where each is one by itself."""
    return np.arange(answers) % 3 > 0
