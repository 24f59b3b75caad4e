"""Makes tests/golden/rl.npz: losses of verl and TRL on one rollout, and gradients.

    PYTHON_WITH_TRL tests/golden/make_rl.py VERL

VERL is a folder with core_algos.py and torch_functional.py of volcengine/verl b178a3cd
(Apache-2.0: verl/trainer/ppo, verl/utils); what they import besides torch is not used
here and stands in as a mock. TRL is 1.16. All in float64. A loss is named by who it is
of; NAME/grad is its gradient by the log-probabilities, or by the values.
"""

import collections
import importlib.util
from pathlib import Path
import sys
import types
from unittest import mock

import numpy as np
import torch
from torch.nn import functional
import trl
from trl.experimental import gkd

FILE = Path(__file__).with_name('rl.npz')
B, T, V, GROUP = 6, 7, 5, 3
MAX_TOKENS, ROLLOUT_TOKENS = 9, 31.0  # tokens of an update of the rollout, on average


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = np.array([7, 3, 1, 5, 6, 2])
    log_p = -rng.gamma(2, 0.8, (B, T))
    return {
        'weights': (np.arange(T) < lengths[:, None]) * 1.0,
        'now': log_p,
        'log_p': log_p + rng.normal(0, 0.6, (B, T)),
        'sampler_log_p': log_p + rng.normal(0, 0.4, (B, T)),
        'reference_log_p': log_p + rng.normal(0, 0.7, (B, T)),
        'advantages': rng.normal(0, 1, (B, T)),
        'advantage': rng.normal(0, 1, B),
        'now_values': rng.normal(0, 1, (B, T)),
        'values': rng.normal(0, 1, (B, T)),
        'returns': rng.normal(0, 1, (B, T)),
        'rewards': rng.normal(0, 1, B),
        'token_rewards': rng.normal(0, 1, (B, T)),
        'student': rng.normal(0, 2, (B, T, V)),
        'teacher': rng.normal(0, 2, (B, T, V)),
    }


class Actor:
    """verl's ActorConfig, as far as its losses read it."""

    clip_ratio, clip_ratio_low, clip_ratio_high = 0.2, 0.15, 0.3
    global_batch_info = types.MappingProxyType({})

    def get(self, name, default):
        return getattr(self, name, default)


def verl(folder: Path):
    """core_algos of a checkout."""
    for name in ('tensordict', 'omegaconf', 'verl', 'verl.utils', 'verl.utils.device',
                 'verl.utils.import_utils', 'verl.trainer.config',
                 'verl.workers.config'):  # fmt: skip
        sys.modules[name] = mock.MagicMock()
    sys.modules['verl'].utils = sys.modules['verl.utils']
    sys.modules['verl.workers.config'].ActorConfig = Actor
    sys.modules['verl.trainer.config'].AlgoConfig = type('AlgoConfig', (), {})
    made = []
    for name in ('torch_functional', 'core_algos'):
        spec = importlib.util.spec_from_file_location(name, folder / f'{name}.py')
        made.append(importlib.util.module_from_spec(spec))
        spec.loader.exec_module(made[-1])
        setattr(sys.modules['verl.utils'], name, made[-1])
        sys.modules[f'verl.utils.{name}'] = made[-1]
    return made[-1]


def of_verl(algos, x) -> dict[str, torch.Tensor]:
    w, index = x['weights'], np.arange(B) // GROUP
    actor, dual = Actor(), Actor()
    actor.clip_ratio_c, dual.clip_ratio_c = 1e9, 1.5
    policy = x['log_p'], x['now'], x['advantages'], w
    rows = x['log_p'], x['now'], x['advantage'][:, None] * w, w
    importance = torch.exp(x['log_p'] - x['sampler_log_p']).clamp(max=1.3)
    vanilla = algos.compute_policy_loss_vanilla
    found = {
        f'verl policy {over}': vanilla(*policy, over, actor)[0]
        for over in ('token-mean', 'seq-mean-token-mean')
    }
    found['verl dual'] = vanilla(*policy, 'token-mean', dual)[0]
    found['verl importance'] = vanilla(*policy, 'token-mean', actor, importance)[0]
    found['verl gspo'] = algos.compute_policy_loss_gspo(
        *rows, 'seq-mean-token-mean', actor
    )[0]
    found['verl value'] = algos.compute_value_loss(
        x['now_values'], x['returns'], x['values'], w, 0.2
    )[0]
    for gamma, lam in ((1.0, 0.95), (0.9, 0.7)):
        made = algos.compute_gae_advantage_return(
            x['token_rewards'], x['values'], w, gamma, lam
        )
        found |= {
            f'verl gae {gamma}': made[0] * w,
            f'verl returns {gamma}': made[1] * w,
        }
    whiten = algos.verl_F.masked_whiten
    found['verl whiten'] = whiten(x['token_rewards'], w, shift_mean=False) * w
    for estimator in ('k1', 'k2', 'k3'):
        pair = x['now'], x['reference_log_p']
        found[f'verl {estimator}'] = algos.kl_penalty(*pair, estimator) * w
    last = functional.one_hot(w.sum(1).long() - 1, T) * x['rewards'][:, None]
    for scaled in (True, False):
        found[f'verl grpo {scaled}'] = algos.compute_grpo_outcome_advantage(
            last, w, index, 1e-4, scaled
        )[0]
    found['verl rloo'] = algos.compute_rloo_outcome_advantage(last, w, index)[0]
    return found


