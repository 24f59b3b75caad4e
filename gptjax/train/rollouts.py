"""Batches from the model's own completions: a source that reads the state.

Step s is minibatch s % U of rollout s // U. A rollout answers the next prompts of their
stream with the parameters as they are, asks the rewards, and lies in the state until it
is used up: a checkpoint in the middle of it goes on with the same bits.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import command, core
from gptjax.data import permute, prompts
from gptjax.generate import engine, rollout, sampling
from gptjax.model import split_kv, transformer
from gptjax.objectives import policy
from gptjax.train import build, feed, log, transcripts
from gptjax.train import phases as phases_lib
from gptjax.train import state as state_lib
from gptjax.train import step as step_lib
from gptjax.train.rewards import sample as sample_lib
from gptjax.train.rewards import table as rewards_table

_PLAIN = ('tokens', 'targets', 'segments', 'positions', 'weights')


class Rollouts:
    """The source of a run with a section `rollout`, from step `step` on.

    row: the next prompt of their stream; None where no prompt was ever skipped.
    skips: (first, end) of prompts that are not to be answered. shown: completions of a
    rollout in samples.jsonl. again: whether the evaluation at `step` was cut.
    """

    def __init__(
        self,
        run: build.Run,
        step: int,
        row: int | None = None,
        skips: feed.Skips = (),
        phases: phases_lib.Phases | None = None,
        shown: int = 4,
        again: bool = False,
    ):
        assert run.rollout is not None
        self._run, self._step = run, step
        self._skips, self._phases = skips, phases or phases_lib.Phases(None)
        self._section = section = run.rollout
        self.updates = section.updates(run.data.batch_size)
        self.draw = section.prompts
        self.row = -(-step // self.updates) * section.prompts if row is None else row
        self._told: dict[str, float] | None = None
        rewarded = 'rewards' in run.settings
        self._reward = (
            rewards_table.combine(run.settings['rewards']) if rewarded else None
        )
        split_kv.prove(run.model.arch, run.model.compute.dtype)
        sharding = run.model.sharding
        self._feed = feed.Feed(sharding, section.sequences)
        batch, everywhere = sharding.named(('batch',)), sharding.replicated
        # Where devices can share out the prompts, each is read once for its group.
        self._shared = section.prompts % sharding.batch_shards == 0
        generate = functools.partial(_generate, run)
        self._generate = {
            repeat: jax.jit(
                functools.partial(generate, repeat=repeat), out_shardings=batch
            )
            for repeat in {1, section.group}
        }
        self._score = jax.jit(functools.partial(_score, run), out_shardings=batch)
        self._finish = jax.jit(
            functools.partial(finish, run),
            out_shardings=(batch, everywhere, everywhere),
        )
        self._sums = jax.jit(_sums, out_shardings=everywhere)
        self._take = jax.jit(_take, out_shardings=batch)
        self._eval_step = jax.jit(
            functools.partial(step_lib.eval_step, loss_fn=run.loss_fn),
            out_shardings=everywhere,
        )
        self._transcripts = transcripts.Transcripts(run.workdir, step, shown, again)

    def next(
        self, state: state_lib.State, frozen: Mapping[str, Any]
    ) -> tuple[core.Batch, state_lib.State, Mapping[str, float]]:
        """The next minibatch, of a new rollout where the one before is used up."""
        number, minibatch = divmod(self._step, self.updates)
        if minibatch == 0:
            with self._phases.of('generate'):
                state = self._roll(state, frozen)
        if self._told is None:
            self._told = _floats(state.extra['rollout']['means'])
        self._step += 1
        arrays = state.extra['rollout']['arrays']
        return self._take(arrays, self._order(number, minibatch)), state, self._told

    def _order(self, number: int, minibatch: int) -> np.ndarray:
        """The sequences of a minibatch: each epoch is another permutation of all."""
        M, B = self._section.sequences, self._run.data.batch_size
        epoch, place = divmod(minibatch, M // B)
        # Another key than that of the prompts.
        key = permute.mix(~self._run.seed, number * self._section.epochs + epoch)
        return permute.permute(place * B + np.arange(B), M, key).astype(np.int32)

    def _roll(
        self, state: state_lib.State, frozen: Mapping[str, Any]
    ) -> state_lib.State:
        section, run = self._section, self._run
        self.row = feed.beyond(self.row, self._skips)
        numbers = self.row + np.arange(section.prompts)
        rows = prompts.stream(len(run.rows), run.seed, numbers)
        batch, scores = self._answers(
            state, frozen, run.rows, rows, numbers, run.seed, section.group
        )
        running = state.extra.get('running', {})
        arrays, means, running = self._finish(batch, scores, running)
        extra = {**state.extra, 'rollout': {'arrays': arrays, 'means': means}}
        if 'running' in extra:
            extra['running'] = running
        self._told = _floats(means)
        self._check(self._told, f'completions of step {self._step + 1}')
        self.row += section.prompts
        return state._replace(extra=extra)

    def _check(self, means: Mapping[str, float], what: str) -> None:
        """Raises UserError where no completion of these has a reward."""
        if self._reward is not None and means['reward_invalid'] == 1:
            raise command.UserError(
                f'none of the {what} has a reward that is a number; see what the '
                f'rewards make of {self._run.workdir / log.SAMPLES}.'
            )

    def _answers(
        self,
        state: state_lib.State,
        frozen: Mapping[str, Any],
        source: Any,  # data.prompts.Prompts
        rows: np.ndarray,
        numbers: np.ndarray,
        seed: int,
        group: int,
        held_out: bool = False,
    ) -> tuple[core.Batch, core.Batch]:
        """(completions as a batch with log-probabilities, their rewards by name).

        rows: of `source`, of which each is answered `group` times, M sequences in all.
        numbers: of the prompts, for the keys.
        """
        repeat = group if self._shared else 1
        every = np.repeat(np.arange(len(rows)), group // repeat)
        feeder = feed.Feed(self._run.model.sharding, len(every))
        mine = every[feeder.owned]
        found = source.read(rows[mine])
        given = feeder.put(
            {
                'tokens_BP': found['tokens'],
                'length_B': found['lengths'],
                'number_B': numbers[mine].astype(np.uint32),
                'index_B': (np.array(feeder.owned) % (group // repeat)).astype(
                    np.int32
                ),
            }
        )
        words = jnp.asarray(sampling.seed_words(seed))
        batch = self._generate[repeat](
            state.params, frozen, rollout.Prompts(**given), words
        )
        batch = self._score(state.params, frozen, batch)  # while the host reads
        if self._reward is None:
            return batch, {}
        samples = self._samples(batch, source, rows, group)
        total, each = self._reward(samples)
        at = self._step if held_out else self._step + 1
        self._transcripts.write(at, held_out, samples, total, each)
        scores = {f'reward_{name}': values for name, values in each.items()}
        return batch, self._feed.put({'reward': total, **scores})

    def _samples(
        self,
        batch: core.Batch,
        source: prompts.Prompts,
        rows: np.ndarray,
        group: int,
    ) -> list[sample_lib.Sample]:
        """What the rewards see of the sequences of this process."""
        tokenizer = self._run.tokenizer
        local = {k: _local(batch[k]) for k in ('targets', 'weights', 'ended')}
        asked = {i: source.prompt(int(rows[i])) for i in
                 {m // group for m in self._feed.owned}}  # fmt: skip
        made = []
        for place, m in enumerate(self._feed.owned):
            prompt, ended = asked[m // group], bool(local['ended'][place])
            said = local['targets'][place][local['weights'][place] > 0].tolist()
            text = tokenizer.decode(said[:-1] if ended else said)
            made.append(
                sample_lib.Sample(
                    prompt.text,
                    prompt.messages,
                    text,
                    prompt.reference,
                    len(said),
                    ended,
                )
            )
        return made

    def evaluate(
        self,
        state: state_lib.State,
        frozen: Mapping[str, Any],
        each: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Means over completions of `eval.rows` held-out prompts, whose keys are fixed.

        `loss` is -reward; without rewards, that of the objective on the completions.
        """
        run, M = self._run, self._section.sequences
        source: Any = run.eval_rows
        count = min(run.eval.rows, len(source)) if run.eval.rows else len(source)
        picked = np.arange(count, dtype=np.int64) * len(source) // count
        totals: dict[str, np.ndarray] = {}
        terms: list[str] = []
        for start in range(0, count, M):
            wanted = start + np.arange(M)
            rows = picked[np.minimum(wanted, count - 1)]
            batch, scores = self._answers(
                state, frozen, source, rows, rows, 0, 1, held_out=True
            )
            real = (wanted < count).astype(np.float32)[self._feed.owned]
            present = self._feed.put({'present': real})['present']
            sums = dict(self._sums(batch, scores, present))
            if self._reward is None:
                loss = self._losses(state.params, frozen, batch, present)
                terms = list(loss.terms)
                sums |= {**loss.terms, **loss.metrics}
            for name, pair in jax.device_get(sums).items():
                totals[name] = totals.get(name, 0) + np.array(pair, np.float64)
            each()
        means = {k: float(t / w) if w else 0.0 for k, (t, w) in totals.items()}
        self._check(means, f'held-out completions of step {self._step}')
        if terms:
            return {**means, 'loss': sum(means[name] for name in terms)}
        return {**means, 'loss': -means['reward']}

    def _losses(
        self,
        params: core.Params,
        frozen: Mapping[str, Any],
        batch: core.Batch,
        present: jax.Array,
    ) -> core.Loss:
        """The sums of the loss over completions, in batches as of training."""
        weights = batch['weights'] * present[:, None]
        plain = {**{k: batch[k] for k in _PLAIN}, 'weights': weights}
        size, losses = self._run.data.batch_size, []
        for start in range(0, self._section.sequences, size):
            part = self._take(plain, start + np.arange(size, dtype=np.int32))
            losses.append(self._eval_step(params, frozen, part))
        total: core.Loss = jax.tree.map(lambda *sums: sum(sums), *losses)
        return total

    def close(self) -> None:
        """Nothing reads ahead; transcripts may wait."""
        self._transcripts.close()


