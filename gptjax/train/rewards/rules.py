"""Rewards by rule: pure functions of one completion."""

import collections
from collections.abc import Callable, Sequence
from fractions import Fraction
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute

from gptjax import command
from gptjax.train.rewards.sample import Reward, Sample

_DIGITS = r'(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+'
_NUMBER = re.compile(
    rf'(?P<sign>(?<![\w.)])[-\u2212])?(?:\$(?P<minus>-)?)?(?P<over>{_DIGITS})'
    rf'(?:[ ]?/[ ]?(?P<under>{_DIGITS}))?'
)
# Before the answer in GSM8K (Cobbe et al., 2021); also before headings in Markdown.
_MARKED = re.compile(rf'####[ \t]*{_NUMBER.pattern}')
_LONGEST = 100  # characters of a number
# Thai to Burmese, Khmer, and all from CJK on: no spaces stand between words.
_APART = r'\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\U0010ffff'
_WORD = re.compile(rf'[^\W{_APART}]+|\w')
_RUN = re.compile(rf'[^\s{_APART}]+|\S')


def length(*, least: int, most: int, slope: float) -> Reward:
    """0 from `least` to `most` tokens, and `slope` less for each outside, to -1.

    slope = 1 / margin with most = limit - margin is the soft punishment of answers that
    are too long (Yu et al., "DAPO", 2025, eq. 13).
    """
    if not (0 <= least <= most and 0 < slope < math.inf):
        raise command.UserError(
            f'a reward has least={least}, most={most} and slope={slope}; it needs '
            '0 <= least <= most, and a slope above 0.'
        )

    def reward(sample: Sample) -> float:
        outside = max(least - sample.tokens, sample.tokens - most, 0)
        return -min(slope * outside, 1.0)

    return _each(reward)


def format(*, pattern: str, whole: bool) -> Reward:
    """1 where the completion matches a regular expression, all of it or a part.

    The syntax is RE2's: no pattern takes more than linear time, and there are neither
    backreferences nor lookarounds; `.` is no line break, but after (?s).
    """
    text = rf'\A(?:{pattern})\z' if whole else pattern

    def reward(samples: Sequence[Sample]) -> np.ndarray:
        completions = pa.array([s.completion for s in samples], pa.string())
        found = pyarrow.compute.match_substring_regex(completions, text)
        return found.to_numpy(zero_copy_only=False).astype(np.float32)

    try:
        reward([Sample('', None, '', '', 0, True)])
    except pa.ArrowInvalid as error:
        raise command.UserError(
            f'a reward has pattern={pattern!r}, which is no regular expression of RE2 '
            f'({error}); it has neither backreferences nor lookarounds.'
        ) from None
    return reward


def ended() -> Reward:
    """1 where the completion ends by itself, 0 where it was cut at the limit."""
    return _each(lambda sample: float(sample.ended))


def repetition(*, words: int) -> Reward:
    """Minus the share of runs of so many words that stood before: -1 to 0.

    Of scripts without spaces between words, a character is a word; as in `overlap`.
    """
    if words < 1:
        raise command.UserError(f'a reward has words={words}; it needs at least 1.')

    def reward(sample: Sample) -> float:
        said = _RUN.findall(sample.completion)
        runs = list(zip(*(said[i:] for i in range(words)), strict=False))
        return len(set(runs)) / len(runs) - 1 if runs else 0.0

    return _each(reward)


def contains(*, texts: Sequence[str] | None, ignore_case: bool) -> Reward:
    """The share of `texts` that the completion contains; None is the true answer."""
    if texts is not None and (isinstance(texts, str) or not all(texts) or not texts):
        raise command.UserError(
            f'a reward has texts={texts!r}; it needs some that are not empty, or None '
            'for the true answer of each prompt.'
        )

    def fold(text: str) -> str:
        return text.casefold() if ignore_case else text

    def reward(sample: Sample) -> float:
        wanted = (sample.reference,) if texts is None else texts
        if not all(wanted):
            return math.nan
        said = fold(sample.completion)
        return sum(fold(text) in said for text in wanted) / len(wanted)

    return _each(reward)


def overlap() -> Reward:
    """The F1 of the words shared with the true answer, each as often as it stands.

    It is ROUGE-1 (Lin, 2004) without stemming; NaN where the true answer has no word.
    """

    def reward(sample: Sample) -> float:
        wanted, said = (
            collections.Counter(_WORD.findall(text.casefold()))
            for text in (sample.reference, sample.completion)
        )
        if not wanted:
            return math.nan
        return 2 * (wanted & said).total() / (wanted.total() + said.total())

    return _each(reward)


def answer(*, strict: bool) -> Reward:
    """1 where the number that the completion comes to equals that of the true answer.

    It is the first one right after a '####'; where there is none, the last one in the
    text, or, if `strict`, no answer: the strict and the flexible reading of GSM8K in
    lm-evaluation-harness. But numbers are compared as such, not as text: $1,234.50 is
    1234.5, 18.00 is 18, and 1/2 is 0.5; what stands behind them (%, units) is not read.
    NaN where the true answer has no number.
    """

    def reward(sample: Sample) -> float:
        wanted = number(sample.reference, strict=False)
        if wanted is None:
            return math.nan
        return float(number(sample.completion, strict) == wanted)

    return _each(reward)


def number(text: str, strict: bool) -> Fraction | None:
    """The number that a solution comes to, see `answer`; None where it has none."""
    found = _MARKED.search(text)
    if found is None and not strict:
        *_, found = None, *_NUMBER.finditer(text)
    if found is None or len(found[0]) > _LONGEST:
        return None
    over, under = (
        Fraction((found[name] or '1').replace(',', '')) for name in ('over', 'under')
    )
    negative = found['sign'] or found['minus']
    return (-over if negative else over) / under if under else None


def _each(rule: Callable[[Sample], float]) -> Reward:
    def reward(samples: Sequence[Sample]) -> np.ndarray:
        return np.array([rule(sample) for sample in samples], np.float32)

    return reward
