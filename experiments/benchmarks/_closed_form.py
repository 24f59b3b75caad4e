"""Policies that can be checked exactly: all 64 answers of 3 tokens out of 4.

Reinforcement learning with a KL penalty of coefficient beta has a known optimum,
p* ~ p_ref exp(reward / beta). Here a GPT of one layer answers one prompt, each answer
has a reward out of a table, and rollouts, `prepare` and the train step are the real
ones; what was learned is read off by teacher forcing of all answers.
"""

from collections.abc import Callable
import dataclasses
import functools
import itertools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import sharding
from gptjax.generate import rollout, sampling
from gptjax.model import config, transformer
from gptjax.model.families import gpt2
from gptjax.objectives import group, next_token, policy, ppo
from gptjax.train import optim, schedules, state, step

V, C, BETA = 4, 3, 0.5
ANSWERS = np.array(list(itertools.product(range(V), repeat=C)))
REWARDS = np.random.default_rng(0).normal(0, 1, len(ANSWERS))
SAMPLED = dict(temperature=1.0, max_tokens=C)
KL = dict(kl_coefficient=BETA, kl_estimator='k1')
PPO: dict[str, Any] = dict(
    **SAMPLED, **KL, group=1, clip_low=0.2, clip_high=0.2, value_coefficient=0.5,
    gamma=1.0, lam=0.95, whiten_rewards=False, whiten_advantages=True, clip_value=0.2,
)  # fmt: skip
GROUP: dict[str, Any] = dict(**SAMPLED, **KL, group=32, kl_in='reward')


class Found(NamedTuple):
    """What was learned beside what was to be learned, all exact."""

    reward: float  # its mean
    kl: float  # nats, to the reference
    apart: float  # total variation to the optimum
    start: float  # the mean reward at the start
    best_reward: float  # of the optimum
    best_kl: float
    seconds: float

    @property
    def share(self) -> float:
        """How much of the way from the start to the optimum the reward has gone."""
        return (self.reward - self.start) / (self.best_reward - self.start)


@dataclasses.dataclass(frozen=True)
class Size:
    """How long a run is."""

    rollouts: int = 300
    answers: int = 512  # of a rollout
    updates: int = 4  # of a rollout, in one epoch
    learning_rate: float = 1.5e-3


def run(options: Any, seed: int, size: Size = Size()) -> Found:
    """Trains one policy; everything but the prompt and the table is of the library."""
    model = _model(isinstance(options, ppo.Options))
    place = model.sharding
    schedule = schedules.cosine(
        size.learning_rate, 10, 0.0, steps=size.rollouts * size.updates
    )
    optimizer = optim.adamw(
        schedule, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0, clip_norm=1.0
    )
    _, places = state.shardings_of(transformer.abstract(model), optimizer, place)
    start = transformer.init(model, jax.random.key(seed))
    reference = jax.tree.map(jnp.copy, start)
    made = state.create(start, optimizer, seed, places)
    train = jax.jit(_rollouts(model, options, optimizer, seed, size))
    before = time.perf_counter()
    params = jax.block_until_ready(train(made, reference))
    seconds = time.perf_counter() - before
    log_p, log_ref = (_exact(model, tree) for tree in (params, reference))
    log_best = log_ref + REWARDS / BETA
    log_best -= np.log(np.exp(log_best).sum())
    return Found(
        reward=float(np.exp(log_p) @ REWARDS),
        kl=float(np.exp(log_p) @ (log_p - log_ref)),
        apart=float(np.abs(np.exp(log_p) - np.exp(log_best)).sum() / 2),
        start=float(np.exp(log_ref) @ REWARDS),
        best_reward=float(np.exp(log_best) @ REWARDS),
        best_kl=float(np.exp(log_best) @ (log_best - log_ref)),
        seconds=seconds,
    )


@functools.cache
def _model(values: bool) -> transformer.Model:
    arch = gpt2.sized(L=1, N=2, D=32, T=8, V=V)
    head = dataclasses.replace(arch.head, values=values)
    arch = dataclasses.replace(arch, head=head, init_std=0.1)
    compute = config.Compute(dtype='float32', remat='none', scan_unroll=1, accumulate=1)
    return transformer.make(arch, compute, sharding.single())


def _rollouts(
    model: Any, options: Any, optimizer: Any, seed: int, size: Size
) -> Callable[[state.State, Any], Any]:
    """(state, reference) -> parameters after all rollouts, as one program."""
    objective = ppo if isinstance(options, ppo.Options) else group
    loss_fn = objective.make(model, options)
    prepare = objective.prepare(options)
    train_step = functools.partial(
        step.train_step, loss_fn=loss_fn, optimizer=optimizer, accumulate=1
    )
    words, M = jnp.asarray(sampling.seed_words(seed)), size.answers
    prompts = M // options.group
    table = jnp.asarray(REWARDS, jnp.float32)
    sampler = rollout.Sampler(C, 1.0, 0, 1.0, np.ones(V, bool), ())

    def arrays(params: Any, reference: Any, number: Any) -> Any:
        one = jnp.ones(prompts, jnp.int32)
        numbers = (number * prompts + jnp.arange(prompts)).astype(jnp.uint32)
        given = rollout.Prompts(0 * one[:, None], one, numbers, 0 * one)
        _, batch = rollout.generate(
            model, sampler, params, given, words, repeat=options.group
        )
        answers = policy.read(model, params, batch, None, options)
        base = policy.read(model, reference, batch, None, options)
        answer_M = batch['targets'] @ V ** jnp.arange(C)[::-1]
        made = {
            **batch,
            'log_p': answers.log_p_BT,
            'reference_log_p': base.log_p_BT,
            'rewards': table[answer_M],
        }
        if objective is ppo:
            made['values'] = transformer.values(model, params, answers.x_BTD)
        return made

    def one(carry: Any, number: Any) -> tuple[Any, None]:
        made, running, reference = carry
        batch, _, running = prepare(arrays(made.params, reference, number), running)
        order = jax.random.permutation(
            jax.random.fold_in(jax.random.key(seed), number), M
        )
        batches = jax.tree.map(
            lambda x: x[order].reshape(size.updates, -1, *x.shape[1:]), batch
        )
        made, _ = jax.lax.scan(lambda s, b: train_step(s, {}, b), made, batches)
        return (made, running, reference), None

    def all_of(made: state.State, reference: Any) -> Any:
        running = {name: jnp.float32(x) for name, x in ppo.RUNNING.items()}
        carry: Any = made, running, reference
        (made, *_), _ = jax.lax.scan(one, carry, jnp.arange(size.rollouts))
        return made.params

    return all_of


def _exact(model: Any, params: Any) -> np.ndarray:
    """The log-probability of each of ANSWERS, in float64."""
    tokens = jnp.asarray(np.pad(ANSWERS[:, :-1], ((0, 0), (1, 0))), jnp.int32)
    places = jnp.broadcast_to(jnp.arange(C), tokens.shape)
    batch = {'tokens': tokens, 'positions': places, 'segments': jnp.ones_like(tokens)}
    logits = transformer.forward(model, params, batch)
    targets = jnp.asarray(ANSWERS, jnp.int32)
    return np.asarray(next_token.log_likelihood(logits, targets), np.float64).sum(1)
