"""The preference losses of TRL's trainers, called on log-probabilities.

A trainer is a stub with what its loss reads; the model is a function that has the
log-probabilities of the labels, `model(input_ids, labels) -> [2B, T - 1]`.
"""

import collections
import os
import types

from golden import preference_cases
import torch

os.environ['TRL_EXPERIMENTAL_SILENCE'] = '1'
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer

# Of ours, what TRL calls it; the rest is below.
DPO = {
    'sigmoid': 'sigmoid', 'hinge': 'hinge', 'ipo_norm': 'ipo', 'robust': 'robust',
    'exo': 'exo_pair', 'nca': 'nca_pair', 'bco': 'bco_pair', 'sppo': 'sppo_hard',
    'apo_zero': 'apo_zero', 'apo_down': 'apo_down', 'discopop': 'discopop',
    'aot': 'aot',
}  # fmt: skip
# TRL's CPO has no reference: given log(p / p_reference), it is IPO of sums and cDPO.
CPO = {'ipo_sum': 'ipo', 'cdpo': 'sigmoid', 'simpo': 'simpo'}


def _stub(beta, **options):
    same = lambda x: x  # noqa: E731
    return types.SimpleNamespace(
        beta=beta,
        model=types.SimpleNamespace(training=True),
        accelerator=types.SimpleNamespace(
            device=torch.device('cpu'), gather=same, gather_for_metrics=same
        ),
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type='reverse_kl',
        use_weighting=False,
        aux_loss_enabled=False,
        loss_weights=[1.0],
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        label_smoothing=options.get('label_smoothing', 0.0),
        args=types.SimpleNamespace(discopop_tau=options.get('tau')),
    )


def _outputs(log_p):
    nothing = torch.zeros_like(log_p)
    return types.SimpleNamespace(
        log_probs=log_p, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
    )


def pairs(name, options, log_p, ids, mask, reference):
    """The mean loss of pairs.

    log_p: (ids, labels) -> [2B, T - 1], chosen before rejected. mask: [2B, T], 1 in an
    answer. reference: sums [2B].
    """
    options = dict(options)
    beta = options.pop('beta')
    chosen, rejected = reference.chunk(2)
    if name in DPO:
        stub = _stub(beta, **options)
        stub.loss_types = [DPO[name]]
        inputs = {
            'input_ids': ids,
            'attention_mask': torch.ones_like(ids),
            'completion_mask': mask,
            'ref_chosen_logps': chosen,
            'ref_rejected_logps': rejected,
        }

        def model(input_ids, labels, **_):
            return _outputs(log_p(input_ids, labels))

        return DPOTrainer._compute_loss(stub, model, inputs, False)
    sums = log_p(ids, ids.masked_fill(mask == 0, -100)).sum(-1)
    if name in ('orpo', 'simpo'):
        given = (sums / mask[:, 1:].sum(-1)).chunk(2)
    else:
        given = (sums - reference).chunk(2)
    stub = _stub(beta, **options)
    if name == 'orpo':
        return -ORPOTrainer.odds_ratio_loss(stub, *given)[0].mean()
    stub.alpha, stub.loss_type = 0.0, CPO[name]
    stub.simpo_gamma = options.get('gamma')
    return CPOTrainer.cpo_loss(stub, *given)[0].mean()


def answers(name, options, log_p, ids, mask, reference, good, kl):
    """(the mean loss of single answers, TRL's estimate of the KL).

    kl: the sums of policy and reference [2, B] of the mismatched answers.
    """
    stub = _stub(options['beta'])
    stub.loss_type, stub.calculate_KL = name, True
    stub.desirable_weight = options['desirable']
    stub.undesirable_weight = options['undesirable']
    stub._compute_kl_logps = lambda model, batch: kl[0]
    inputs = {
        'input_ids': ids,
        'attention_mask': torch.ones_like(ids),
        'completion_mask': mask,
        'label': good,
        'ref_logps': reference,
        'ref_KL_logps': kl[1],
    }

    def model(input_ids, labels, **_):
        return _outputs(log_p(input_ids, labels))

    loss = KTOTrainer._compute_loss(stub, model, inputs, False)
    return loss, stub._metrics['train']['kl'][0]


def all_of(seed):
    """{name: the loss of the case of a seed, and its gradient by the sums}."""
    log_p, mask = preference_cases.made(seed)
    policy, reference = torch.tensor(log_p, dtype=torch.float64)
    mask = torch.tensor(mask)
    inside = mask[:, 1:] > 0
    first = inside.int().argmax(-1) + 1
    sums = (reference[:, 1:] * inside).sum(-1)
    good = torch.tensor(preference_cases.good(len(mask)))
    ids = torch.zeros_like(mask)
    found = {}
    for name, options in {
        **preference_cases.OPTIONS,
        **preference_cases.UNPAIRED,
    }.items():
        own = policy.clone().requires_grad_()
        of_own = own[:, 1:] * inside
        if name in preference_cases.UNPAIRED:
            kl = of_own.detach().sum(-1).roll(1), sums.roll(1) - 2
            loss, estimate = answers(
                name, options, lambda *_, x=of_own: x, ids, mask, sums, good, kl
            )
        else:
            loss = pairs(name, options, lambda *_, x=of_own: x, ids, mask, sums)
            estimate = None
        (gradient,) = torch.autograd.grad(loss, own)
        gradient = gradient[torch.arange(len(mask)), first]
        found[name] = {'loss': loss.item(), 'gradient': gradient.tolist()}
        if estimate is not None:
            found[name]['kl'] = estimate
    return found