def of_trl(x) -> dict[str, torch.Tensor]:
    w, grpo = x['weights'], trl.GRPOTrainer

    def loss(kind, level='token', beta=0.0, corrected=False, delta=None, cap=None):
        ours = types.SimpleNamespace(
            _get_per_token_logps_and_entropies=lambda *a, **k: (x['now'], 0 * w, None),
            aux_loss_enabled=False, top_entropy_quantile=1.0, beta=beta,
            off_policy_mask_threshold=None, importance_sampling_level=level,
            args=types.SimpleNamespace(
                use_bias_correction_kl=corrected, delta=delta, steps_per_generation=1
            ),
            loss_type=kind, epsilon_low=0.15, epsilon_high=0.3,
            use_vllm=cap is not None, vllm_importance_sampling_correction=True,
            model=types.SimpleNamespace(training=True),
            current_gradient_accumulation_steps=1, max_completion_length=MAX_TOKENS,
            accelerator=types.SimpleNamespace(
                num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x,
                gather_for_metrics=lambda x: x,
            ),
            _entropy_bonus_enabled=False,
            _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        )  # fmt: skip
        ids = torch.ones((B, T), dtype=torch.long)
        batch = dict(
            prompt_ids=ids, prompt_mask=ids, completion_ids=ids, completion_mask=w,
            advantages=x['advantage'], old_per_token_logps=x['log_p'],
            ref_per_token_logps=x['reference_log_p'],
            old_logps=(x['log_p'] * w).sum(1),
            num_items_in_batch=torch.tensor(ROLLOUT_TOKENS),
        )  # fmt: skip
        if cap is not None:
            ratio = torch.exp((x['log_p'] - x['sampler_log_p']) * w)
            batch['importance_sampling_ratio'] = ratio.clamp(max=cap)
        trainer = trl.RLOOTrainer if kind == 'rloo' else grpo
        return trainer._compute_loss(ours, None, batch)

    found = {
        f'trl {kind}': loss(kind)
        for kind in ('grpo', 'bnpo', 'dr_grpo', 'dapo', 'rloo')
    }
    found['trl gspo'] = loss('grpo', 'sequence')
    found['trl grpo kl'] = loss('grpo', beta=0.3)
    found['trl dapo kl corrected'] = loss('dapo', beta=0.3, corrected=True)
    found['trl gspo kl corrected'] = loss('grpo', 'sequence', 0.3, corrected=True)
    found['trl dr_grpo delta'] = loss('dr_grpo', delta=1.31)
    found['trl bnpo importance'] = loss('bnpo', beta=0.3, cap=1.3)
    labels = torch.where(w > 0, 1, -100)
    for beta in (0.0, 0.3, 1.0):
        found[f'trl jsd {beta}'] = gkd.GKDTrainer.generalized_jsd_loss(
            x['student'], x['teacher'], labels, beta, 0.7, num_items_in_batch=w.sum()
        )
    return found


def main() -> None:
    given = inputs()
    x = {name: torch.tensor(value) for name, value in given.items()}
    leaves = {
        name: x[name].requires_grad_() for name in ('now', 'now_values', 'student')
    }
    found = of_verl(verl(Path(sys.argv[1])), x) | of_trl(x)
    made = {}
    for name, value in found.items():
        made[name] = value.detach().numpy()
        for leaf in leaves.values() if value.ndim == 0 else ():
            (grad,) = torch.autograd.grad(
                value, leaf, retain_graph=True, allow_unused=True
            )
            if grad is not None:
                made[f'{name}/grad'] = grad.numpy()
    np.savez_compressed(FILE, **given, **made)


if __name__ == '__main__':
    main()