def empty(run: build.Run, running: Mapping[str, jax.Array]) -> dict[str, Any]:
    """The rollout of step 0, before there is any: zeros, where they will lie."""
    assert run.rollout is not None
    section, sharding = run.rollout, run.model.sharding
    M, T = section.sequences, section.prompt_tokens + section.max_tokens - 1
    number = jax.ShapeDtypeStruct((M, T), jnp.float32)
    whole = jax.ShapeDtypeStruct((M, T), jnp.int32)
    row = jax.ShapeDtypeStruct((M,), jnp.float32)
    batch = dict.fromkeys(('tokens', 'targets', 'segments', 'positions'), whole)
    batch |= dict.fromkeys(('weights', 'sampler_log_p', 'log_p'), number) | {
        'ended': row
    }
    if 'reference' in run.objective.frozen:
        batch['reference_log_p'] = number
    if run.objective.values:
        batch['values'] = number
    named: list[str] = []
    if 'rewards' in run.settings:
        names = [str(section['name']) for section in run.settings['rewards']]
        named = ['reward', *(f'reward_{name}' for name in command.numbered(names))]
    scores = dict.fromkeys(named, row)
    arrays, means, _ = jax.eval_shape(
        functools.partial(finish, run), batch, scores, dict(running)
    )

    def zeros(place: Any) -> Callable[[Any], jax.Array]:
        return lambda like: jax.device_put(np.zeros(like.shape, like.dtype), place)

    return {
        'arrays': jax.tree.map(zeros(sharding.named(('batch',))), arrays),
        'means': jax.tree.map(zeros(sharding.replicated), means),
    }


