"""How near is the planner's memory to the compiler's, where no published row is?

Question: do context, stages, a split sequence, offload and logits in parts take what
          `gptjax.plan.memory` says, and how many bytes cross between two slices?
Baseline: libtpu 0.0.42, compiled for four v5e chips (two slices of four): 8 layers of
          width 1,024 with F of 3,584, 8 heads of 128, 4 of keys, V of 32,768, AdamW.
Change:   a stage finds what all iterations leave, also those on zeros, and what goes in
          and out; with `tensor`, gradients of what queries, keys and values read are
          there at once in float32, and two arrays more of a split sequence; of what
          goes to the host, a fourth is on the device.
Command:  PYTHONPATH=. .venv-tpu/bin/python -m experiments.2026_11_plan_forms NAME ...
          compiles one or more of CASES, each in 60 to 200 s.
Verdict:  within 13 % on these 16; of larger ones 4 % too low (70B over 128 v5p), 6 %
          above (70B over 128 v5e) and 34 % above (8B, rows of 131,072 on 64 v5e).
          Without the term for `tensor` a split sequence was 32 % too low, and offload
          without its own 13 to 20 %. Between slices go 1.2 times a device's part of
          the gradients, each sum done within a slice first. The ring kept masks of all
          blocks and heads, 21.6 GiB where the plan had 5.5: it now has 5.1.
"""

import sys

from configs import pretrain
from gptjax.plan import ahead, job, search, targets
from gptjax.train import settings as settings_lib

# Mesh, other forms than its axes, remat, T, rows, what else `compute` says.
CASES = {
    'fsdp': ({'fsdp': 4}, '', 'dots', 2048, 16, {}),
    'tensor': ({'tensor': 4}, '', 'dots', 2048, 16, {}),
    'sequence': ({'tensor': 4}, '_sequence', 'dots', 2048, 16, {}),
    'sequence, full': ({'tensor': 4}, '_sequence', 'full', 2048, 16, {}),
    'context': ({'context': 4}, '', 'dots', 16_384, 2, {}),
    'context, full': ({'context': 4}, '', 'full', 16_384, 2, {}),
    'context, T = 131,072': ({'context': 4}, '', 'full', 131_072, 1, {}),
    'fsdp, context': ({'fsdp': 2, 'context': 2}, '', 'minimal', 8192, 4, {}),
    'context, sequence': (
        {'context': 2, 'tensor': 2}, '_sequence', 'full', 16_384, 2, {},
    ),
    'stages, 4': ({'stage': 4}, '', 'dots', 2048, 16, {'pipeline_microbatches': 4}),
    'stages, 8': ({'stage': 4}, '', 'dots', 2048, 16, {'pipeline_microbatches': 8}),
    'stages, data': (
        {'stage': 2, 'data': 2}, '', 'full', 2048, 16, {'pipeline_microbatches': 4},
    ),
    'stages, fsdp': (
        {'stage': 2, 'fsdp': 2}, '', 'minimal', 2048, 16, {'pipeline_microbatches': 4},
    ),
    'offload': ({'fsdp': 4}, '', 'offload', 2048, 16, {}),
    'logits in parts': ({'fsdp': 4}, '', 'full', 2048, 16, {'loss_rows': 8192}),
    'two slices': ({'slice': 2, 'fsdp': 4}, '', 'dots', 2048, 32, {}),
}  # fmt: skip

# GiB of the estimate, and of the compiler.
RESULT = {
    'fsdp': (2.82, 2.90), 'tensor': (3.53, 3.87), 'sequence': (3.03, 3.14),
    'sequence, full': (1.78, 2.02), 'context': (4.90, 4.54),
    'context, full': (3.65, 3.35), 'context, T = 131,072': (5.52, 5.10),
    'fsdp, context': (3.95, 3.51), 'context, sequence': (2.22, 2.02),
    'stages, 4': (3.88, 3.99), 'stages, 8': (3.32, 3.35), 'stages, data': (2.25, 2.13),
    'stages, fsdp': (3.62, 3.74), 'offload': (1.88, 1.81),
    'logits in parts': (1.21, 1.14), 'two slices': (2.82, 2.82),
    'Llama 3.1 70B on v5p-256, fsdp 64 x tensor 2, sequence, minimal': (81.5, 85.0),
    'Llama 2 70B on v5e-128, fsdp 32 x tensor 4, sequence, full': (14.0, 13.2),
    'Llama 2 70B on v5e-128, fsdp 32 x tensor 4, sequence, offload': (17.0, 17.6),
    'Llama 3.1 8B on v5e-16, fsdp 8 x tensor 2, sequence, full': (13.7, 12.5),
    'Llama 3.1 8B on v5e-64, rows of 131,072, fsdp 4 x context 2 x tensor 8': (
        13.3, 10.0,
    ),
}  # fmt: skip


def settings_of(name):
    mesh, forms, remat, T, rows, compute = CASES[name]
    config = pretrain.get_config('llama-3.1-8b')
    config.model.update(L=8, D=1024, F=3584, N=8, K=4, H=128, V=32_768, T=T)
    config.data.batch_size = rows
    config.compute.update(remat=remat, accumulate=1, **compute)
    ones = dict.fromkeys(config.mesh, 1)
    config.mesh = {**ones, **mesh, 'rules': search.rules_of(mesh) + forms}
    return settings_lib.of(config)


if __name__ == '__main__':
    for case in sys.argv[1:]:
        planned = job.Job(settings_of(case))
        several = planned.settings['mesh']['slice'] > 1
        target = targets.parse('v5e-4x2' if several else 'v5e-4')
        layout = planned.own(target.chips)
        found = search.evaluate(planned, target, layout)
        compiled = ahead.compile_(planned.settings, target, layout)
        print(case, found.bytes, compiled.get('peak'), compiled)
