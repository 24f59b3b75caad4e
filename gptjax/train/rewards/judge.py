"""A model behind an OpenAI-compatible endpoint as the judge of completions."""

from collections.abc import Mapping, Sequence
import math
from pathlib import Path
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from gptjax import command
from gptjax.data.augment import endpoint as endpoint_lib
from gptjax.train.rewards import sample as sample_lib

_FIELD = re.compile(r'\{(prompt|completion|reference)\}')


def judge(
    *,
    question: str,
    pattern: str,
    least: float,
    most: float,
    seed: int,
    answers: str,
    endpoint: Mapping[str, Any],
) -> sample_lib.Reward:
    """The score that a judge gives, from 0 at `least` to 1 at `most`.

    question: what it is asked, with {completion}, and perhaps {prompt} and {reference},
    in their places. pattern: a regular expression (RE2) with (?P<score>...) as its only
    group (others are (?:...)), whose first match in the answer counts. Without a match,
    with no number in it, or one that is not between `least` and `most`, there is no
    reward (NaN). answers: a file that keeps all answers, so that nothing is asked
    twice. endpoint: options of `Endpoint`. Raises UserError for wrong options, and
    where, when it is asked, the endpoint cannot be reached.
    """
    if '{completion}' not in question:
        raise command.UserError(
            f'a judge has question={question!r}; put {{completion}} where the '
            'completion belongs.'
        )
    if not least < most:
        raise command.UserError(
            f'a judge has least={least} and most={most}; the first is smaller.'
        )
    _scores(pattern, [''])
    path = Path(answers)
    path.parent.mkdir(parents=True, exist_ok=True)
    asks = command.splat(endpoint_lib.Endpoint, 'endpoint', endpoint, ledger=path)

    def reward(samples: Sequence[sample_lib.Sample]) -> np.ndarray:
        asked = [_filled(question, sample) for sample in samples]
        said = asks.ask(asked, [seed] * len(asked))
        scores = np.array(_scores(pattern, [one or '' for one in said]), np.float32)
        scores[~((scores >= least) & (scores <= most))] = math.nan
        return (scores - np.float32(least)) / np.float32(most - least)

    return reward


def _filled(question: str, sample: sample_lib.Sample) -> str:
    values = {
        'prompt': sample_lib.asked(sample),
        'completion': sample.completion,
        'reference': sample.reference,
    }
    return _FIELD.sub(lambda found: values[found[1]], question)


def _scores(pattern: str, said: Sequence[str]) -> list[float]:
    try:
        found = pyarrow.compute.extract_regex(pa.array(said, pa.string()), pattern)
        if [field.name for field in found.type] != ['score']:
            raise pa.ArrowInvalid('its groups are not (?P<score>...) alone')
    except pa.ArrowInvalid as error:
        raise command.UserError(
            f'a judge has pattern={pattern!r}, which cannot be used ({error}).'
        ) from None
    return [_number(one['score'] if one else '') for one in found.to_pylist()]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