def finish(
    run: build.Run, batch: core.Batch, scores: core.Batch, running: Mapping[str, Any]
) -> tuple[core.Batch, dict[str, jax.Array], Mapping[str, Any]]:
    """(arrays of batches, means, running) of a rollout with its rewards.

    A reward that is no number takes the weight from its sequence.
    """
    sums = _sums(batch, scores, jnp.ones_like(batch['ended']))
    means = {name: step_lib.ratio(*pair) for name, pair in sums.items()}
    if run.prepare is None:
        return {name: batch[name] for name in _PLAIN}, means, running
    rewards_M = scores['reward']
    fine_M = jnp.isfinite(rewards_M)
    off_M = jnp.where(fine_M, rewards_M - means['reward'], 0.0)
    variance = jnp.sum(jnp.square(off_M)) / jnp.maximum(jnp.sum(fine_M) - 1, 1)
    weights_MT = batch['weights'] * fine_M[:, None]
    arrays = {**batch, 'weights': weights_MT, 'rewards': rewards_M}
    arrays, told, running = run.prepare(arrays, running)
    return arrays, {**means, 'reward_std': jnp.sqrt(variance), **told}, running


def _generate(
    run: build.Run,
    params: core.Params,
    frozen: Mapping[str, Any],
    given: rollout.Prompts,
    seed_words_2: jax.Array,
    *,
    repeat: int,
) -> core.Batch:
    section = run.rollout
    assert section is not None
    sampler = rollout.Sampler(
        section.max_tokens,
        section.temperature,
        section.top_k,
        section.top_p,
        engine.may_say(run.model.arch.V, run.tokenizer),
        run.tokenizer.ends,
    )
    model: Any = run.model
    joined = run.joined(params, frozen)
    _, batch = rollout.generate(
        model, sampler, joined, given, seed_words_2, repeat=repeat
    )
    return batch


