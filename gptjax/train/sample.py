"""Best-of-n and rejection sampling: answers of a model, scored, the best ones kept.

Stiennon et al., "Learning to summarize from human feedback", 2020; Touvron et al.,
"Llama 2", 2023, section 3.2.3. What is kept is data to fine-tune on, as a .jsonl that
the corpus `chat` (of plain texts `text`) reads, with the licence of each prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
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
from gptjax.text import tokenizer as tokenizer_lib
from gptjax.train import build
from gptjax.train.rewards import sample as sample_lib
from gptjax.train.rewards import table as rewards_table

KINDS = ('text', 'chat', 'pairs')


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
    settings, another tokenizer, and where `output` was begun with other settings.
    """
    settings: dict[str, Any] = json.loads(config.to_json())
    data, sampling, keep = _sections(settings)
    combined = rewards_table.combine(settings['rewards'])
    trained = build.load(Path(settings['workdir']))
    built, source = _opened(data, trained)
    count = min(data.prompts, len(source))
    rows = prompts.stream(len(source), settings['seed'], np.arange(count)).tolist()
    made_by = {name: settings[name] for name in ('seed', 'sampling', 'rewards')}
    made_by |= {'workdir': str(trained.workdir), 'step': trained.step}
    made_by |= {'dataset': built.manifest['digest'], 'split': data.split}
    made_by |= {'prompt_tokens': data.prompt_tokens}
    output.parent.mkdir(parents=True, exist_ok=True)
    path = output.with_name(output.name + '.samples.jsonl')
    done = _begun(path, made_by)
    engine = engine_lib.Engine(trained.model, trained.params, trained.tokenizer)
    left = [row for row in rows if row not in done]
    each = max(1, engine_lib.BATCH // sampling.n)
    with progress.stage('sampling', count) as advance, path.open('a') as file:
        advance(count - len(left))
        for start in range(0, len(left), each):
            asked = left[start : start + each]
            found = _sampled(
                engine, source, asked, sampling, settings['seed'], combined
            )
            done.update(zip(asked, found, strict=True))
            lines = ({'prompt': row, 'samples': done[row]} for row in asked)
            file.writelines(f'{json.dumps(line)}\n' for line in lines)
            file.flush()
            advance(len(asked))
    names = command.numbered([one['name'] for one in settings['rewards']])
    how = (
        f'{trained.workdir.resolve().name} at step {trained.step}, one of '
        f'{sampling.n} by {", ".join(names)}, seed {settings["seed"]}'
    )
    kept = {row: _kept(done[row], keep) for row in rows}
    with tokenizer_lib.whole(output) as unfinished:
        records = _records(built, data.split, source, kept, how)
        unfinished.write_text(''.join(f'{json.dumps(one)}\n' for one in records))
    result = _counts([done[row] for row in rows], list(kept.values()))
    storage.write_json(output.with_name(output.name + '.json'), {**result, 'by': how})
    return (
        f'{output}: {result["kept"]:,} of {result["samples"]:,} samples kept '
        f'({result["accept_share"]:.1%}), for {result["answered"]:,} of {count:,} '
        f'prompts; {result["invalid"]:,} had no reward'
    )


def _sections(settings: Mapping[str, Any]) -> tuple[Data, Sampling, Keep]:
    needed = ('seed', 'workdir', 'data', 'sampling', 'rewards', 'keep')
    if set(settings) != set(needed):
        raise command.UserError(
            f'the config has {", ".join(settings)}; it needs {", ".join(needed)}.'
        )
    data = command.splat(Data, 'data', settings['data'])
    sampling = command.splat(Sampling, 'sampling', settings['sampling'])
    keep = command.splat(Keep, 'keep', settings['keep'])
    if min(data.prompts, sampling.n) < 1 or keep.best < 0:
        raise command.UserError(
            f'data.prompts is {data.prompts}, sampling.n {sampling.n} and keep.best '
            f'{keep.best}; they are at least 1, 1 and 0.'
        )
    return data, sampling, keep


def _opened(
    data: Data, trained: build.Trained
) -> tuple[dataset.Dataset, prompts.Prompts]:
    built = dataset.open(data.path)
    if built.manifest['tokenizer']['digest'] != trained.tokenizer.digest:
        raise command.UserError(
            f'{data.path} has another tokenizer than {trained.workdir}; build it with '
            f'tokenizer=dict(name="folder", path="{trained.workdir}").'
        )
    if built.kind not in KINDS:
        raise command.UserError(
            f'{data.path} is a dataset of {built.kind}; prompts are taken from one of '
            f'{", ".join(KINDS)}.'
        )
    return built, prompts.Prompts(built, data.split, data.prompt_tokens)


def _begun(path: Path, made_by: Mapping[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """The samples of each prompt that is done; a line that a kill cut off is cut."""
    if not path.exists():
        path.write_text(json.dumps({'settings': made_by}) + '\n')
    content = path.read_bytes()
    whole = content[: content.rfind(b'\n') + 1]
    with path.open('r+b') as file:
        file.truncate(len(whole))
    try:
        head, *lines = map(json.loads, whole.splitlines())
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
    return done


def _sampled(
    engine: engine_lib.Engine,
    source: prompts.Prompts,
    rows: Sequence[int],
    sampling: Sampling,
    seed: int,
    combined: rewards_table.Combined,
) -> list[list[dict[str, Any]]]:
    """n scored completions of each prompt, whose keys depend on nothing else."""
    n, asked = sampling.n, [source.prompt(row) for row in rows]
    requests = [
        engine_lib.Request(
            tuple(prompt.tokens.tolist()),
            sampling.max_tokens,
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            seed=_seed(f'{seed}:{row}:{number}'),
        )
        for row, prompt in zip(rows, asked, strict=True)
        for number in range(n)
    ]
    samples = [
        sample_lib.Sample(
            asked[i // n].text,
            asked[i // n].messages,
            completion.text,
            asked[i // n].reference,
            len(completion.tokens),
            completion.finish_reason == 'stop',
        )
        for i, completion in enumerate(engine.generate(requests))
    ]
    total, each = combined(samples)
    records = [
        {
            'completion': one.completion,
            'tokens': one.tokens,
            'ended': one.ended,
            'reward': _number(total[i]),
            'rewards': {name: _number(values[i]) for name, values in each.items()},
        }
        for i, one in enumerate(samples)
    ]
    return [records[i : i + n] for i in range(0, len(records), n)]


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _kept(samples: Sequence[Mapping[str, Any]], keep: Keep) -> list[dict[str, Any]]:
    """The best ones first; of equal text only one."""
    least = -math.inf if keep.above is None else keep.above
    found: dict[str, dict[str, Any]] = {}
    for one in samples:
        valid = one['reward'] is not None and one['reward'] > least
        if valid and one['completion'].strip():
            found.setdefault(one['completion'], dict(one))
    best = sorted(found.values(), key=lambda one: -one['reward'])
    return best[: keep.best or None]


def _records(
    built: dataset.Dataset,
    split: str,
    source: prompts.Prompts,
    kept: Mapping[int, Sequence[Mapping[str, Any]]],
    how: str,
) -> Iterator[dict[str, Any]]:
    """The kept ones as records of documents, in the order of the prompts."""
    wanted = {source.place(row) for row in kept}
    entries = {e.place: e for e in ledger.entries(built, split) if e.place in wanted}
    for row, samples in kept.items():
        prompt, entry = source.prompt(row), entries[source.place(row)]
        if built.kind != 'text' and prompt.messages is None and samples:
            raise command.UserError(
                f'{built.folder} has the chat template of another model, so that its '
                'prompts cannot be written as messages; build it with our own format.'
            )
        for number, one in enumerate(samples):
            said = one['completion']
            content: dict[str, Any] = {'text': prompt.text + said}
            if prompt.messages is not None:
                answer = {'role': 'assistant', 'content': said}
                content = {'messages': [*prompt.messages, answer]}
            made = documents.Document(
                documents.stable_id(f'sample:{number}:{how}:{entry.id}'),
                f'sample:{entry.source}',
                entry.licence,
                unit=entry.id,
                evidence=f'answer of {how}; prompt: {entry.evidence or "its licence"}',
                steps=(*entry.steps, f'sample:{len(said):+d}'),
                **content,
            )
            yield parts.record(made)


def _counts(
    samples: Sequence[Sequence[Mapping[str, Any]]],
    kept: Sequence[Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    rewards = [one['reward'] for group in samples for one in group]
    valid = [reward for reward in rewards if reward is not None]
    best = [one['reward'] for group in kept for one in group]
    return {
        'prompts': len(samples),
        'answered': sum(map(bool, kept)),
        'samples': len(rewards),
        'kept': len(best),
        'accept_share': len(best) / len(rewards),
        'invalid': len(rewards) - len(valid),
        'reward': sum(valid) / len(valid) if valid else None,
        'reward_kept': sum(best) / len(best) if best else None,
    }
