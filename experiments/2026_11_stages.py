r"""What do experts and stages that FSDP splits further send, and what would change it?

Question: are experts gathered in bfloat16, and what does a pipeline save that gathers
          weights once a call and not in each iteration?
Baseline: a model of 4 layers (D 512, F 1,024, 8 rows of 512 tokens) in bfloat16, its
          loss and gradients compiled for four v5e chips, messages as the text has them.
Change:   experts that are cast before they go into `shard_map`, in a pair with what has
          the gradient, as other weights are; P('stage') in `pipeline._split`, so that
          no other axis splits weights inside the scan.
Command:  JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 PYTHONPATH=. \
              python -m experiments.2026_11_stages
          prints the baselines (needs libtpu); the changes were single tries, compiled
          the same way.
Verdict:  neither is kept. XLA casts before it gathers by itself: all gathers of experts
          are of bfloat16 with and without the pair (of Mixtral 8x7B on v5p-128 too:
          101.39 GB, 2 bytes a weight); 6 % of the temporaries are not worth 45 lines.
          What gathering once saves, sums of whole gradients cost: they are made in each
          iteration, as scatters were. A sum that each device keeps over all of them
          would save both.
"""

import dataclasses
from typing import Any

from flax import linen as nn
import jax
from jax.experimental import topologies
import jax.numpy as jnp

from gptjax import sharding
from gptjax.model import config, table, transformer
from gptjax.plan import hlo

# MiB that a device sends in a call, and of temporaries.
RESULT = {
    'experts over expert 2 x fsdp 2': {
        'as it is': {'gathered arrays': 13, 'in bfloat16': 13, 'temporaries': 259.6},
        'cast before': {'gathered arrays': 13, 'in bfloat16': 13, 'temporaries': 243.0},
    },
    'Llama over stage 2 x fsdp 2, 4 microbatches': {
        'as it is': {
            'gathers': 50.54, 'scatters': 30.5, 'sums': 48.04, 'temporaries': 4.2,
        },
        'gathered once': {
            'gathers': 5.5, 'scatters': 0.5, 'sums': 108.04, 'temporaries': 33.3,
        },
    },
}  # fmt: skip


def compiled(family: str, **sizes: int) -> dict[str, float]:
    """MiB that a device sends, by kind, and of temporaries."""
    chips = topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x2')
    place = sharding.make(
        1, tensor=1, rules='_'.join(sizes), devices=chips.devices, **sizes
    )
    changes: dict[str, Any] = dict(
        L=4, D=512, F=1024, H=128, N=4, K=4, T=512, V=1024, windows=(0,)
    )  # fmt: skip
    if family == 'mixtral':
        changes['experts'] = config.Experts(E=8, k=2, balance=0.1, z=0.1)
    arch = dataclasses.replace(table.FAMILIES[family]['nano'], **changes)
    compute = config.Compute(
        dtype='bfloat16', remat='minimal', scan_unroll=1, accumulate=1,
        attention='blocked', pipeline_microbatches=4 if 'stage' in sizes else 0,
    )  # fmt: skip
    model = transformer.make(arch, compute, place)
    boxed = transformer.abstract(model)
    places = place.of_boxed(boxed)
    params = jax.tree.map(
        lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
        nn.unbox(boxed),
        places,
    )
    row = jax.ShapeDtypeStruct(
        (8, arch.T), jnp.int32, sharding=place.named(('batch', None))
    )
    batch = dict.fromkeys(('tokens', 'positions', 'segments'), row)

    def loss(params, batch):
        x_BTD, router = transformer.hidden(model, params, batch, jax.random.key(0))
        losses = sum(total for total, _ in router.values())
        return jnp.sum(jnp.square(x_BTD.astype(jnp.float32))) + losses

    run = jax.jit(jax.grad(loss), out_shardings=places).trace(params, batch)
    found = run.lower(lowering_platforms=('tpu',)).compile()
    sent = hlo.Program(found.as_text(), unknown=1).collectives()
    moved = {kind: round(bytes / 2**20, 2) for kind, (_, bytes) in sent.items()}
    temporaries = found.memory_analysis().temp_size_in_bytes / 2**20
    return {**moved, 'temporaries': round(temporaries, 1)}


if __name__ == '__main__':
    print(compiled('mixtral', expert=2, fsdp=2))
    print(compiled('llama', stage=2, fsdp=2))
