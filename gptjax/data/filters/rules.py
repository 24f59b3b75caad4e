"""Rules as data: measures of a page by name, and limits for them.

A limit is called 'NAME_least' or 'NAME_most' after the measure NAME, and so is the
reason of those that it rejects: an option, a rule and a count in the manifest have one
name. A named variant holds its published limits; an option of the step replaces one
(`words_least=10`), or turns it off (None).
"""

from collections.abc import Callable, Mapping
import dataclasses
from dataclasses import dataclass
import functools
from typing import Any

from gptjax import command
from gptjax.data import documents, steps
from gptjax.data.filters import page

Number = int | float
Measure = Callable[[page.Page], Number]
Limits = Mapping[str, Number | None]


@dataclass(frozen=True)
class Rules:
    """A step that rejects what is beyond a limit: the first, in the source's order."""

    measures: Mapping[str, Measure]
    limits: Limits

    def changed(self, step: str, limits: Mapping[str, Any]) -> 'Rules':
        """With other limits, as the function `changed` takes them."""
        return dataclasses.replace(self, limits=changed(step, self.limits, limits))

    def __call__(self, document: documents.Document) -> steps.Result:
        seen = page.page(document.whole)
        for rule, measure, most, limit in self._checks:
            value = measure(seen)
            if value > limit if most else value < limit:
                return documents.Reject(rule, float(value))
        return document

    @functools.cached_property
    def _checks(self) -> list[tuple[str, Measure, bool, Number]]:
        parts = [(*rule.rpartition('_'), limit) for rule, limit in self.limits.items()]
        return [
            (f'{name}_{side}', self.measures[name], side == 'most', limit)
            for name, _, side, limit in parts
            if limit is not None
        ]


def changed(step: str, published: Limits, limits: Mapping[str, Any]) -> Limits:
    """Published limits with others in the place of some, in the published order.

    Raises UserError for a limit that is not among them, or is no number.
    """
    for name, limit in limits.items():
        command.lookup(published, name, f'option of {step}')
        command.check_type(f'{step}.{name}', limit, float | None)
    return {**published, **limits}


def share(part: Number, whole: Number) -> float:
    """part / whole, and 0 of nothing."""
    return part / whole if whole else 0.0


def text_of(step: str, document: documents.Document) -> str:
    """The text of a document, for steps that drop lines. Raises UserError for none."""
    if document.text is None:
        raise command.UserError(
            f'{step} drops lines of texts, and {document.id} is of the kind '
            f'{document.kind!r}; leave the step out of this pipeline.'
        )
    return document.text
