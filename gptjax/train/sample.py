"""Best-of-n and rejection sampling: answers of a model, scored, the best ones kept.

Stiennon et al., "Learning to summarize from human feedback", 2020; Touvron et al.,
"Llama 2", 2023, section 3.2.3. What is kept is data to fine-tune on, as a .jsonl that
the corpus `chat` (of plain texts `text`) reads, with the licence of each prompt.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from gptjax import command
from gptjax.data import dataset, documents, ledger, progress, prompts, storage
from gptjax.data.augment import parts
from gptjax.generate import engine as engine_lib
from gptjax.train import build
from gptjax.train.rewards import sample as sample_lib
from gptjax.train.rewards import table as rewards_table

KINDS = ('text', 'chat', 'pairs')
Scored = Mapping[str, Any]  # a completion with its rewards, a JSON object


@dataclasses.dataclass(frozen=True)
class Data:
    path: str  # a built dataset with the tokenizer of the workdir
    split: str
    prompts: int  # how many are asked, drawn by the seed
    prompt_tokens: int  # of texts the first so many; longer conversations are left out


@dataclasses.dataclass(frozen=True)
class Sampling:
    n: int  # completions of a prompt
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float


@dataclasses.dataclass(frozen=True)
class Keep:
    best: int  # at most so many of a prompt, those of the highest total; 0 is all
    above: float | None  # and only those whose total is higher; None is any


def sample(config: Any, output: Path) -> str:
    """Writes what is kept to `output`, and says how much it is.

    Beside it stand OUTPUT.samples.jsonl, every completion with its rewards, from which
    the same command goes on, and OUTPUT.json, the counts. Raises UserError for wrong
    settings, a dataset of another model, and where `output` was begun with others.
    """
    settings = json.loads(config.to_json())
    return str(command.splat(_sample, 'config', settings, output=output))


def _sample(
    *,
    output: Path,
    seed: int,
    workdir: str,
    data: Mapping[str, Any],
    sampling: Mapping[str, Any],
    rewards: Any,
    keep: Mapping[str, Any],
) -> str:
    wanted = command.splat(Data, 'data', data)
    choice = command.splat(Sampling, 'sampling', sampling)
    best = command.splat(Keep, 'keep', keep)
    if min(wanted.prompts, choice.n) < 1 or best.best < 0:
        raise command.UserError(
            f'data.prompts is {wanted.prompts}, sampling.n {choice.n} and keep.best '
            f'{best.best}; they are at least 1, 1 and 0.'
        )
    combined = rewards_table.combine(rewards)
    trained = build.load(Path(workdir))
    built = _opened(wanted.path, trained)
    source = prompts.Prompts(built, wanted.split, wanted.prompt_tokens)
    count = min(wanted.prompts, len(source))
    rows = prompts.stream(len(source), seed, np.arange(count)).tolist()
    made_by = {
        'seed': seed, 'sampling': sampling, 'rewards': rewards,
        'workdir': str(trained.workdir), 'step': trained.step,
        'dataset': built.manifest['digest'], 'split': wanted.split,
        'prompt_tokens': wanted.prompt_tokens,
    }  # fmt: skip
    engine = engine_lib.Engine(trained.model, trained.params, trained.tokenizer)
    output.parent.mkdir(parents=True, exist_ok=True)
    done = _done(
        output.with_name(output.name + '.samples.jsonl'),
        made_by,
        rows,
        max(1, engine_lib.BATCH // choice.n),
        lambda rows: _sampled(engine, source, rows, choice, seed, combined),
    )
    names = command.numbered([one['name'] for one in rewards])
    how = (
        f'{trained.workdir.resolve().name} at step {trained.step}, one of '
        f'{choice.n} by {", ".join(names)}, seed {seed}'
    )
    kept = {row: _kept(samples, best) for row, samples in done.items()}
    records = _records(built, wanted.split, source, kept, how)
    storage.write(output, _lines(records).encode())
    result = {'by': how, **_counts(done, kept)}
    storage.write_json(output.with_name(output.name + '.json'), result)
    return (
        f'{output}: {result["kept"]:,} of {result["samples"]:,} samples kept '
        f'({result["accept_share"]:.1%}), for {result["answered"]:,} of {count:,} '
        f'prompts; {result["invalid"]:,} had no reward'
    )


def _opened(path: str, trained: build.Trained) -> dataset.Dataset:
    built = dataset.open(path)
    if built.manifest['tokenizer']['digest'] != trained.tokenizer.digest:
        raise command.UserError(
            f'{path} has another tokenizer than {trained.workdir}; build it with '
            f'tokenizer=dict(name="folder", path="{trained.workdir}").'
        )
    if built.kind not in KINDS:
        raise command.UserError(
            f'{path} is a dataset of {built.kind}; prompts are taken from one of '
            f'{", ".join(KINDS)}.'
        )
    if built.kind != 'text' and trained.tokenizer.template:
        raise command.UserError(
            f'{path} has the chat template of another model, so that its prompts '
            'cannot be written as messages; take a model with our own format of chats.'
        )
    return built


def _done(
    path: Path,
    made_by: Mapping[str, Any],
    rows: Sequence[int],
    each: int,
    sampled: Callable[[Sequence[int]], list[list[Scored]]],
) -> dict[int, list[Scored]]:
    """The samples of each prompt; what `path` lacks is made, `each` prompts at once.

    It is appended there, after the settings that made it.
    """
    try:
        head, *lines = storage.read_lines(path) or [{'settings': made_by}]
        before = head['settings']
        done = {line['prompt']: line['samples'] for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise command.UserError(
            f'{path} is no file of samples ({error}); move it away.'
        ) from None
    other = [name for name in made_by if before.get(name) != made_by[name]]
    if other:
        raise command.UserError(
            f'{path} holds samples of other settings ({", ".join(other)}); move it '
            'away, or choose another --output.'
        )
    left = [row for row in rows if row not in done]
    with progress.stage('sampling', len(rows), 'prompts') as advance:
        advance(len(rows) - len(left))
        for start in range(0, len(left), each):
            asked = left[start : start + each]
            new = dict(zip(asked, sampled(asked), strict=True))
            done |= new
            lines = [{'prompt': row, 'samples': new[row]} for row in new]
            with path.open('a') as file:
                head = [] if file.tell() else [{'settings': made_by}]
                file.write(_lines([*head, *lines]))
            advance(len(new))
    return {row: done[row] for row in rows}


def _sampled(
    engine: engine_lib.Engine,
    source: prompts.Prompts,
    rows: Sequence[int],
    choice: Sampling,
    seed: int,
    combined: rewards_table.Combined,
) -> list[list[Scored]]:
    """n scored completions of each prompt, whose keys depend on nothing else."""
    options = dataclasses.asdict(choice)
    n = options.pop('n')
    asked = [source.prompt(row) for row in rows for _ in range(n)]
    names = [f'{seed}:{row}:{number}' for row in rows for number in range(n)]
    requests = [
        engine_lib.Request(tuple(one.tokens.tolist()), seed=_seed(name), **options)
        for one, name in zip(asked, names, strict=True)
    ]
    samples = [
        sample_lib.Sample(
            one.text,
            one.messages,
            said.text,
            one.reference,
            len(said.tokens),
            said.finish_reason == 'stop',
        )
        for one, said in zip(asked, engine.generate(requests), strict=True)
    ]
    told = sample_lib.told(*combined(samples))
    records = [
        {'completion': one.completion, 'tokens': one.tokens, 'ended': one.ended, **more}
        for one, more in zip(samples, told, strict=True)
    ]
    return [records[i : i + n] for i in range(0, len(records), n)]


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])


def _lines(records: Iterable[Any]) -> str:
    return ''.join(f'{json.dumps(one)}\n' for one in records)


def _kept(samples: Sequence[Scored], keep: Keep) -> list[Scored]:
    """The best ones first; of equal text only one."""
    least = -math.inf if keep.above is None else keep.above
    found: dict[str, Scored] = {}
    for one in samples:
        valid = one['reward'] is not None and one['reward'] > least
        if valid and one['completion'].strip():
            found.setdefault(one['completion'], one)
    best = sorted(found.values(), key=lambda one: -one['reward'])
    return best[: keep.best or None]


def _records(
    built: dataset.Dataset,
    split: str,
    source: prompts.Prompts,
    kept: Mapping[int, Sequence[Scored]],
    how: str,
) -> Iterator[dict[str, Any]]:
    """The kept ones as records of documents, in the order of the prompts."""
    wanted = {source.place(row) for row in kept}
    entries = {e.place: e for e in ledger.entries(built, split) if e.place in wanted}
    for row, samples in kept.items():
        prompt, entry = source.prompt(row), entries[source.place(row)]
        for number, one in enumerate(samples):
            said = one['completion']
            content: dict[str, Any] = {'text': prompt.text + said}
            if prompt.messages is not None:
                answer = {'role': 'assistant', 'content': said}
                content = {'messages': [*prompt.messages, answer]}
            rights = entry.evidence or 'its licence'
            origin = {name: getattr(entry, name) for name in ledger.ORIGIN} | {
                'id': documents.stable_id(f'sample:{number}:{how}:{entry.id}'),
                'source': f'sample:{entry.source}',
                'evidence': f'answer of {how}; prompt: {rights}',
            }
            steps = (*entry.steps, f'sample:{len(said):+d}')
            yield parts.record(
                documents.Document(**origin, **content, unit=entry.id, steps=steps)
            )


def _counts(
    done: Mapping[int, Sequence[Scored]], kept: Mapping[int, Sequence[Scored]]
) -> dict[str, Any]:
    rewards = [one['reward'] for samples in done.values() for one in samples]
    valid = [reward for reward in rewards if reward is not None]
    best = [one['reward'] for samples in kept.values() for one in samples]
    return {
        'prompts': len(done),
        'answered': sum(map(bool, kept.values())),
        'samples': len(rewards),
        'kept': len(best),
        'accept_share': len(best) / len(rewards),
        'invalid': len(rewards) - len(valid),
        'reward': float(np.mean(valid)) if valid else None,
        'reward_kept': float(np.mean(best)) if best else None,
    }