def _score(
    run: build.Run, params: core.Params, frozen: Mapping[str, Any], batch: core.Batch
) -> core.Batch:
    """The batch with what the models make of it, in microbatches as of training."""
    assert run.sampled is not None
    read = functools.partial(policy.read, run.model, options=run.sampled)
    params = run.joined(params, frozen)

    def one(part: core.Batch) -> dict[str, jax.Array]:
        answers = read(params, part, None)
        found = {'log_p': answers.log_p_BT}
        if run.objective.values:
            found['values'] = transformer.values(run.model, params, answers.x_BTD)
        if 'reference' in run.objective.frozen:
            reference = read(frozen['reference'], part, None)
            found['reference_log_p'] = reference.log_p_BT
        return found

    size = run.data.batch_size // run.model.compute.accumulate
    parts = len(batch['ended']) // size
    # Each part takes every so manieth row, so that each device keeps its own rows.
    split = jax.tree.map(
        lambda x: x.reshape(size, parts, *x.shape[1:]).swapaxes(0, 1), dict(batch)
    )
    found = jax.tree.map(
        lambda x: x.swapaxes(0, 1).reshape(size * parts, *x.shape[2:]),
        jax.lax.map(one, split),
    )
    return {**batch, **found}


def _sums(batch: core.Batch, scores: core.Batch, present_M: jax.Array) -> core.Metrics:
    """Metrics of sequences that are `present`, as sums and weights."""
    weights_MT = batch['weights'] * present_M[:, None]
    tokens, count = jnp.sum(weights_MT), jnp.sum(present_M)
    rounding = jnp.exp(batch['log_p'] - batch['sampler_log_p'])
    sums = {
        'length': (tokens, count),
        'ended': (jnp.sum(batch['ended'] * present_M), count),
        'importance': (jnp.sum(rounding * weights_MT), tokens),
    }
    if 'reference_log_p' in batch:
        away_MT = batch['log_p'] - batch['reference_log_p']
        sums['kl'] = jnp.sum(away_MT * weights_MT), count
    for name, values_M in scores.items():
        fine_M = jnp.isfinite(values_M) * present_M
        sums[name] = jnp.sum(jnp.where(fine_M > 0, values_M, 0)), jnp.sum(fine_M)
        if name == 'reward':
            sums['reward_invalid'] = count - jnp.sum(fine_M), count
    return sums


def _take(arrays: core.Batch, chosen: jax.Array) -> core.Batch:
    return {name: array[chosen] for name, array in arrays.items()}


def _floats(means: Mapping[str, jax.Array]) -> dict[str, float]:
    return {name: float(mean) for name, mean in jax.device_get(means).items()}


def _local(array: jax.Array) -> np.ndarray:
    """The rows of an array that lie on this process, each once."""
    parts = {s.index[0].indices(len(array))[0]: s for s in array.addressable_shards}
    return np.concatenate([np.asarray(parts[start].data) for start in sorted(parts)])
