"""New instructions out of a few: a model writes tasks, then examples of them.

Wang et al., "Self-Instruct: aligning language models with self-generated instructions",
2022, section 2.2: eight examples in each prompt, six of people and two of its own; what
is like an earlier instruction (ROUGE-L of 0.7 or more) is left out; for a task with a
few possible answers the answer is written before the input.
"""

from collections.abc import Iterator, Sequence
import json
from pathlib import Path
import random
import re

from gptjax import command
from gptjax.data import documents, progress
from gptjax.data.augment.endpoint import Endpoint

_OF_PEOPLE, _OWN = 6, 2
# What a model of text cannot do or see (appendix A.1).
_UNFIT = re.compile(r'\b(images?|graphs?|pictures?|files?|maps?|draw|plot|go to)\b')
_ITEM = re.compile(r'^[ \t]*\d+[.)][ \t]*(.+)$', re.MULTILINE)
_KIND = (
    'Is this a classification task, whose answer is one of a few labels? Answer yes or '
    'no.\n\nTask: {}'
)
_EXAMPLE = 'Write one example of this task: {}.\n\nTask: {}'
_ORDER = {  # by whether it is one
    True: "first 'Output:' and one of the labels, then 'Input:' and an input of it",
    False: "first 'Input:' and an input, or none if none is needed, then 'Output:' and "
    'the answer',
}
_FIELD = r'{}:(.*?)(?=\n(?:Input|Output):|\Z)'


def self_instruct(
    ask: Endpoint,
    *,
    seed: int,
    tasks: str,
    licence: str,
    count: int,
    rounds: int,
    novelty: float,
) -> Iterator[documents.Document]:
    """At most `count` conversations of one question and its answer.

    tasks: a .jsonl of the seed tasks, `{"instruction": ...}` a line. licence: theirs.
    rounds: of at most `at_once` prompts each. novelty: the ROUGE-L from which on an
    instruction is like another (the paper has 0.7). Raises UserError for too few tasks.
    """
    if not 0 < novelty <= 1:
        raise command.UserError(f'method.novelty is {novelty}; it is above 0, to 1.')
    people = _tasks(tasks)
    pool = [_tokens(one) for one in people]
    own: list[str] = []
    made = 0
    for number in range(rounds):
        draw = random.Random(f'{seed}:{number}')
        prompts = [_more(people, own, draw) for _ in range(ask.at_once)]
        answers = ask.ask(prompts, [draw.getrandbits(31) for _ in prompts])
        new = []
        text = '\n'.join(answer or '' for answer in answers)
        for one in map(str.strip, _ITEM.findall(text)):
            tokens = _tokens(one)
            if _fits(one, tokens) and all(rouge_l(tokens, p) < novelty for p in pool):
                pool.append(tokens)
                new.append(one)
        new = new[: count - made]
        own += new
        seeds = [seed] * len(new)
        kinds = ask.ask([_KIND.format(one) for one in new], seeds)
        examples = [
            _EXAMPLE.format(_ORDER['yes' in (kind or '').lower()[:5]], one)
            for one, kind in zip(new, kinds, strict=True)
        ]
        for one, answer in zip(new, ask.ask(examples, seeds), strict=True):
            found = _document(one, answer or '', ask.model, licence, Path(tasks).name)
            if found is not None:
                made += 1
                yield found
        if made >= count:
            return
    progress.say(f'self_instruct: {made} of {count} after {rounds} rounds')


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """The F-measure of the longest common subsequence (Lin, 2004, section 3).

    By a row of the table at a time as one integer (Hyyrö, 2004).
    """
    where: dict[str, int] = {}
    for i, token in enumerate(a):
        where[token] = where.get(token, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for token in b:
        hit = row & where.get(token, 0)
        row = (row + hit | row - hit) & full
    common = len(a) - row.bit_count()
    return 2 * common / (len(a) + len(b)) if common else 0.0


def _tasks(path: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding='utf-8').splitlines()
        found = [str(json.loads(line)['instruction']) for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise command.UserError(
            f'method.tasks is {path!r}, which cannot be read ({error}); each line is '
            '{"instruction": ...}.'
        ) from None
    if len(found) < _OF_PEOPLE + _OWN:
        raise command.UserError(
            f'{path} has {len(found)} tasks; a prompt takes {_OF_PEOPLE + _OWN}.'
        )
    return found


def _tokens(text: str) -> list[str]:
    return re.findall(r'\w+', text.lower())


def _fits(instruction: str, tokens: Sequence[str]) -> bool:
    """Three to 150 words, of what a model of text can do (appendix A.1)."""
    fits = 3 <= len(tokens) <= 150 and instruction[:1].isalnum()
    return fits and not _UNFIT.search(instruction.lower())


def _more(people: Sequence[str], own: Sequence[str], draw: random.Random) -> str:
    mine = draw.sample(own, min(_OWN, len(own)))
    shown = draw.sample(people, _OF_PEOPLE + _OWN - len(mine)) + mine
    draw.shuffle(shown)
    listed = '\n'.join(f'{i}. {" ".join(s.split())}' for i, s in enumerate(shown, 1))
    return (
        'Here is a list of tasks for an assistant. Go on with eight more, numbered '
        f'likewise, each of another kind, one a line.\n\n{listed}'
    )


def _document(
    instruction: str, answer: str, model: str, licence: str, tasks: str
) -> documents.Document | None:
    """The example as a conversation; None where its answer cannot be read."""
    fields = (_FIELD.format(name) for name in ('Input', 'Output'))
    found = (re.search(field, answer, re.DOTALL) for field in fields)
    given, output = (match[1].strip() if match else '' for match in found)
    if not output or given == output:
        return None
    if given.lower().strip('.()[]') in ('', 'none'):
        given = ''
    question = f'{instruction}\n\n{given}' if given else instruction
    return documents.Document(
        documents.stable_id(f'self_instruct:{question}'),
        f'augment:self_instruct/{model}',
        licence,
        messages=[
            {'role': 'user', 'content': question},
            {'role': 'assistant', 'content': output},
        ],
        evidence=f'made by {model} after the tasks of {tasks}',
        steps=(f'self_instruct:{len(question) + len(output):+d}',),
    )
